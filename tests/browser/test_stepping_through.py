"""Each notebook from top to bottom by the menu's command, and its widgets operated, in a real browser over one finished run."""

from collections.abc import Callable

from mistral_lib import audit, checkpoints, files, preparation, training_log, training_status, votes
from mistral_lib.blind_vote import ballot
from mistral_lib.run import Run
from tests.browser.jupyterlab import PATIENCE, Notebook

STEPS = 300  # of the tiny model: long enough to leave its training and come back


def run_through(page: Notebook) -> Notebook:
    """Run all cells: no error, each cell once, and every widget is there instead of its plain text."""
    page.run_all()
    counts = [cell["count"] for cell in page.cells() if cell["source"].strip()]
    assert not page.errors() and counts == list(range(1, len(counts) + 1))
    page.wait("!document.querySelector('.jp-Notebook').innerText.includes('Loading widget')")
    return page


def test_02_a_threshold_shows_at_once_what_it_would_do(notebook: Callable[..., Notebook], finished: Run) -> None:
    page = run_through(notebook("02"))
    page.shows("Move a slider")
    page.slide("shortest_answer", "PageUp")
    page.shows("type in the parameters cell")
    assert finished.status("data") == "complete", "a trial touches nothing"


def test_03_a_finished_training_is_found_finished(notebook: Callable[..., Notebook], finished: Run) -> None:
    page = run_through(notebook("03"))
    page.shows("read back from disk and measured again")
    assert page.page.get_attribute(".jp-OutputArea-output .widget-html img", "alt").startswith("Loss by step, 8 of 8 steps")
    assert page.page.is_disabled("button:has-text('Stop and save')") and page.page.is_disabled("button:has-text('Go on')")


def test_04_votes_by_key_and_button_and_both_models_answer(notebook: Callable[..., Notebook], finished: Run) -> None:
    page = run_through(notebook("04"))
    box, total = ballot(finished), len(ballot(finished).pairs)
    page.shows(f"0 of {total}")
    page.page.type("input[placeholder^='click here, then press']", "1")
    page.shows(f"1 of {total}")
    page.press("Tie (2)")
    page.shows(f"2 of {total}")
    assert [vote["choice"] for vote in box.votes()] == ["left", "tie"]
    page.press("Show the result")
    page.shows(str(votes.preference(box.votes())))
    page.page.fill("textarea[placeholder^='ask both']", "What does red.tensor_0 do?")
    page.press("Ask both")
    page.page.wait_for_selector(".widget-html:has-text('adapter') pre:not(:empty)")
    page.page.wait_for_selector("button:has-text('Ask both'):enabled")


def test_training_left_found_again_stopped_and_taken_up(notebook: Callable[..., Notebook], finished: Run) -> None:
    changes = {"run_name": "long", "max_steps": STEPS, "micro_batch_size": 1, "checkpoint_every_steps": 100, "validate_every_steps": 100}
    run = Run.open(finished.settings.model_copy(update=changes))
    preparation.prepare(run)
    log = run.folder / "training" / "log.jsonl"

    page = notebook("03", **changes).ready()
    page.do("notebook:run-all-cells")
    page.shows("loss of the last batch")
    page.save()
    page.close()
    left_at = training_status.status(run)
    assert left_at.alive, "the training goes on without a page"

    page = notebook("03")
    page.shows(f"process {left_at.pid}")
    page.press("Stop and save")  # works although the cell below still waits
    page.press("Yes, save and stop")
    page.shows("interrupted")
    now = training_status.status(run)
    assert now.word == "interrupted" and left_at.step < now.step < STEPS
    assert checkpoints.step_of(checkpoints.last_whole(run.folder / "training" / "checkpoints")) == now.step

    page.press("Go on")
    page.shows("running")
    page.restart_kernel()
    assert training_status.status(run).word in ("running", "complete"), "the training does not end with the kernel"
    assert not page.run_all(3 * PATIENCE).errors()
    page.shows("read back from disk and measured again")
    starts = [e["from_step"] for e in files.read_json_lines(log) if e["event"] == "started"]
    assert starts == [0, now.step], "one stop, taken up where it saved, by one trainer"
    assert [step["step"] for step in training_log.steps(log)] == list(range(1, STEPS + 1))
    assert all(finding.status == "verified" for finding in audit.audit(run.folder / "training" / "adapter"))
