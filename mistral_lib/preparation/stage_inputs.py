"""What each stage reads, as hashes, and whether a result still is what today's parameters and inputs would give.

A stage refuses to build on a stale result: its own result would be recorded under parameters and data that it does not come from.
"""

import html
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Literal

from mistral_lib.corpus import exclusions, sources
from mistral_lib.corpus.sources import SourceError, SourceFile
from mistral_lib.model import base_model
from mistral_lib.run import Run, RunInUseError, files, paths
from mistral_lib.run.folder import summary
from mistral_lib.run.progress import say
from mistral_lib.run.settings import STAGES

BUILT_ON = {
    "corpus": (), "data": (), "training": ("data",), "evaluation": ("data", "training"), "export": ("data", "training", "evaluation"),
    "parity": ("data", "training", "evaluation", "export"),
}  # fmt: skip
NOTEBOOKS = {
    "corpus": "01_explore_corpus", "data": "02_prepare_data", "training": "03_train_adapter", "evaluation": "04_evaluate_adapter",
    "export": "05_serve_adapter", "parity": "05_serve_adapter",
}  # fmt: skip
MEASURED = "evaluation/losses.parquet"  # the losses of base and adapter, with which exported forms are compared
VOTES = "votes.jsonl"  # the blind votes on a run's answers; they outlive an evaluation
STALE_NOTE = ("<!-- stale -->", "<!-- /stale -->")  # in report.html, around the note that it is stale
STALE_HTML = '<p class="stale"><b>Stale: this page is not about the run as it is now.</b> {}. Run notebook 04_evaluate_adapter again.</p>'


class StaleStageError(RuntimeError):
    """A stage was asked to build on a result that is stale; the message names the stage, the reasons and the command to run."""


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
        made = {"training": training, "evaluation": evaluation, "export": export, "parity": parity}[stage](run)
    return {**made, **base(run, stage, fetch)}


def training(run: Run) -> dict[str, str]:
    """The packed splits for training and validation. Errors: RuntimeError."""
    data = run.require("data", f"run notebook {NOTEBOOKS['data']} first")["outputs"]
    return written(data, "data/train/", "data/validation/")


def evaluation(run: Run) -> dict[str, str]:
    """The adapter, the splits, the retention set, the votes. Errors: RuntimeError, SourceError."""
    trained = run.require("training", f"run notebook {NOTEBOOKS['training']} first")["outputs"]
    data = run.require("data", f"run notebook {NOTEBOOKS['data']} first")["outputs"]
    made = {**written(trained, "training/adapter/", "training/record_ids"), **written(data, "data/test/", "data/train/", "data/records")}
    votes = {VOTES: files.sha256(run.folder / VOTES)} if (run.folder / VOTES).exists() else {}
    return {**made, **votes, **sources.inputs(sources.of_retention(run.settings))}


def export(run: Run) -> dict[str, str]:
    """The adapter, the test split, and the losses of the evaluation. Errors: RuntimeError."""
    trained = run.require("training", f"run notebook {NOTEBOOKS['training']} first")["outputs"]
    data = run.require("data", f"run notebook {NOTEBOOKS['data']} first")["outputs"]
    evaluated = run.require("evaluation", f"run notebook {NOTEBOOKS['evaluation']} first")["outputs"]
    return {**written(trained, "training/adapter/"), **written(data, "data/test/"), **written(evaluated, MEASURED)}


def parity(run: Run) -> dict[str, str]:
    """The adapter and all exported files. Errors: RuntimeError."""
    trained = run.require("training", f"run notebook {NOTEBOOKS['training']} first")["outputs"]
    exported = run.require("export", f"run notebook {NOTEBOOKS['export']} first")["outputs"]
    return {**written(trained, "training/adapter/"), **written(exported, "export/")}


def written(outputs: dict[str, Any], *begins: str) -> dict[str, str]:
    """The hashes of an earlier stage's outputs whose names begin with one of `begins`."""
    return {name: fact["sha256"] for name, fact in outputs.items() if name.startswith(begins)}


def base(run: Run, stage: str, fetch: bool) -> dict[str, str]:
    """Tokenizer or weights of the base model, if the stage itself reads them. Errors: BaseModelError."""
    key, model = (
        {"corpus": "tokenizer", "data": "tokenizer", "training": "base_model", "export": "base_model"}.get(stage),
        run.settings.base_model,
    )
    if key is None:
        return {}
    if not fetch and not base_model.is_local(model):
        recorded = run.entry(stage).get("inputs", {})
        return {key: recorded[key]} if key in recorded else {}
    if key == "base_model":
        return {key: base_model.fingerprint(model, weights=fetch)}
    return {key: base_model.tokenizer_hash(base_model.load_tokenizer(model))}


