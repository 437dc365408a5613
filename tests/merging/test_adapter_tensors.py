"""Every tensor and setting of an adapter counts as peft counts it, or is refused by its name."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mistral_lib.merging import adapter_tensors, merged_weights
from mistral_lib.merging.adapter_tensors import Adapter, MergeError
from mistral_lib.model import model_folder
from mistral_lib.run import files
from tests.support import sharded_model


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return sharded_model.save(tmp_path_factory.mktemp("base") / "base", hidden=64, layers=2)


@pytest.fixture
def adapter(base: Path, tmp_path: Path) -> Path:
    return sharded_model.adapter(tmp_path / "adapter", base)


def configure(folder: Path, **settings: Any) -> None:
    files.write_json(folder / "adapter_config.json", {**files.read_json(folder / "adapter_config.json"), **settings})


def made_by_peft(base: Path, folder: Path, **settings: Any) -> Any:
    """An adapter with random weights, saved to `folder`; returns the model with it."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    torch.manual_seed(3)
    settings = {"r": 4, "lora_alpha": 12, "target_modules": "all-linear", "init_lora_weights": False, **settings}
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), LoraConfig(task_type="CAUSAL_LM", **settings))
    model.save_pretrained(folder, save_embedding_layers=False)
    return model


PATTERNS = {"rank_pattern": {"q_proj": 8, r"model\.layers\.1\.mlp\..*": 2}, "alpha_pattern": {"layers.0.self_attn.q_proj": 5, "k_proj": 1}}


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"use_rslora": True},
        PATTERNS,
        {**PATTERNS, "use_rslora": True},
        {"target_modules": ["q_proj", "up_proj"], "layers_to_transform": [1]},
        {"target_modules": r".*\.(k_proj|down_proj)"},
        {"exclude_modules": ["o_proj"]},
        {"target_modules": ["v_proj", "lm_head"]},
    ],
)
def test_the_products_are_those_of_peft(base: Path, tmp_path: Path, settings: dict[str, Any]) -> None:
    model = made_by_peft(base, tmp_path / "adapter", **settings)
    layers = {f"{name}.weight": module for name, module in model.get_base_model().named_modules() if hasattr(module, "lora_A")}
    with Adapter(tmp_path / "adapter") as found:
        assert found.modules.keys() == layers.keys()
        assert all(torch.equal(found.product(name), layer.get_delta_weight("default")) for name, layer in layers.items())
        merged_weights.planned(base, found)  # it fits


def test_an_adapter_in_bfloat16_counts_in_float32_as_peft_loads_it(base: Path, adapter: Path, tmp_path: Path) -> None:
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    tensors = {name: tensor.bfloat16() for name, tensor in load_file(adapter / "adapter_model.safetensors").items()}
    save_file(tensors, adapter / "adapter_model.safetensors")
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16), str(adapter))
    name = "model.layers.1.mlp.up_proj"
    with Adapter(adapter) as found:
        assert torch.equal(found.product(f"{name}.weight"), model.get_base_model().get_submodule(name).get_delta_weight("default"))


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("peft_type", "LOHA"),
        ("use_dora", True),
        ("bias", "lora_only"),
        ("modules_to_save", ["lm_head"]),
        ("lora_bias", True),
        ("fan_in_fan_out", True),
        ("trainable_token_indices", [3]),
        ("target_parameters", ["experts.gate_up_proj"]),
        ("layer_replication", [[0, 2]]),
        ("alora_invocation_tokens", [1, 2]),
        ("use_qalora", True),
        ("init_lora_weights", "pissa_niter_4"),
        ("init_lora_weights", "olora"),
        ("a_setting_of_next_year", 0.5),
    ],
)
def test_a_setting_that_adds_something_else_is_refused_by_name(adapter: Path, setting: str, value: Any) -> None:
    configure(adapter, **{setting: value})
    with pytest.raises(MergeError, match=rf"adapter cannot be merged:\n  adapter_config\.json: {setting} = "):
        Adapter(adapter)


@pytest.mark.parametrize("start", ["gaussian", "eva", "orthogonal", True, False])
def test_how_the_adapter_began_does_not_matter_if_the_base_model_was_left_alone(adapter: Path, start: Any) -> None:
    configure(adapter, init_lora_weights=start)
    Adapter(adapter)


