"""What is said before a training: steps, documents of a domain, and what `ship` needs."""

import pytest

from mistral_lib.evaluation import enough_data, paired_difference, verdict
from mistral_lib.run import params, paths
from mistral_lib.run.settings import Settings
from mistral_lib.training import workload
from tests.evaluation.test_verdict import GOOD, voted
from tests.support.corpora import short_run

FEWEST = paired_difference.FEWEST


@pytest.mark.parametrize(
    ("changes", "tokens", "words"),
    [
        ({}, 1_000_000, "504 optimizer steps (2 epochs); one pass over the data takes 252"),
        ({}, 60_000, "32 optimizer steps (2 epochs); one pass over the data takes 16. Few: below some 50 steps"),
        ({"max_steps": 60}, 60_000, "60 optimizer steps (set by max_steps); one pass over the data takes 16"),
        ({"max_steps": 12, "gradient_accumulation_steps": 1}, 60_000, "12 optimizer steps (set by max_steps); one pass over the data takes 61. Few"),
    ],
)  # fmt: skip
def test_the_steps_that_the_data_make_and_a_warning_if_they_are_few(changes: dict, tokens: int, words: str) -> None:
    settings = Settings(**changes)
    text = workload.steps_text(settings, workload.work_of(settings, tokens))
    assert text.startswith(words) and (text == words or "Few" in words)


def test_the_advice_for_few_steps_is_what_gives_more_of_them() -> None:
    def advice(settings: Settings) -> str:
        return workload.steps_text(settings, workload.work_of(settings, 60_000)).partition("learn; ")[2]

    assert (
        advice(Settings())
        == "a lower gradient_accumulation_steps gives more steps (a step now takes 8 blocks), more epochs give more steps, more data helps most"
    )
    assert advice(short_run()) == "max_steps = 0 trains for all of epochs = 1, more data helps most"
    assert advice(Settings(gradient_accumulation_steps=1, max_steps=49, max_tokens=4096)) == "more data helps most", "more than it has"


def test_domains_with_too_few_test_documents_are_named() -> None:
    report = {
        "domains": {"train": {"a": 90, "b": 9, "c": 1}, "test": {"a": 40, "b": 8}},
        "documents": {"test": {"a": FEWEST, "b": FEWEST - 1}},
    }
    text = enough_data.domains(Settings(test_share=0.1), report)
    assert f"from {FEWEST} test documents on, so it needs some {FEWEST * 10} documents in all" in text
    assert text.endswith(f"Too few test documents in 2 of 3 domains: b {FEWEST - 1}, c 0.")
    assert "max_test_tokens = 8,192 tokens are measured" in enough_data.domains(short_run(), report)
    assert enough_data.domains(Settings(), {}).endswith("(test_share = 0.08)."), "nothing is prepared"
    assert "Too few" not in enough_data.domains(Settings(), {"domains": {}}), "an older report has no documents"


def test_what_ship_needs_names_every_rule_and_what_the_parameters_rule_out() -> None:
    own = {**GOOD, "own_retention": GOOD["retention"], "votes": voted(20, 5)}
    for result, settings in ((GOOD, Settings()), (own, Settings(retention_paths=["own.jsonl"]))):
        needs = [need.split(":")[0].split(",")[0] for need in verdict.needs(settings)]
        rules = {one["rule"] for one in verdict.rules(result, settings)} - {verdict.ACTIVE}
        assert rules <= set(needs) and set(needs) - rules <= {"preferred in a blind vote", "labels better"}
    few = "\n".join(verdict.needs(Settings(sample_count=4, general_prompts=0)))
    assert "sample_count is too low for that" in few and "general_prompts is too low for that" in few
    enough = "\n".join(verdict.needs(params.load(paths.params() / "g5_mistral_7b.yaml")))
    assert "too low" not in enough and f"{verdict.fewest(0.95)} answers or more" in enough and f"{FEWEST} test documents" in enough


def test_the_text_has_a_line_each_and_a_list() -> None:
    settings = Settings()
    steps, domains, head, *needs = enough_data.text(settings, workload.work_of(settings, 60_000)).splitlines()
    assert "optimizer steps" in steps and "A domain is judged" in domains and head == "The verdict `ship` needs:"
    assert [need.removeprefix("- ") for need in needs] == verdict.needs(settings)