# -- is a result still that of these parameters and inputs? --------------------------------------------------------------


def outdated(run: Run, stage: str) -> list[str]:
    """Why a stage's result is not what today's parameters and inputs would give, the stages that it is built on included.

    An older version of the library alone is no reason. Inputs that cannot be read count as a reason: nothing shows that they are the same.
    """
    earlier = [f"{name} is stale" for name in BUILT_ON[stage] if run.entry(name) and outdated(run, name)]
    return earlier + _changes(run, stage)


def _changes(run: Run, stage: str, absent_sources: Literal["a reason", "said"] = "a reason") -> list[str]:
    """Why a stage's own result is stale. absent_sources: whether sources that are not there are a reason, or are only said."""
    current, unread = run.entry(stage).get("inputs", {}), []
    try:
        current = hashes(run, stage, fetch=False)
    except (ValueError, RuntimeError, OSError, ImportError) as error:
        unread = [f"its inputs cannot be read again: {error}"]
        if absent_sources == "said" and isinstance(error, SourceError):
            say(f"{stage}: its sources cannot be compared with those that it was made from ({str(error).splitlines()[0]})")
            unread = []
    return unread + run.changes(stage, current, older=False)


def require_current(run: Run, stage: str) -> None:
    """Check that a stage and all that it is built on are complete and not stale, and that an adapter is the one that was recorded.

    Sources that are not on this machine are not compared, and that is said: data may be prepared on one machine and used on another.
    Errors: RuntimeError if one is not complete, StaleStageError if one is stale.
    """
    stale: dict[str, list[str]] = {}
    for name in (*BUILT_ON[stage], stage):
        run.require(name, f"run notebook {NOTEBOOKS[name]} first")
        reasons = _changes(run, name, absent_sources="said") + run.damages(name, below="training/adapter/")
        if reasons or any(earlier in stale for earlier in BUILT_ON[name]):
            stale[name] = reasons
    if stale:
        raise StaleStageError(_refusal(run, stale))


def _refusal(run: Run, stale: dict[str, list[str]]) -> str:
    place, first = paths.short(run.folder), next(iter(stale))
    others = f", and with it {' and '.join(list(stale)[1:])}" if len(stale) > 1 else ""
    reasons = summary([reason for found in stale.values() for reason in found])
    numbers = " ".join(dict.fromkeys(NOTEBOOKS[name][:2] for name in stale))
    return (
        f"{place}: {first} is stale{others}: {reasons}. A result built on it would be recorded under parameters and data that it does not "
        f"come from. Run `python -m mistral_lib run {place}/params.yaml --only {numbers}` (or notebook {NOTEBOOKS[first]}) first, "
        "or set the parameters back"
    )


def note_in_report(run: Run) -> None:
    """Write into the head of the evaluation's report.html whether it is stale, and why: somebody may open it after the data or the
    training were made again. Does nothing if another process works in the run folder."""
    page, (begin, end) = run.folder / "evaluation" / "report.html", STALE_NOTE
    if run.status("evaluation") != "complete" or not page.exists():
        return
    text = page.read_text()
    (before, _, rest), stale = text.partition(begin), stale_stages(run)
    reasons = "; ".join(f"{stage}: {summary(found)}" for stage, found in stale.items())
    note = STALE_HTML.format(html.escape(reasons)) if "evaluation" in stale else ""
    noted = before + begin + note + end + rest.partition(end)[2]
    if rest and noted != text:
        with suppress(RunInUseError), run.lock("noting in report.html that it is stale"):
            files.write_text(page, noted)
            fact = {"sha256": files.sha256(page), "bytes": page.stat().st_size}
            run.record("evaluation", outputs={**run.entry("evaluation")["outputs"], "evaluation/report.html": fact})


def stale_stages(run: Run) -> dict[str, list[str]]:
    """`{stage: reasons}` of the complete stages whose results are stale."""
    found = {stage: outdated(run, stage) for stage in STAGES if run.status(stage) == "complete"}
    return {stage: reasons for stage, reasons in found.items() if reasons}
