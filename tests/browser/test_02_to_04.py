"""Notebooks 02 to 04 in a real browser over one complete run: they are run by the menu, their widgets operated, their layout measured.

The tests assert what the page shows, and the files that were written.
"""

import shutil
from collections.abc import Callable
from typing import Any

import pytest

from mistral_lib.corpus import sources
from mistral_lib.display import votes
from mistral_lib.display.threshold_explorer import figures, shown
from mistral_lib.display.vote_page import ballot
from mistral_lib.model import base_model
from mistral_lib.preparation import audit, prepare, trial
from mistral_lib.run import Run, files, paths
from mistral_lib.training import checkpoints, training_log, training_status
from tests.browser.jupyterlab import PATIENCE, Notebook
from tests.browser.legibility import beside_each_other, faults
from tests.browser.test_stepping_through import run_through

STEPS = 2400  # of the tiny model: long enough to leave its training, come back and restart the kernel
CHANGED = ("records kept", "rejected: answer_too_short", "near-duplicates", "train tokens", "training blocks",
           "leaked by a random 80/20 split, near-duplicate")  # fmt: skip
TABLE = """() => Object.fromEntries([...document.querySelectorAll('.widget-html table tr')].filter(row => row.querySelector('td'))
    .map(row => [...row.querySelectorAll('td')].map(cell => cell.innerText)).map(([name, ...cells]) => [name, cells]))"""
PARAMETERS = """lines => { const model = window.jupyterapp.shell.currentWidget.content.widgets.map(cell => cell.model)
    .find(model => (model.getMetadata('tags') ?? []).includes('injected-parameters'));
    model.sharedModel.setSource(model.sharedModel.getSource() + '\\n' + lines); }"""
BOTH = "() => [...document.querySelectorAll('.widget-html')].filter(one => /^(base model|adapter)\\b/.test(one.innerText))"
RECORD = f"""() => {{ window.seen = []; const look = () => {{
    const both = ({BOTH})().map(one => [one.querySelector('pre').textContent.length, one.innerText.includes('is writing')]);
    window.seen.push(both); }}; new MutationObserver(look).observe(document.querySelector('.jp-Notebook'),
    {{childList: true, subtree: true, characterData: true}}); }}"""


def twins(number: int) -> list[dict[str, str]]:
    """Two texts of 26 word 5-grams each, with a Jaccard similarity of 21 / 31."""
    words = [f"word{number}_{n}" for n in range(30)]
    return [{"text": " ".join(words)}, {"text": " ".join([*words[:15], "other", *words[16:]])}]


def test_02_a_moved_slider_shows_what_the_data_stage_then_does(notebook: Callable[..., Notebook], finished: Run) -> None:
    files.write_json_lines(paths.corpora() / "twins" / "twins.jsonl", [row for n in range(20) for row in twins(n)])
    changes = {"run_name": "tried", "corpus_paths": ["corpora/small", "corpora/twins"]}
    own = finished.settings.model_copy(update=changes)
    page = run_through(notebook("02", **changes))
    page.shows("Move a slider")
    page.press("weight of each domain")
    page.page.wait_for_selector(".widget-slider:has(label:text-is('red'))")
    assert not faults(page)
    page.slide("max_tokens")
    page.shows("max_tokens = 256")
    for _ in range(3):
        page.slide("near_duplicate_threshold", "ArrowLeft")
    page.shows("near_duplicate_threshold = 0.65")
    answer = page.page.locator(".widget-slider:has(label:text-is('shortest_answer')) .widget-readout")
    answer.fill("80")
    answer.press("Enter")
    page.shows("shortest_answer = 80")
    assert files.read_json(Run.open(own).folder / "data" / "report.json")["records_kept"] == 640, "a trial writes nothing"

    moved = own.model_copy(update={"max_tokens": 256, "near_duplicate_threshold": 0.65, "shortest_answer": 80})
    tokenizer = base_model.load_tokenizer(own.base_model)
    expected = figures(trial.report(trial.draw(sources.of_settings(own), own), moved, tokenizer))
    table = page.page.evaluate(TABLE)
    assert {name: cells[1] for name, cells in table.items()} == {name: shown(value) for name, value in expected.items()}
    for name in CHANGED:
        before, after, change = table[name]
        assert before != after and change[0] in "+−", name

    page.page.evaluate(
        PARAMETERS, page.page.inner_text(".widget-html pre")
    )  # the lines that the page shows, typed into the parameters cell
    assert not page.run_all().errors()
    assert figures(files.read_json(Run.open(moved).folder / "data" / "report.json")) == expected, "the sample has every row"


def test_03_a_complete_training_is_found_and_compared(notebook: Callable[..., Notebook], finished: Run) -> None:
    twin = finished.folder.with_name("twin")
    shutil.copytree(finished.folder, twin)
    page = run_through(notebook("03"))
    page.shows("read back from disk and measured again")
    curve = page.page.locator(".widget-html img")
    alone = curve.get_attribute("src")
    assert "validation from" in curve.get_attribute("alt") and "for comparison" not in curve.get_attribute("alt")
    page.page.select_option(".widget-dropdown:has-text('compare with') select", index=1)
    page.wait("document.querySelector('.widget-html img').alt.includes('twin, ')")
    assert "for comparison" in curve.get_attribute("alt") and curve.get_attribute("src") != alone
    assert not faults(page)
    shutil.rmtree(twin)


