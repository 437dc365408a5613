"""How many tokens a run will train on: counted by the prepared data, estimated from the explored corpus, or stated."""

import math
from pathlib import Path

from mistral_lib.run import files, paths
from mistral_lib.run.settings import Settings
from mistral_lib.training_time import Work

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
