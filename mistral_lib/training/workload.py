"""The work of a training, and how long a machine takes for it.

The work is counted from prepared data, or estimated from the explored corpus, the size of its files or a stated number of tokens. The
time is its floating-point operations over the lowest and the highest rate in params/instances.yaml. Source of the rates: docs/fit_plan.md.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.corpus import sources
from mistral_lib.corpus.sources import SourceError, SourceFile
from mistral_lib.model import base_model
from mistral_lib.model.model_shapes import checkpoint_bytes, config_of, head_size, linear_parameters
from mistral_lib.run import files, paths
from mistral_lib.run.settings import Settings

BYTES_PER_TOKEN = 4.0  # of a file, for a corpus that was not explored; the demo corpus has 4.0 bytes of JSON per kept token
FEW_STEPS = 50  # optimizer steps below which a training has hardly begun: a rule of thumb
FILL = 0.97  # share of a packed block that is not padding, for an estimate
SUPERVISED = 0.8  # share of the tokens that have a label, for an estimate
DISK_GB_PER_SECOND = (0.1, 1.0)  # reading the base model: a plain network volume, a fast local one
HUB_GB_PER_SECOND = (0.05, 0.4)  # downloading the base model: assumed
LOADS = 2  # of the base model in a training: at the start and for the final check; the evaluation loads it a third time
TRIALS = 1  # of the fullest batch, each counted as an optimizer step, which it is at most
NF4_TRAFFIC = 4.5  # bytes moved to dequantize a weight: half a byte read, two written, two read again


@dataclass(frozen=True)
class Work:
    """What is to be trained on, and how."""

    train_tokens: int  # of all epochs together, padding of packed blocks included
    validation_tokens: int  # of one validation
    supervised_share: float
    steps: int  # optimizer steps
    steps_of_a_pass: int  # optimizer steps of one pass over the training split
    validations: int  # during training
    origin: str  # where the counts come from


# -- the work -----------------------------------------------------------------------------------------------------------


def work_of(settings: Settings, tokens: int = 0, source_files: Sequence[SourceFile] | None = None) -> Work:
    """The work of a run: from its prepared data, else from its explored corpus, else estimated from the size of its files.

    tokens: stated training tokens of one epoch, used in place of the data of the run. source_files: those of the run, if the caller has
    them. Errors: SourceError if nothing is prepared or explored with these parameters, and the files cannot be read.
    """
    folder = paths.runs() / settings.run_name
    if tokens:
        return _estimated(settings, tokens, f"{tokens:,} training tokens, stated")
    if (folder / "data" / "report.json").is_file() and _has_parameters_of(settings, folder, "data"):
        return _counted(settings, files.read_json(folder / "data" / "report.json"))
    if (folder / "corpus" / "lengths.parquet").is_file() and _has_parameters_of(settings, folder, "corpus"):
        return _explored(settings, folder)
    return _from_sizes(settings, _files(settings) if source_files is None else source_files)


def _files(settings: Settings) -> list[SourceFile]:
    try:
        return sources.of_settings(settings)
    except SourceError as error:
        raise SourceError(
            f"{error}\nThere is no prepared or explored data for {settings.run_name} with these parameters either: put the corpus there, or "
            "state the training tokens: `python -m mistral_lib plan <file> --tokens 2000000`"
        ) from None


def _from_sizes(settings: Settings, source_files: Sequence[SourceFile]) -> Work:
    size = sum(file.size for file in source_files)
    tokens = max(1, int(size / BYTES_PER_TOKEN * (1 - settings.validation_share - settings.test_share)))
    return _estimated(settings, tokens, f"about {tokens:,} training tokens, guessed from {files.size_text(size)}; notebook 01 counts them")


def _has_parameters_of(settings: Settings, folder: Path, stage: str) -> bool:
    """Whether a stage ran with these parameters: a count of other data, or of other blocks, would mislead. The corpus stage may have
    run with another base model, since its count is an estimate anyway."""
    recorded = files.read_json(folder / "manifest.json")["stages"].get(stage, {}).get("parameters", {})
    requested = settings.stage(stage)
    if stage == "corpus":
        recorded, requested = ({name: value for name, value in values.items() if name != "base_model"} for values in (recorded, requested))
    return recorded == requested


def _counted(settings: Settings, report: dict[str, Any]) -> Work:
    tokens, blocks = report["tokens"], report["blocks"]["train"]
    supervised_share = report["supervised_tokens"]["train"] / max(1, tokens["train"])
    origin = f"{tokens['train']:,} training tokens in {blocks:,} blocks, counted by data/report.json"
    return _work(settings, blocks, tokens["validation"], supervised_share, origin)


def _explored(settings: Settings, folder: Path) -> Work:
    """An estimate: the mean tokens of the sampled rows, times all rows less exact repeats, times the share of the training split."""
    import pyarrow.parquet as pq

    totals = files.read_json(folder / "corpus" / "inventory.json")["totals"]
    sample = pq.read_table(folder / "corpus" / "lengths.parquet", columns=["tokens"])["tokens"].to_numpy()
    tokens = int(sample.mean() * (totals["rows"] - totals["repeats"]) * (1 - settings.validation_share - settings.test_share))
    return _estimated(settings, tokens, f"about {tokens:,} training tokens, estimated from corpus/inventory.json")


def _estimated(settings: Settings, tokens: int, origin: str) -> Work:
    """The work for a number of training tokens of one epoch; padding, labels and validation split are assumed."""
    trained = 1 - settings.validation_share - settings.test_share
    validation = int(tokens * settings.validation_share / trained)
    return _work(settings, math.ceil(tokens / (FILL * settings.max_tokens)), validation, SUPERVISED, origin)


def _work(settings: Settings, blocks: int, validation_tokens: int, supervised_share: float, origin: str) -> Work:
    """blocks: of the training split; validation_tokens: of the validation split."""
    trained = settings.max_steps * effective_batch(settings) if settings.max_steps else math.ceil(settings.epochs * blocks)
    measured = min(validation_tokens, settings.max_validation_tokens or validation_tokens)
    count, every = steps(settings, blocks), settings.validate_every_steps
    validations = math.ceil(count / every) if every else 0
    return Work(trained * settings.max_tokens, measured, supervised_share, count, steps_of_a_pass(settings, blocks), validations, origin)


def steps(settings: Settings, blocks: int, blocks_a_step: int = 0) -> int:
    """Optimizer steps of a training on so many blocks an epoch; the last step of an epoch takes the blocks that are left.

    blocks_a_step: if several processes share a step; else the effective batch of the settings.
    """
    return settings.max_steps or math.ceil(settings.epochs * math.ceil(blocks / (blocks_a_step or effective_batch(settings))))


def steps_of_a_pass(settings: Settings, blocks: int) -> int:
    """Optimizer steps of one pass over so many blocks."""
    return math.ceil(blocks / effective_batch(settings))


def steps_text(settings: Settings, work: Work) -> str:
    """How many optimizer steps the run takes and one pass takes; with advice if they are few."""
    by = "set by max_steps" if settings.max_steps else f"{settings.epochs:g} epochs"
    text = f"{work.steps:,} optimizer steps ({by}); one pass over the data takes {work.steps_of_a_pass:,}"
    if work.steps >= FEW_STEPS:
        return text
    more = []
    if 0 < settings.max_steps < work.steps_of_a_pass * settings.epochs:
        more.append(f"max_steps = 0 trains for all of epochs = {settings.epochs:g}")
    name = "blocks_per_step" if "auto" in _batch(settings) else "gradient_accumulation_steps"
    if getattr(settings, name) > 1:
        more.append(f"a lower {name} gives more steps (a step now takes {effective_batch(settings)} blocks)")
    if not settings.max_steps:
        more.append("more epochs give more steps")
    return f"{text}. Few: below some {FEW_STEPS} steps an adapter has hardly begun to learn; {', '.join([*more, 'more data helps most'])}"


def effective_batch(settings: Settings) -> int:
    """Blocks of an optimizer step in a single process."""
    return settings.blocks_per_step if "auto" in _batch(settings) else math.prod(_batch(settings))


def _batch(settings: Settings) -> tuple[Any, Any]:
    return settings.micro_batch_size, settings.gradient_accumulation_steps


def measurements(validations: int) -> tuple[int, int]:
    """Fewest and most measurements of the validation loss: the base model, during training, the adapter that is kept (unless the
    last measurement of the training was of it), and that adapter reloaded."""
    return 2 + max(1, validations), 3 + validations


# -- the time -----------------------------------------------------------------------------------------------------------


def seconds(settings: Settings, work: Work, machine: dict[str, Any]) -> tuple[float, float]:
    """Shortest and longest time of the training stage: loading, trial, steps and validations. What is still `auto` counts as the
    fastest choice in the one and as the slowest in the other."""
    config, s = config_of(settings.base_model), settings
    forward = forward_flops(config, s.max_tokens, work.supervised_share)

    def stage(count: int, tflops: float, disk: float, micro: int, checkpointing: bool | int) -> float:
        measured, trained = count * work.validation_tokens, work.train_tokens + TRIALS * effective_batch(s) * s.max_tokens
        step = step_flops(config, s.max_tokens, work.supervised_share, checkpointing)
        passes = (training_passes(config, checkpointing) * trained + measured) / (micro * s.max_tokens)
        moved = passes * linear_parameters(config) * NF4_TRAFFIC if s.quantization == "nf4" else 0
        computing = (trained * step + measured * forward) / (tflops * 1e12)
        return LOADS * checkpoint_bytes(config) / (disk * 1e9) + computing + moved / (machine["memory_gb_per_second"] * 1e9)

    (fewest, most), (slow, fast) = measurements(work.validations), machine["attained_tflops"]
    (large, small), (none, every) = (_ends(s.micro_batch_size, effective_batch(s), 1), _ends(s.activation_checkpointing, False, True))
    return stage(fewest, fast, max(DISK_GB_PER_SECOND), large, none), stage(most, slow, min(DISK_GB_PER_SECOND), small, every)


def _ends(value: Any, fastest: Any, slowest: Any) -> tuple[Any, Any]:
    return (fastest, slowest) if value == "auto" else (value, value)


def beyond_training(settings: Settings) -> tuple[float, float]:
    """Shortest and longest seconds for what a new machine also does: download the base model, unless its weights are on this
    machine, and load it a third time for the evaluation."""
    size = checkpoint_bytes(config_of(settings.base_model)) / 1e9
    to_fetch = 0 if base_model.has_weights(settings.base_model) else size
    rates = zip(reversed(HUB_GB_PER_SECOND), reversed(DISK_GB_PER_SECOND), strict=True)
    return tuple(to_fetch / hub + size / disk for hub, disk in rates)  # type: ignore[return-value]


def training_passes(config: Any, checkpointing: bool | int) -> float:
    """Forward passes that a forward and backward pass cost. Frozen weights get no gradient, so the backward pass costs as much as one
    forward pass, not two; recomputing every n-th layer costs 1/n of one more."""
    layers = config.num_hidden_layers
    return 2 + (math.ceil(layers / int(checkpointing)) / layers if checkpointing else 0)


def step_flops(config: Any, max_tokens: int, supervised_share: float, checkpointing: bool | int) -> float:
    """Floating-point operations of one token's forward and backward pass."""
    return training_passes(config, checkpointing) * forward_flops(config, max_tokens, supervised_share)


def forward_flops(config: Any, max_tokens: int, supervised_share: float) -> float:
    """Floating-point operations of one token's forward pass: two per weight, plus attention over the complete block.

    Source: Kaplan et al. 2020, section 2.1, with the attention term of a block of max_tokens.
    """
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * head_size(config) * max_tokens
    return 2 * linear_parameters(config) + attention + 2 * supervised_share * config.vocab_size * config.hidden_size
