"""The decision form, operated through its Python objects: what it finds, refuses and writes."""

import html
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistral_lib import __main__
from mistral_lib.corpus import sources
from mistral_lib.display import run_estimate, source_preview
from mistral_lib.display.decision_form import DecisionForm
from mistral_lib.display.run_estimate import Estimate, RentalOptions
from mistral_lib.display.widget_base import BackgroundJob
from mistral_lib.preparation import explore
from mistral_lib.run import Run, params
from mistral_lib.run import paths as places
from mistral_lib.run.settings import Settings, limits, meaning
from mistral_lib.training import workload
from tests.support.corpora import short_run


def no_estimate(*_: object) -> Iterator[Estimate]:
    """No estimate, for tests of what the page shows immediately."""
    return iter(())


@pytest.fixture
def form(settings, corpus) -> DecisionForm:
    return DecisionForm(settings, estimate=no_estimate)


def settled(form: DecisionForm) -> str:
    """The form's verdict after all background work of the page has ended."""
    form.counting.wait()
    form.estimating.wait()
    return form.verdict.value


@pytest.mark.skipif(not Path("/proc/self/mem").is_file(), reason="needs a file that even root cannot read, as Linux has one")
def test_a_file_that_cannot_be_read_is_reported_in_the_form_and_not_only_in_a_log(form: DecisionForm, corpus) -> None:
    (corpus / "unreadable.jsonl").symlink_to("/proc/self/mem")  # it can be opened, but reading it is an I/O error
    form.controls["corpus_paths"].value = "corpora/small/"
    assert "Not found:" in form.found.value and "unreadable.jsonl (corpus_paths): cannot be read" in form.found.value
    assert form.save.disabled


def test_it_shows_what_is_found_at_the_corpus_paths(form: DecisionForm, corpus) -> None:
    assert "3 files" in form.found.value and "prompt_completion: blue.jsonl, green.jsonl, red.jsonl" in form.found.value
    (corpus / "notes.jsonl").write_text('{"ask": "a", "reply": "b"}\n')
    (corpus / "half.jsonl").write_text('{"prompt": "half')
    form.controls["corpus_paths"].value = "corpora/small/notes.jsonl"
    assert "no record (unknown_shape, its keys: ask, reply; assign them in the parameters cell: columns = {" in form.found.value
    (corpus / "nothing.txt").write_text("")
    form.controls["corpus_paths"].value = "corpora/small/notes.jsonl\ncorpora/small/nothing.txt"
    assert "no row could be read from it (empty_file in nothing.txt)" in form.found.value
    form.controls["corpus_paths"].value = "corpora/small"
    assert "no record (empty_file): nothing.txt" in form.found.value, "columns would not help, so they are not suggested"
    (corpus / "nothing.txt").unlink()
    form.controls["corpus_paths"].value = "corpora/small\noptional:corpora/elsewhere"
    lines = form.found.value.split("<br>")
    assert "5 files" in lines[1] and "no record" in lines[2] and "no record" in lines[3] and "prompt_completion" in lines[4], (
        "files that need a decision come first"
    )
    assert "corpora/elsewhere is optional and was left out" in form.found.value


def test_each_field_has_a_plain_label_its_name_and_a_tooltip(form: DecisionForm) -> None:
    for name, control in form.controls.items():
        label = html.unescape(control.description)
        words = label.split(">")[1].split("<")[0].strip()
        assert words and "_" not in words and words != name, "a label in plain words"
        assert f">{name}</span>" in label and control.description_allow_html, "the parameter's name stands beside it"
        assert meaning(name) in label and limits(name) in label and "default: " in label, (
            "in the label, since a text field shows no tooltip"
        )
    assert 'title="Fill the form' in form.start.description


def test_of_many_files_those_that_are_not_named_at_once_are_folded(form: DecisionForm, corpus) -> None:
    names = [f"note_{number:02}.txt" for number in range(11)]
    for name in names:
        (corpus / name).write_text("A note.")
    form.controls["max_steps"].value = 7
    shown, _, folded = form.found.value.partition("<details><summary>and 3 more</summary>")
    assert [name for name in names if name in shown] == names[:8] and [name for name in names if name in folded] == names[8:]
    assert all(name in DecisionForm(form.given).plain for name in names), "in plain text, which has no folding, all are named"


