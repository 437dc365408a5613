"""How long a training takes and what it costs: floating-point operations from the model's shapes, over rates that were attained.

The rates stand in params/instances.yaml as a lowest and a highest one, so every time is a range. docs/fit_plan.md says
where they come from.
"""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.model.model_shapes import checkpoint_bytes, linear_parameters
from mistral_lib.run import files, paths
from mistral_lib.run.settings import Settings

DISK_GB_PER_SECOND = (0.1, 1.0)  # reading the base model: a plain network volume, a fast local one
LOADS = 2  # base model at the start and for the proof
NF4_TRAFFIC = 4.5  # bytes moved to dequantise a weight: half a byte read, two written, two read again


@dataclass(frozen=True)
class Work:
    """What is to be trained on, and how."""

    train_tokens: int  # of all epochs together, padding of packed blocks included
    validation_tokens: int  # that are measured
    supervised_share: float
    steps: int  # optimizer steps
    validations: int  # during training
    origin: str  # where the counts come from


def forward_flops(config: Any, max_tokens: int, supervised_share: float) -> float:
    """Floating-point operations of one token's forward pass: two per weight and multiplication, attention over the whole block.

    Source: Kaplan et al. 2020, section 2.1, with the attention term of a block of max_tokens.
    """
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * head_dim * max_tokens
    return 2 * linear_parameters(config) + attention + 2 * supervised_share * config.vocab_size * config.hidden_size


def step_flops(config: Any, max_tokens: int, supervised_share: float, checkpointing: bool) -> float:
    """Operations of one token's forward and backward pass. Frozen weights get no gradient: the backward pass costs one forward
    pass, not two; recomputing activations costs another one."""
    return (3 if checkpointing else 2) * forward_flops(config, max_tokens, supervised_share)


def measurements(validations: int) -> tuple[int, int]:
    """Fewest and most measurements of the validation loss: the base model, during training, the adapter that is kept (unless the
    last one of the training was of it) and the same reloaded."""
    return 2 + max(1, validations), 3 + validations


def seconds(config: Any, work: Work, machine: dict[str, Any], *, max_tokens: int, micro_batch_size: int, checkpointing: bool,
            quantization: str) -> tuple[float, float]:  # fmt: skip
    """Shortest and longest time of the training stage: loading, stepping, measuring."""
    step = step_flops(config, max_tokens, work.supervised_share, checkpointing)
    forward = forward_flops(config, max_tokens, work.supervised_share)

    def stage(count: int, tflops: float, disk: float) -> float:
        measured = count * work.validation_tokens
        passes = ((3 if checkpointing else 2) * work.train_tokens + measured) / (micro_batch_size * max_tokens)
        moved = passes * linear_parameters(config) * NF4_TRAFFIC if quantization == "nf4" else 0
        calculating = (work.train_tokens * step + measured * forward) / (tflops * 1e12)
        return LOADS * checkpoint_bytes(config) / (disk * 1e9) + calculating + moved / (machine["memory_gb_per_second"] * 1e9)

    (fewest, most), (slow, fast) = measurements(work.validations), machine["attained_tflops"]
    return stage(fewest, fast, max(DISK_GB_PER_SECOND)), stage(most, slow, min(DISK_GB_PER_SECOND))


# -- how many tokens a run will train on: counted by the prepared data, estimated from the explored corpus, or stated -----

FILL = 0.97  # share of a packed block that holds tokens, for an estimate; the data report has the true one
SUPERVISED = 0.8  # share of the tokens that are graded, for an estimate


def work_of(settings: Settings, tokens: int = 0) -> Work:
    """The work of a run. tokens: stated training tokens of one pass, in place of what the run folder says.

    Errors: ValueError where nothing is known of the data, or what is known is of other data.
    """
    folder = paths.runs() / settings.run_name
    if tokens:
        return _guessed(settings, tokens, f"{tokens:,} training tokens, stated")
    if (folder / "data" / "report.json").is_file() and _made_with(folder, "data", settings):
        report = files.read_json(folder / "data" / "report.json")
        seen, graded = report["tokens"], report["supervised_tokens"]["train"]
        share = graded / max(1, seen["train"])
        counted = f"{seen['train']:,} training tokens in {report['blocks']['train']:,} blocks, counted by data/report.json"
        return _planned(settings, report["blocks"]["train"], seen["validation"], share, counted)
    if (folder / "corpus" / "lengths.parquet").is_file() and _made_with(folder, "corpus", settings):
        return _explored(settings, folder)
    raise ValueError(
        f"nothing is known of the data of {settings.run_name} with these parameters: run notebook 01_explore_corpus (an estimate) or 02_prepare_data (the count) "
        "first, or state the training tokens: `python -m mistral_lib plan <file> --tokens 2000000`"
    )


def _made_with(folder: Path, stage: str, settings: Settings) -> bool:
    """Whether the stage read the same data in the same way: a count of other data, or of other blocks, would mislead. Another base
    model alone does not spoil an estimate."""
    recorded = files.read_json(folder / "manifest.json")["stages"].get(stage, {}).get("parameters", {})
    asked = settings.stage(stage)
    if stage == "corpus":
        recorded, asked = ({name: value for name, value in values.items() if name != "base_model"} for values in (recorded, asked))
    return recorded == asked


def _explored(settings: Settings, folder: Path) -> Work:
    """An estimate: tokens of the explored rows, less exact repeats, the training split's share."""
    import pyarrow.parquet as pq

    totals = files.read_json(folder / "corpus" / "inventory.json")["totals"]
    sample = pq.read_table(folder / "corpus" / "lengths.parquet", columns=["tokens"])["tokens"].to_numpy()
    tokens = int(sample.mean() * (totals["rows"] - totals["repeats"]) * (1 - settings.validation_share - settings.test_share))
    return _guessed(settings, tokens, f"about {tokens:,} training tokens, estimated from corpus/inventory.json")


def _guessed(settings: Settings, tokens: int, origin: str) -> Work:
    """The work where only the training tokens of one pass are known: how they are packed and graded, and what is held out, is assumed."""
    trained = 1 - settings.validation_share - settings.test_share
    held_out = int(tokens * settings.validation_share / trained)
    return _planned(settings, math.ceil(tokens / (FILL * settings.max_tokens)), held_out, SUPERVISED, origin)


def _planned(settings: Settings, blocks: int, validation: int, share: float, origin: str) -> Work:
    trained = settings.max_steps * _blocks_a_step(settings) if settings.max_steps else math.ceil(settings.epochs * blocks)
    measured = min(validation, settings.max_validation_tokens or validation)
    count, every = steps(settings, blocks), settings.validate_every_steps
    return Work(trained * settings.max_tokens, measured, share, count, math.ceil(count / every) if every else 0, origin)


def steps(settings: Settings, blocks: int, effective_batch: int = 0) -> int:
    """Optimizer steps of a training with so many blocks a pass; the last one of each pass takes what is left.

    effective_batch: blocks of a step, where more processes share it than the settings know of.
    """
    return settings.max_steps or math.ceil(settings.epochs * math.ceil(blocks / (effective_batch or _blocks_a_step(settings))))


def _blocks_a_step(settings: Settings) -> int:
    return settings.micro_batch_size * settings.gradient_accumulation_steps
