"""The last lines of a headless run: base against adapter and the verdict, what is exported, what is stale, and what to type next."""

from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, files, paths
from mistral_lib.run.folder import summary
from mistral_lib.run.settings import STAGES

STAGES_OF = {"01": ("corpus",), "02": ("data",), "03": ("training",), "04": ("evaluation",), "05": ("export", "parity")}  # by notebook


def text(run: Run) -> str:
    """The results that are complete and not stale; then which are stale, and how they are made again. The numbers of a stale result are
    not printed: they belong to other data or another adapter."""
    stale = stage_inputs.stale_stages(run)
    done = [stage for stage in STAGES if run.status(stage) == "complete" and stage not in stale]
    lines = _verdict(run) if "evaluation" in done else [f"{paths.short(run.folder)}: stages complete: {', '.join(done) or 'none yet'}"]
    if "parity" in done:
        lines += _exported(run)
    return "\n".join([*lines, *_stale(run, stale)])


def _verdict(run: Run) -> list[str]:
    result = files.read_json(run.folder / "evaluation" / "result.json")
    rows = [*result["domains"].items(), ("all", result["overall"])]
    lines = [f"{'domain':24} records    base  adapter  difference   (test, nats per supervised token)"]
    lines += [f"{name:24} {f['records']:7}  {f['base']:6.3f}  {f['adapter']:7.3f}  {f['difference']:+10.3f}" for name, f in rows]
    return [*lines, result["sentence"], f"report: {paths.short(run.folder / 'evaluation' / 'report.html')}"]


def _exported(run: Run) -> list[str]:
    """What parity found for each form, and the lines that serve the recommended one and ask it."""
    found = files.read_json(run.folder / "parity" / "result.json")
    place, lines = paths.short(run.folder), [f"{form['form']}: {form['outcome']} — {form['sentence']}" for form in found["findings"]]
    if found["recommended"]:
        lines.append(f"serve: python -m mistral_lib serve {place} --form {found['recommended']}")
    return [*lines, f'next: python -m mistral_lib ask {place} "…", or your own corpus: docs/own_corpus.md']


def _stale(run: Run, stale: dict[str, list[str]]) -> list[str]:
    if not stale:
        return []
    again = " ".join(number for number, stages in STAGES_OF.items() if stale.keys() & set(stages))
    remedy = f"run `python -m mistral_lib run {paths.short(run.folder)}/params.yaml --only {again}` to make it again"
    return [*(f"{stage} is stale: {summary(reasons)}" for stage, reasons in stale.items()), remedy]
