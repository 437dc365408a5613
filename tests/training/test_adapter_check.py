"""An adapter is saved only if training changed it, with its provenance, and must repeat its loss when it is read back."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from mistral_lib.model import base_model
from mistral_lib.run import disk, files
from mistral_lib.run.settings import Settings
from mistral_lib.training import adapter_check, checkpoints
from mistral_lib.training.adapter_check import TrainingFailedError

NUMBERS = {"records": 9, "blocks": 4, "block_tokens": 512, "supervised_tokens": 700, "steps": 2, "adapter_step": 2, "blocks_per_step": 2}


@pytest.mark.parametrize("repeated", [2.0, 2.0019, 1.9981])
def test_a_loss_within_a_thousandth_is_the_same(repeated: float) -> None:
    adapter_check.require_same(repeated, 2.0)
    adapter_check.require_same(0.0, 0.0)


@pytest.mark.parametrize("repeated", [2.0021, 1.9979, 4.0, 0.0, math.nan, math.inf])
def test_another_loss_is_refused_with_both_numbers(repeated: float) -> None:
    with pytest.raises(
        TrainingFailedError, match=rf"has a validation loss of {repeated:.5f}, the trained one had 2\.00000: what was saved"
    ):
        adapter_check.require_same(repeated, 2.0)


@pytest.fixture(scope="module")
def settings(tiny_model: str) -> Settings:
    return Settings(base_model=tiny_model, quantization="none", dtype="float32", lora_rank=2, lora_targets="q_proj", learning_rate=0.25)


@pytest.fixture
def model(settings: Settings) -> Any:
    return base_model.attach_lora(base_model.load_base(settings), settings)


def lora(model: Any, part: str) -> torch.Tensor:
    return next(p for name, p in model.named_parameters() if f"lora_{part}" in name).data


def test_only_a_finite_adapter_that_changed_is_accepted(model: Any) -> None:
    initial = base_model.adapter_hash(model)
    with pytest.raises(TrainingFailedError, match="the adapter is what it was before training"):
        adapter_check.verify(model, initial)
    lora(model, "B")[0, 0] = 1.0
    adapter_check.verify(model, initial)
    for broken in (math.nan, math.inf, -math.inf):
        lora(model, "A")[0, 0] = broken
        with pytest.raises(TrainingFailedError, match=r"^1 of 4 adapter tensors hold NaN or infinity \(.*layers\.0\..*lora_A"):
            adapter_check.verify(model, initial)
    for name, parameter in model.named_parameters():
        parameter.data += math.nan if "lora_A" in name else 0.0
    with pytest.raises(TrainingFailedError, match=r"^2 of 4 adapter tensors hold NaN or infinity \(.*layers\.0\."):
        adapter_check.verify(model, initial)
    for part in (p for name, p in model.named_parameters() if "lora_A" in name):
        part.data.fill_(0.5)
    frozen = next(p for name, p in model.named_parameters() if "lora_" not in name)
    frozen.data[0] = math.nan
    adapter_check.verify(model, initial)  # the base model is not what was trained


def test_an_adapter_is_saved_with_its_provenance_over_a_leftover(model: Any, settings: Settings, tmp_path: Path) -> None:
    initial = base_model.adapter_hash(model)
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "leftover").write_text("of an attempt that was killed")
    with pytest.raises(TrainingFailedError, match="before training"):
        adapter_check.save(model, settings, tmp_path, initial, NUMBERS)
    assert (tmp_path / "adapter" / "leftover").exists(), "nothing is replaced by an adapter that is not worth keeping"
    lora(model, "B").fill_(0.25)
    place = adapter_check.save(model, settings, tmp_path, initial, NUMBERS)
    assert place == tmp_path / "adapter" and [path.name for path in tmp_path.iterdir()] == ["adapter"]
    assert not (place / "leftover").exists() and (place / "adapter_config.json").is_file()
    provenance = json.loads((place / "provenance.json").read_text())
    assert provenance["weights_sha256"] == files.sha256(place / "adapter_model.safetensors")
    assert provenance["initial_adapter_sha256"] == initial
    assert provenance["base_identity"] == base_model.fingerprint(settings.base_model) != ""
    assert provenance["parameters"]["learning_rate"] == 0.25 and provenance["parameters"]["lora_rank"] == 2
    fresh = base_model.attach_lora(base_model.load_base(settings), settings)
    assert base_model.adapter_hash(fresh) != base_model.adapter_hash(model)
    checkpoints.load_weights(fresh, place)
    assert base_model.adapter_hash(fresh) == base_model.adapter_hash(model), "what is on disk is what was trained"


def test_without_room_nothing_is_written(model: Any, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    initial = base_model.adapter_hash(model)
    lora(model, "B").fill_(0.25)
    monkeypatch.setattr(disk, "RESERVE", 2**60)
    with pytest.raises(disk.DiskFullError, match=r"no room on disk for the adapter: .*The checkpoints are complete\."):
        adapter_check.save(model, settings, tmp_path, initial, NUMBERS)
    assert list(tmp_path.iterdir()) == []