def test_files_whose_first_row_is_not_read_are_named_too(settings, corpus, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(source_preview, "MOST_READ", 1)
    _, lines = source_preview.preview(settings)
    assert lines[-1].plain() == "2 files whose first row is not read here: green.jsonl, red.jsonl"


def test_the_page_says_at_once_what_a_click_or_a_change_started(form: DecisionForm) -> None:
    shown: dict[str, list[str]] = {"found": [], "message": []}
    form.found.observe(lambda change: shown["found"].append(change.new), "value")
    form.message.observe(lambda change: shown["message"].append(change.new), "value")
    form.controls["max_steps"].value = 7
    assert "opening the files" in shown["found"][0] and "Found:" in shown["found"][-1]
    form.save.click()
    assert "saving" in shown["message"][0] and "Saved:" in shown["message"][-1]


def test_a_path_with_nothing_there_cannot_be_saved(form: DecisionForm) -> None:
    form.controls["corpus_paths"].value = "corpora/nowhere"
    assert "Not found" in form.found.value and "no such file" in form.found.value and form.save.disabled
    form.controls["corpus_paths"].value = "corpora/small"
    assert not form.save.disabled


def test_an_impossible_value_is_named_and_cannot_be_saved(form: DecisionForm) -> None:
    form.controls["max_steps"].value = -3
    assert "max_steps = -3" in form.verdict.value and form.save.disabled
    form.controls["run_name"].value = "no blanks, please"
    assert "max_steps = -3" in form.verdict.value and "run_name = " in form.verdict.value, "every fault at once"


def test_it_writes_exactly_what_headless_runs_take(form: DecisionForm, home) -> None:
    form.controls["run_name"].value, form.controls["objective"].value = "mine", "answers"
    form.controls["max_tokens"].value, form.controls["max_steps"].value = 256, 0
    form.save.click()
    path = home / "runs" / "mine.yaml"
    saved = params.load(path)
    assert path.read_text() == params.to_yaml(saved) and saved == form.settings()
    assert (Run.open(saved).folder / "params.yaml").read_text() == path.read_text(), "and the run folder has the same values"
    changed = {name for name in saved.names() if getattr(saved, name) != getattr(form.given, name)}
    assert changed == {"run_name", "objective", "max_tokens", "max_steps"}, "what the form does not show stays as it was given"
    assert "python -m mistral_lib run runs/mine.yaml" in form.message.value and "max_tokens = 256" in form.message.value


def test_it_never_overwrites_silently(form: DecisionForm, home) -> None:
    form.save.click()
    path = home / "runs" / "small.yaml"
    first = path.read_bytes()
    form.save.click()
    assert "has exactly these values already" in form.message.value
    form.controls["max_tokens"].value = 256
    form.save.click()
    assert "Not saved" in form.message.value and "max_tokens" in form.message.value and path.read_bytes() == first
    form.replace.value = True
    form.save.click()
    assert "replaced" in form.message.value and params.load(path).max_tokens == 256


def test_the_permission_to_replace_ends_when_a_value_changes(form: DecisionForm) -> None:
    form.replace.value = True
    form.controls["max_steps"].value = 5
    assert not form.replace.value


def test_no_estimate_is_started_before_the_form_is_shown(settings, corpus) -> None:
    form = DecisionForm(settings, estimate=lambda *_: pytest.fail("an estimate was started"))
    assert "Change a value" in form.verdict.value and not form.rows.value


def test_rows_are_counted_and_what_cannot_be_read_is_reported(settings, corpus) -> None:
    form = DecisionForm(settings)
    (corpus / "half.jsonl").write_text('{"prompt": "half')
    form.controls["max_steps"].value = 7
    settled(form)
    assert "601 rows, 1 of them are no record" in form.rows.value
    form.controls["corpus_paths"].value = "corpora/small/red.jsonl"
    settled(form)
    assert "<b>200 rows</b>" in form.rows.value
    form.controls["corpus_paths"].value = "corpora/smal"
    settled(form)
    assert not form.rows.value and "Not found" in form.found.value and not form.verdict.value, "earlier figures are no longer shown"


def test_changing_a_decision_changes_memory_time_and_usd(settings, corpus) -> None:
    form = DecisionForm(settings.model_copy(update={"micro_batch_size": 32}))
    form.controls["instance"].value = "g5.xlarge"
    first = settled(form)
    assert "needs" in first and "of 22.0 GiB: fits" in first and "guessed from" in first and "at 1.006 an hour" in first
    assert "less than 0.01" in first and "<td>8 optimizer steps" in first
    form.controls["max_steps"].value = 1_000_000
    second = settled(form)
    assert usd(second) > 0.01 and "<td>1,000,000 optimizer steps" in second
    form.controls["max_tokens"].value = 512
    assert gib(settled(form)) > gib(second)


def usd(verdict: str) -> float:
    return float(verdict.split("<b>USD</b></td><td>")[1].split(" – ")[1].split(",")[0])


def gib(verdict: str) -> float:
    return float(verdict.split("needs ")[1].split(" of ")[0])


def test_the_counts_of_a_run_are_used_only_for_the_data_that_it_read(settings, corpus) -> None:
    run = Run.open(settings)
    explore.explore(run)
    found = sources.of_settings(settings)
    assert "estimated from corpus/inventory.json" in workload.work_of(settings, source_files=found).origin
    other = settings.model_copy(update={"corpus_paths": ["corpora/small/red.jsonl"], "max_steps": 0})
    work = workload.work_of(other, source_files=sources.of_settings(other))
    size = (corpus / "red.jsonl").stat().st_size
    assert "guessed from" in work.origin and work.train_tokens == pytest.approx(size / workload.BYTES_PER_TOKEN * 0.7, rel=0.1)


def test_if_a_run_does_not_fit_the_form_offers_values_that_fit(settings, corpus) -> None:
    heavy = settings.model_copy(
        update={"base_model": "mistralai/Mistral-7B-Instruct-v0.3", "instance": "g4dn.xlarge", "max_tokens": 1024, "micro_batch_size": 2}
    )
    form = DecisionForm(heavy)
    form.controls["max_steps"].value = 9
    verdict = settled(form)
    assert (
        "does not fit as set, but with micro_batch_size = 1, gradient_accumulation_steps = 2" in verdict
        and not form.use_fitting.layout.display
    )
    form.use_fitting.click()
    assert "GiB: fits" in settled(form) and form.use_fitting.layout.display == "none"
    assert (form.settings().micro_batch_size, form.settings().gradient_accumulation_steps) == (1, 2)


BUDGET = Settings(instance="g5.xlarge")
HOURS = (2 * 3600.0, 4 * 3600.0)


@pytest.mark.parametrize(
    ("limits", "words"),
    [
        ({}, "none: training runs to its last step"),
        ({"max_hours": 5.0}, "max_hours = 5 is not reached"),
        ({"max_hours": 3.0}, "max_hours = 3 may stop it after 3 hours, at step 75 of 100 at the earliest"),
        ({"max_hours": 1.0}, "max_hours = 1 stops it after 60 minutes, between step 25 and 50 of 100"),
        ({"max_usd": 1.006}, "max_usd = 1.006 stops it after 60 minutes, between step 25 and 50 of 100"),
        ({"max_usd": 1.006, "max_hours": 0.5}, "max_hours = 0.5 stops it after 30 minutes, between step 12 and 25 of 100"),
    ],
)
def test_the_budget_is_reported_as_the_step_at_which_it_stops(limits: dict, words: str) -> None:
    sentence = run_estimate.budget(BUDGET.model_copy(update=limits), HOURS, 100, params.instances()["g5.xlarge"]["usd_per_hour"])
    assert sentence.startswith(words)


def test_a_budget_is_saved_and_one_that_is_never_reached_is_refused(settings, corpus, home) -> None:
    form = DecisionForm(settings, estimate=no_estimate)
    form.controls["max_usd"].value = 2.0
    assert "never reached: instance cpu is free" in form.verdict.value and form.save.disabled
    form.controls["instance"].value = "g4dn.xlarge"
    form.controls["max_hours"].value = 1.5
    form.save.click()
    saved = params.load(home / "runs" / "small.yaml")
    assert (saved.max_usd, saved.max_hours) == (2.0, 1.5)


def test_the_hours_are_those_of_the_plan(settings, corpus) -> None:
    chosen = settings.model_copy(update={"instance": "g5.xlarge"})
    first = next(run_estimate.estimates(chosen, sources.of_settings(chosen)))
    assert first.seconds == workload.seconds(chosen, first.work, params.instances()["g5.xlarge"])


def test_few_steps_also_lower_the_checkpoint_interval(settings, corpus) -> None:
    form = DecisionForm(settings, estimate=no_estimate)
    form.controls["max_steps"].value = 1
    assert not form.save.disabled and form.settings().checkpoint_every_steps == 1
    form.controls["max_steps"].value = 8
    assert form.settings().checkpoint_every_steps == settings.checkpoint_every_steps


def test_with_a_folder_of_ones_own_nothing_of_the_demo_is_left(corpus, home) -> None:
    """The form of the demo, in which a person changes the paths, the name and one more value."""
    form = DecisionForm(short_run(), estimate=no_estimate)
    form.controls["epochs"].value = 3.0
    form.controls["corpus_paths"].value, form.controls["run_name"].value = "corpora/small", "mine"
    assert form.controls["operatives_paths"].value == "" and form.controls["max_steps"].value == 0
    form.save.click()
    assert params.load(home / "runs" / "mine.yaml") == Settings(run_name="mine", corpus_paths=["corpora/small"], epochs=3.0)
    assert "epochs = 3.0" in form.message.value and "max_steps" not in form.message.value, "what would have to be typed"
    form.controls["max_tokens"].value = 8192
    form.controls["corpus_paths"].value = "demo:corpus"
    assert (form.controls["operatives_paths"].value, form.controls["max_steps"].value) == ("demo:operatives", 40)
    assert form.controls["max_tokens"].value == 8192 and form.given.learning_rate == short_run().learning_rate
    assert "max_validation_tokens = 4096 is less than one block" in form.verdict.value and form.controls["epochs"].value == 3.0


def test_a_path_that_is_cleared_changes_nothing_else(corpus) -> None:
    form = DecisionForm(Settings(corpus_paths=["corpora/small"], max_steps=30, checkpoint_every_steps=10), estimate=no_estimate)
    form.controls["corpus_paths"].value = ""
    assert form.save.disabled and form.controls["operatives_paths"].value == "" and form.controls["max_steps"].value == 30


@pytest.mark.long
def test_the_form_and_the_plan_name_the_same_memory(settings, corpus, home, capsys, monkeypatch) -> None:
    """Nothing is prepared, so both estimate the tokens from the sizes of the files."""
    for instance, micro in (("cpu", 2), ("g4dn.xlarge", 64)):
        heavy = settings.model_copy(update={"instance": instance, "micro_batch_size": micro, "max_tokens": 512, "max_steps": 0})
        *_, last = run_estimate.estimates(heavy, sources.of_settings(heavy))
        file = home / "heavy.yaml"
        file.write_text(params.to_yaml(heavy))
        monkeypatch.setattr("sys.argv", ["mistral_lib", "plan", str(file)])
        __main__.main()
        printed, shown = capsys.readouterr().out, dict(last.rows())
        assert f"the run on {instance} {shown['memory']}." in printed and re.search(r"needs \d+\.\d of \d+\.\d GiB", shown["memory"])
        assert f"for {shown['data']};" in printed and "guessed from" in printed and shown["steps"] in printed


def test_it_starts_from_a_file(settings, corpus, home) -> None:
    form = DecisionForm(settings, estimate=no_estimate)
    form.start.value = "params/g4dn_mistral_7b.yaml"
    assert form.controls["base_model"].value == "mistralai/Mistral-7B-Instruct-v0.3" and "Not found" in form.found.value
    form.controls["corpus_paths"].value, form.controls["run_name"].value = "corpora/small", "rented"
    form.save.click()
    saved, started = params.load(home / "runs" / "rented.yaml"), params.load(places.params() / "g4dn_mistral_7b.yaml")
    assert saved == started.model_copy(update={"corpus_paths": ["corpora/small"], "run_name": "rented"})
    form.start.value = ""
    assert form.settings() == settings


def test_only_parameter_files_are_offered_to_start_from(form: DecisionForm) -> None:
    offered = {name for _, name in form.start.options if name}
    assert "params/demo.yaml" in offered
    assert not offered & {f"params/{name}" for name in params.OTHER_FILES}


def test_only_the_latest_request_is_answered() -> None:
    job, shown = BackgroundJob[str](), []
    job.start(iter(["old"]), shown.append, pytest.fail, pause=0.2)
    job.start(iter(["half", "whole"]), shown.append, pytest.fail, pause=0)
    job.wait()
    assert shown == ["half", "whole"]

    def goes_wrong():
        yield "first"
        raise OSError("no such disk")

    job.start(goes_wrong(), shown.append, lambda error: shown.append(str(error)), pause=0)
    job.wait()
    assert shown[2:] == ["first", "no such disk"], "an error of the background job is shown on the page"


def test_headless_it_shows_the_values_as_they_could_be_typed(form: DecisionForm) -> None:
    plain = form._repr_mimebundle_()["text/plain"]
    assert "corpus_paths = ['corpora/small']" in plain and "3 files" in plain and str(form.given.max_tokens) in plain


RENTALS = RentalOptions(
    machines=[{"machine": "g4dn.xlarge", "fits": "does not fit"}, {"machine": "g5.xlarge", "fits": "fits <b>"}],
    own=[{"id": "i-0123", "machine": "g5.xlarge"}],
    commands={"g4dn.xlarge": [], "g5.xlarge": ["python -m mistral_lib instance up runs/small.yaml --region <region>"]},
    notes=["Not seen: the account"],
)


def test_it_shows_machines_to_rent_and_the_command_that_the_decisions_come_to(settings, corpus, home) -> None:
    requested = []
    form = DecisionForm(settings, no_estimate, lambda changed: iter([requested.append(changed.instance) or RENTALS]))
    assert not form.machines.value, "nothing is looked for before a decision"
    form.controls["max_steps"].value = 7
    settled(form)
    shown = form.machines.value
    assert "fits &lt;b&gt;" in shown and "i-0123" in shown and "Not seen: the account" in shown
    assert "choose it as the machine in place of <b>cpu</b>" in shown and "instance up" not in shown
    form.controls["instance"].value = "g4dn.xlarge"
    settled(form)
    assert "cannot be rented for this run as it is" in form.machines.value
    form.controls["instance"].value = "g5.xlarge"
    assert "instance up" not in form.machines.value, "the earlier machines belong to other values"
    settled(form)
    assert "instance up runs/small.yaml --region &lt;region&gt;" in form.machines.value and requested[-1] == "g5.xlarge"
    form.save.click()
    assert "On a rented machine: python -m mistral_lib instance up runs/small.yaml" in form.message.value


def test_without_a_source_of_machines_nothing_is_said_of_them(form: DecisionForm) -> None:
    form.controls["max_steps"].value = 7
    settled(form)
    form.save.click()
    assert not form.machines.value and "rented" not in form.message.value


def test_headless_the_form_asks_for_no_machines(settings, corpus) -> None:
    form = DecisionForm(settings, no_estimate, lambda changed: pytest.fail("nobody waits for it"))
    assert "rent" not in form._repr_mimebundle_()["text/plain"]
