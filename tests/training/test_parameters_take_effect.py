"""Every parameter of the training stage has its effect: each is changed alone, and the test looks at what it should change.

A new training parameter fails here until EFFECTS describes its effect.
"""

import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from mistral_lib.run import Run, files
from mistral_lib.run.settings import Settings
from mistral_lib.training import train
from mistral_lib.training.stopping import StopSignal
from tests.support.corpora import other

# parameter: (another value, the observation that changes with it, parameters set for both values)
EFFECTS: dict[str, tuple[Any, str, dict[str, Any]]] = {
    "seed": (43, "initial_adapter", {}),
    "base_model": (None, "baseline", {}),  # None: the second model that the test makes
    "order": ("operatives_last", "losses", {}),
    "instance": ("g5.xlarge", "usd", {}),
    "quantization": ("none", "four_bit_layers", {}),
    "dtype": ("bfloat16", "dtypes", {}),
    "lora_rank": (8, "ranks", {}),
    "lora_alpha": (64, "scalings", {}),
    "lora_dropout": (0.3, "losses", {"warmup_share": 0.0}),
    "lora_targets": ("q_proj,v_proj", "adapted", {}),
    "learning_rate": (1e-3, "learning_rates", {}),
    "warmup_share": (0.0, "learning_rates", {}),
    "epochs": (0.04, "steps", {"max_steps": 0, "epochs": 0.02}),
    "max_steps": (3, "steps", {}),
    "micro_batch_size": (1, "batch", {}),
    "gradient_accumulation_steps": (2, "batch", {}),
    "blocks_per_step": (4, "batch", {"gradient_accumulation_steps": "auto"}),
    "activation_checkpointing": (True, "checkpointing_layers", {}),
    "checkpoint_every_steps": (1, "checkpoints", {}),
    "validate_every_steps": (1, "validations", {"validate_every_steps": 0}),
    "early_stopping_patience": (
        1,
        "stopped_by",
        {"learning_rate": 0.5, "lora_alpha": 1000, "max_steps": 24, "validate_every_steps": 1, "warmup_share": 0.0},
    ),
    "max_hours": (1e-7, "stopped_by", {"max_steps": 3}),
    "max_usd": (1e-9, "stopped_by", {"max_steps": 3, "instance": "g5.xlarge"}),
    "max_validation_tokens": (256, "measured_blocks", {}),
}


class Observed(train.Training):
    """The training itself, which keeps its model so that the test can inspect it."""

    def build(self) -> tuple[Any, str]:
        self.model, self.initial = super().build()
        return self.model, self.initial


def looked_at(model: Any) -> dict[str, Any]:
    from bitsandbytes.nn import Linear4bit
    from peft.tuners.lora.layer import LoraLayer

    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    return {
        "four_bit_layers": sum(isinstance(m, Linear4bit) for m in model.modules()),
        "dtypes": sorted({str(p.dtype) for p in model.parameters() if p.is_floating_point()}),
        "ranks": {m.r["default"] for m in layers.values()},
        "scalings": {m.scaling["default"] for m in layers.values()},
        "adapted": sorted(layers),
        "checkpointing_layers": sum(getattr(m, "gradient_checkpointing", False) for m in model.modules()),
    }


def observe(run: Run, folder: Path) -> dict[str, Any]:
    """All observations of one complete training: its model, its log, its result, its checkpoints."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        stage = Observed(run, folder, train.TrainingLog(folder / "log.jsonl"), StopSignal(), "a test")
        result = stage.train_all()
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    events = files.read_json_lines(folder / "log.jsonl")
    steps = [event for event in events if event["event"] == "step"]
    return {
        **looked_at(stage.model),
        "initial_adapter": stage.initial,
        "baseline": result["validation_loss"]["base"],
        "losses": [step["loss"] for step in steps],
        "learning_rates": [step["learning_rate"] for step in steps],
        "steps": len(steps),
        "usd": result["usd"] > 0,
        "batch": (result["micro_batch_size"], result["gradient_accumulation_steps"], [step["loss"] for step in steps]),
        "checkpoints": sorted(path.name for path in (folder / "checkpoints").glob("checkpoint-*")),
        "validations": len(result["validation_curve"]),
        "stopped_by": result["stopped_by"],
        "measured_blocks": next(event["blocks"] for event in events if event["event"] == "measuring"),
    }


def test_every_training_parameter_has_its_effect_described() -> None:
    training_parameters = set(Settings().stage("training"))
    assert training_parameters - set(EFFECTS) == set(), "add the effect of each of these to EFFECTS"
    assert set(EFFECTS) - training_parameters == set(), "these are no longer training parameters"


@pytest.fixture(scope="module")
def second_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tiny model with other weights."""
    from transformers import MistralConfig, MistralForCausalLM

    from mistral_lib.model import base_model

    torch.manual_seed(1)
    folder = tmp_path_factory.mktemp("models") / "second"
    MistralForCausalLM(MistralConfig.from_pretrained(tiny_model)).save_pretrained(folder)
    base_model.load_tokenizer(tiny_model).save_pretrained(folder)
    return str(folder)


@pytest.mark.long
def test_each_training_parameter_takes_effect(prepared: Run, second_model: str, tmp_path: Path) -> None:
    plain = {"max_steps": 2, "checkpoint_every_steps": 2, "validate_every_steps": 0, "dtype": "float32", "warmup_share": 0.5,
             "max_validation_tokens": 512}  # fmt: skip
    seen: dict[str, dict[str, Any]] = {}
    without_effect = []
    for name, (value, shown_by, together) in EFFECTS.items():
        start = {**plain, **together}
        key = str(sorted(together.items()))
        if key not in seen:
            seen[key] = observe(other(prepared, **start), tmp_path / f"before_{name}")
        changed = observe(other(prepared, **{**start, name: second_model if name == "base_model" else value}), tmp_path / name)
        if changed[shown_by] == seen[key][shown_by]:
            without_effect.append(f"{name} = {value!r} leaves {shown_by} at {changed[shown_by]!r}")
    assert without_effect == []