def test_the_settings_of_this_peft_are_all_known(adapter: Path) -> None:
    """A new version may add one whose default is not `off`."""
    from peft import LoraConfig

    assert adapter_tensors.unsupported({**LoraConfig().to_dict(), "peft_type": "LORA"}) == []


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"target_modules": ["embed_tokens"]}])
def test_tensors_of_other_methods_are_refused_even_if_the_configuration_hides_them(
    base: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    made_by_peft(base, tmp_path / "adapter", **settings)
    configure(tmp_path / "adapter", use_dora=False, modules_to_save=None)
    with pytest.raises(
        MergeError, match=r"base_model\.model\..*(magnitude|lm_head|embedding).*: not a tensor of plain LoRA on a linear layer"
    ):
        Adapter(tmp_path / "adapter")


UP = "base_model.model.model.layers.1.mlp.up_proj"


def without_one(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{UP}.lora_B.weight"]


def without_pair(tensors: dict[str, torch.Tensor]) -> None:
    del tensors[f"{UP}.lora_A.weight"], tensors[f"{UP}.lora_B.weight"]


def other_rank(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{UP}.lora_A.weight"] = torch.zeros(4, 64)
    tensors[f"{UP}.lora_B.weight"] = torch.zeros(224, 4)


def exchanged(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{UP}.lora_A.weight"], tensors[f"{UP}.lora_B.weight"] = tensors[f"{UP}.lora_B.weight"], tensors[f"{UP}.lora_A.weight"]


def elsewhere(tensors: dict[str, torch.Tensor]) -> None:
    for letter in "AB":
        tensors[f"base_model.model.model.layers.7.mlp.up_proj.lora_{letter}.weight"] = tensors[f"{UP}.lora_{letter}.weight"]


def integers(tensors: dict[str, torch.Tensor]) -> None:
    tensors[f"{UP}.lora_A.weight"] = torch.zeros(8, 64, dtype=torch.int8)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (without_one, r"up_proj\.lora_B\.weight: missing, although the other one of the pair is there"),
        (without_pair, r"targets model\.layers\.1\.mlp\.up_proj\.weight, but adapter_model\.safetensors has no tensors for it"),
        (other_rank, r"up_proj\.lora_A\.weight: B, A are \[224, 4\], \[4, 64\]; expected \[224, 8\], \[8, 64\] for .* at rank 8"),
        (exchanged, r"up_proj\.lora_A\.weight: B, A are \[8, 64\], \[224, 8\]; expected \[224, 8\], \[8, 64\]"),
        (elsewhere, r"layers\.7\.mlp\.up_proj\.lora_A\.weight: the base model has no weight model\.layers\.7\.mlp\.up_proj\.weight"),
        (integers, r"up_proj\.lora_A\.weight: is I8; expected one of F32, F16, BF16"),
    ],
)
def test_an_adapter_that_does_not_fit_is_refused_by_the_name_of_the_tensor(
    base: Path, adapter: Path, change: Callable[[dict[str, torch.Tensor]], None], expected: str
) -> None:
    tensors = load_file(adapter / "adapter_model.safetensors")
    change(tensors)
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, adapter / "adapter_model.safetensors")
    with pytest.raises(MergeError, match=expected), Adapter(adapter) as found:
        merged_weights.planned(base, found)


def test_many_faults_are_reported_at_once_but_not_all(base: Path, adapter: Path, tmp_path: Path) -> None:
    other = sharded_model.save(tmp_path / "other", hidden=128, layers=2)
    with pytest.raises(MergeError, match=r"(?s)^((?!\n\n).)*and 6 more\ntake the base model") as error, Adapter(adapter) as found:
        merged_weights.planned(other, found)
    assert str(error.value).count("expected [") == 8


@pytest.mark.parametrize("name", ["adapter_config.json", "adapter_model.safetensors"])
def test_a_missing_file_is_named(adapter: Path, name: str) -> None:
    (adapter / name).unlink()
    with pytest.raises(MergeError, match=rf"{name} is missing; expected a folder that peft saved"):
        Adapter(adapter)


COMMIT = "0123456789abcdef" * 2 + "01234567"


@pytest.mark.parametrize(
    ("trained_on", "folder", "expected"),
    [
        (None, "base", ""),
        ("its fingerprint", "base", ""),
        ("its fingerprint", COMMIT, ""),
        (COMMIT, COMMIT, ""),
        (COMMIT, "a copy of it", ""),
        ("f" * 64, "base", "trained on the base model ffffffffffff; .*base is [0-9a-f]{12}\ntake the base model that"),
        ("f" * 40, COMMIT, f"trained on the base model ffffffffffff; .* is {COMMIT[:12]}\n"),
    ],
)
def test_another_base_model_than_that_of_the_training_is_refused(
    base: Path, adapter: Path, tmp_path: Path, trained_on: str | None, folder: str, expected: str
) -> None:
    place = shutil.copytree(base, tmp_path / folder)
    fingerprint = model_folder.fingerprint(place)
    identity = fingerprint if trained_on == "its fingerprint" else trained_on
    if identity:
        files.write_json(adapter / "provenance.json", {"base_identity": identity})
    with Adapter(adapter) as found:
        if expected:
            with pytest.raises(MergeError, match=expected):
                found.require_base(place)
        else:
            assert found.require_base(place) == fingerprint
