"""What each stage reads, as hashes: for the stage that runs, and for the audit that compares them later."""

from collections.abc import Sequence
from typing import Any

from mistral_lib.corpus import exclusions, sources
from mistral_lib.corpus.sources import SourceFile
from mistral_lib.model import base_model
from mistral_lib.run import Run


def hashes(run: Run, stage: str, source_files: Sequence[SourceFile] | None = None, fetch: bool = True) -> dict[str, str]:
    """`{name: hash}` of everything that a stage reads now.

    source_files: those of the corpus and data stages, if the caller has them. fetch: False downloads no base model: if it is not on
    this machine, the hash that the stage recorded is returned.
    Errors: RuntimeError if an earlier stage is not complete; SourceError, ExclusionError, BaseModelError.
    """
    if stage in ("corpus", "data"):
        source_files = sources.of_settings(run.settings) if source_files is None else source_files
        made = {**sources.inputs(source_files), **(exclusions.inputs(run.settings) if stage == "data" else {})}
    else:
        made = training(run) if stage == "training" else evaluation(run)
    return {**made, **base(run, stage, fetch)}


def training(run: Run) -> dict[str, str]:
    """The packed splits for training and validation. Errors: RuntimeError."""
    data = run.require("data", "run notebook 02_prepare_data first")["outputs"]
    return written(data, "data/train/", "data/validation/")


def evaluation(run: Run) -> dict[str, str]:
    """The adapter, the splits, the retention set. Errors: RuntimeError, SourceError."""
    trained = run.require("training", "run notebook 03_train_adapter first")["outputs"]
    data = run.require("data", "run notebook 02_prepare_data first")["outputs"]
    made = {**written(trained, "training/adapter/"), **written(data, "data/test/", "data/train/", "data/records")}
    return {**made, **sources.inputs(sources.of_retention(run.settings))}


def written(outputs: dict[str, Any], *begins: str) -> dict[str, str]:
    """The hashes of an earlier stage's outputs whose names begin with one of `begins`."""
    return {name: fact["sha256"] for name, fact in outputs.items() if name.startswith(begins)}


def base(run: Run, stage: str, fetch: bool) -> dict[str, str]:
    """Tokenizer or weights of the base model, if the stage itself reads them. Errors: BaseModelError."""
    key, model = {"corpus": "tokenizer", "data": "tokenizer", "training": "base_model"}.get(stage), run.settings.base_model
    if key is None:
        return {}
    if not fetch and not base_model.is_local(model):
        recorded = run.entry(stage).get("inputs", {})
        return {key: recorded[key]} if key in recorded else {}
    if key == "base_model":
        return {key: base_model.fingerprint(model, weights=fetch)}
    return {key: base_model.tokenizer_hash(base_model.load_tokenizer(model))}