def test_04_votes_by_key_and_button_and_both_models_answer(notebook: Callable[..., Notebook], finished: Run) -> None:
    page = run_through(notebook("04"))
    box, total = ballot(finished), len(ballot(finished).pairs)
    page.shows(f"0 of {total}")
    page.page.type("input[placeholder^='click here, then press']", "1")
    page.shows(f"1 of {total}")
    assert [vote["choice"] for vote in box.votes()] == ["left"], "on disk as soon as the next pair is shown"
    page.press("Tie (2)")
    page.shows(f"2 of {total}")
    page.press("Show the result")
    page.shows(str(votes.preference(box.votes())))

    page.page.evaluate(RECORD)
    page.page.fill("textarea[placeholder^='ask both']", "What does red.tensor_0 do?")
    page.press("Ask both")
    page.page.wait_for_selector("button:has-text('Stop'):enabled")
    page.page.wait_for_selector("button:has-text('Ask both'):enabled")
    assert streamed(page.page.evaluate("() => window.seen")), "both answers appear together, word by word"
    both = page.page.locator(".widget-html:has(pre)")
    assert beside_each_other(page, *(both.filter(has_text=who).last for who in ("base model", "adapter")))
    assert not faults(page)

    page.save()
    page.close()
    page = notebook("04")
    page.shows(f"2 of {total}")
    page.ready().restart_kernel()
    run_through(page).shows(f"2 of {total}")
    judged = {vote["pair_id"] for vote in box.votes()}
    prompt = next(pair.prompt for pair in box.pairs if pair.pair_id not in judged)
    page.shows(prompt.splitlines()[0])
    assert [vote["choice"] for vote in box.votes()] == ["left", "tie"]


def streamed(seen: list[list[list[Any]]]) -> bool:
    """Whether both answers grew at the same time, each seen with at least three lengths."""
    growing = [(one[0], two[0]) for one, two in (both for both in seen if len(both) == 2) if one[0] and two[0] and (one[1] or two[1])]
    return len({one for one, _ in growing}) >= 3 and len({two for _, two in growing}) >= 3


@pytest.mark.long
def test_a_training_is_found_again_after_a_restart_stopped_and_resumed(notebook: Callable[..., Notebook], finished: Run) -> None:
    changes = {"run_name": "long", "max_steps": STEPS, "micro_batch_size": 1, "checkpoint_every_steps": 200, "validate_every_steps": 200}
    run = Run.open(finished.settings.model_copy(update=changes))
    prepare.prepare(run)
    log = run.folder / "training" / "log.jsonl"

    page = notebook("03", **changes).ready()
    page.do("notebook:run-all-cells")
    page.shows("loss of the last batch")
    page.save()
    page.close()
    left_at = training_status.status(run)
    assert left_at.alive, "the training continues without a page"

    page = notebook("03")
    page.shows(f"process {left_at.pid}")
    page.restart_kernel()
    found = training_status.status(run)
    assert found.alive and found.pid == left_at.pid and found.step >= left_at.step, "the training does not end with the kernel"
    page.ready().do("notebook:run-all-cells")
    page.shows("loss of the last batch")
    page.shows(f"process {left_at.pid}")
    page.press("Stop and save")  # works while the cell below waits
    page.press("Yes, save and stop")
    page.shows("interrupted")
    now = training_status.status(run)
    assert now.word == "interrupted" and left_at.step < now.step < STEPS
    assert checkpoints.step_of(checkpoints.last_complete(run.folder / "training" / "checkpoints")) == now.step

    page.press("Resume")
    page.shows("running")
    assert not page.run_all(3 * PATIENCE).errors()
    page.shows("read back from disk and measured again")
    starts = [e["from_step"] for e in files.read_json_lines(log) if e["event"] == "started"]
    assert starts == [0, now.step], "stopped once and resumed at the saved step, by a single trainer"
    assert [step["step"] for step in training_log.steps(log)] == list(range(1, STEPS + 1))
    assert all(finding.status == "verified" for finding in audit.audit(run.folder / "training" / "adapter"))


def test_the_report_requests_nothing_and_fits_a_phone(browser: Any, finished: Run) -> None:
    phone = browser.new_context(viewport={"width": 390, "height": 800}, offline=True)
    page, asked = phone.new_page(), []
    page.on("request", lambda request: asked.append(request.url))
    address = (finished.folder / "evaluation" / "report.html").as_uri()
    page.goto(address)
    assert [url for url in asked if not url.startswith("data:")] == [address]
    assert page.evaluate("() => document.documentElement.scrollWidth <= window.innerWidth"), "the page is wider than the phone"
    assert page.evaluate("() => [...document.images].map(one => one.complete && one.naturalWidth > 0)") == [True] * 3
    assert all(words and "nats per supervised token" in words for words in page.evaluate("() => [...document.images].map(one => one.alt)"))
    assert page.pdf().startswith(b"%PDF")
    phone.close()
