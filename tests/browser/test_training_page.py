"""Training as a person meets it: started, left, found again, stopped by the button and taken up, in a real browser."""

from collections.abc import Callable

from mistral_lib import audit, checkpoints, files, preparation, training_log, training_status
from mistral_lib.run import Run
from tests.browser.jupyterlab import PATIENCE, Notebook

STEPS = 600  # of the tiny model: long enough to leave and come back


def shows(page: Notebook, words: str, seconds: float = PATIENCE) -> None:
    page.page.wait_for_selector(f".jp-OutputArea-output .widget-html:has-text('{words}')", timeout=seconds * 1000)


def test_training_left_found_again_stopped_and_taken_up(notebook: Callable[..., Notebook], finished: Run) -> None:
    changes = {"run_name": "long", "max_steps": STEPS, "micro_batch_size": 1, "checkpoint_every_steps": 100}
    run = Run.open(finished.settings.model_copy(update=changes))
    preparation.prepare(run)
    log = run.folder / "training" / "log.jsonl"

    page = notebook("03", **changes).ready()
    page.do("notebook:run-all-cells")
    shows(page, "loss of the last batch")
    page.save()
    page.close()
    left_at = training_status.status(run)
    assert left_at.alive, "the training goes on without a page"

    page = notebook("03")
    shows(page, f"process {left_at.pid}")
    page.page.click("button:has-text('Stop and save')")  # works although the cell below still waits
    page.page.click("button:has-text('Yes, save and stop')")
    shows(page, "interrupted")
    now = training_status.status(run)
    assert now.word == "interrupted" and left_at.step < now.step < STEPS
    assert checkpoints.step_of(checkpoints.last_whole(run.folder / "training" / "checkpoints")) == now.step

    page.page.click("button:has-text('Go on')")
    shows(page, "running")
    page.restart_kernel()
    assert training_status.status(run).word in ("running", "complete"), "the training does not end with the kernel"
    assert not page.run_all(3 * PATIENCE).errors()
    shows(page, "read back from disk and measured again")
    starts = [e["from_step"] for e in files.read_json_lines(log) if e["event"] == "started"]
    assert starts == [0, now.step], "one stop, taken up where it saved, by one trainer"
    assert [step["step"] for step in training_log.steps(log)] == list(range(1, STEPS + 1))
    assert all(finding.status == "verified" for finding in audit.audit(run.folder / "training" / "adapter"))
