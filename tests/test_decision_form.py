"""The decision form, operated through its Python objects: what it finds, refuses and writes."""

import pytest

from mistral_lib import params
from mistral_lib.decision_form import DecisionForm, planned


@pytest.fixture
def form(settings, corpus) -> DecisionForm:
    return DecisionForm(settings)


def test_it_says_what_is_found_at_the_corpus_paths(form: DecisionForm, corpus) -> None:
    assert "3 files" in form.found.value and "prompt_completion: blue.jsonl, green.jsonl, red.jsonl" in form.found.value
    (corpus / "notes.jsonl").write_text('{"ask": "a", "reply": "b"}\n')
    (corpus / "half.jsonl").write_text('{"prompt": "half')
    form.controls["corpus_paths"].value = "corpora/small/notes.jsonl"
    assert "no record (unknown_shape with the keys ask, reply: say with `columns` which is what): notes.jsonl" in form.found.value
    form.controls["corpus_paths"].value = "corpora/small\noptional:corpora/elsewhere"
    lines = form.found.value.split("<br>")
    assert "5 files" in lines[1] and "no record" in lines[2] and "no record" in lines[3] and "prompt_completion" in lines[4], (
        "what needs a decision first"
    )
    assert "corpora/elsewhere is optional and was left out" in form.found.value


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
    changed = {name for name in saved.names() if getattr(saved, name) != getattr(form.given, name)}
    assert changed == {"run_name", "objective", "max_tokens", "max_steps"}, "what the form does not show stays as it was given"
    assert "python -m mistral_lib run runs/mine.yaml" in form.said.value and "max_tokens = 256" in form.said.value


def test_it_never_overwrites_silently(form: DecisionForm, home) -> None:
    form.save.click()
    path = home / "runs" / "small.yaml"
    first = path.read_bytes()
    form.save.click()
    assert "says exactly this already" in form.said.value
    form.controls["max_tokens"].value = 256
    form.save.click()
    assert "Not saved" in form.said.value and "max_tokens" in form.said.value and path.read_bytes() == first
    form.replace.value = True
    form.save.click()
    assert "replaced" in form.said.value and params.load(path).max_tokens == 256


def test_the_permission_to_replace_holds_for_what_was_shown_only(form: DecisionForm) -> None:
    form.replace.value = True
    form.controls["max_steps"].value = 5
    assert not form.replace.value


def test_the_estimate_is_asked_whenever_a_decision_changes(settings, corpus) -> None:
    form = DecisionForm(settings, estimate=lambda s: f"{s.max_steps * s.max_tokens} tokens on {s.instance}")
    assert not form.verdict.value, "nobody waits for a plan where no form is shown"
    form.controls["instance"].value, form.controls["max_steps"].value = "g5.xlarge", 10
    assert "1280 tokens on g5.xlarge" in form.verdict.value
    form.controls["corpus_paths"].value = "corpora/nowhere"
    assert not form.verdict.value, "no estimate for what is not there"


def test_where_nothing_can_be_estimated_yet_the_form_says_why_and_saves_all_the_same(settings, corpus, home) -> None:
    form = DecisionForm(settings, planned)
    form.controls["max_steps"].value = 7
    assert "No estimate" in form.verdict.value and "notebook 01" in form.verdict.value
    form.save.click()
    assert params.load(home / "runs" / "small.yaml").max_steps == 7


def test_the_plan_names_fit_hours_and_price_of_the_chosen_instance(prepared) -> None:
    form = DecisionForm(prepared.settings, planned)
    form.controls["instance"].value = "g5.xlarge"
    assert (
        "g5.xlarge" in form.verdict.value and "fits" in form.verdict.value and "USD" in form.verdict.value and "GiB" in form.verdict.value
    )


def test_headless_it_is_the_values_as_they_could_be_typed(form: DecisionForm) -> None:
    plain = form._repr_mimebundle_()["text/plain"]
    assert "corpus_paths = ['corpora/small']" in plain and "3 files" in plain and str(form.given.max_tokens) in plain
