"""The report's first lines, for somebody who reads nothing else: what was trained on what, and the next three actions."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from mistral_lib.evaluation import verdict
from mistral_lib.model import base_model
from mistral_lib.run import Run, files
from mistral_lib.run.settings import Settings
from mistral_lib.training import workload

Facts = Mapping[str, Any]
SHOWN = 3  # actions


def what_was_trained(settings: Settings, training: Facts, data: Facts) -> str:
    """In plain words: the model, how long it was trained, and on what."""
    name, steps = base_model.shown_name(settings.base_model), one_pass(settings, data)
    size = f" of {training['base_parameters'] / 1e6:,.0f} million parameters" if training.get("base_parameters") else ""
    rehearsal = ", a small model for rehearsing the chain, not Mistral-7B" if settings.base_model.startswith("demo:") else ""
    share = (
        f"{training['steps'] / steps:.0%} of one pass over" if training["steps"] < steps else f"{training['steps'] / steps:.1f} passes over"
    )
    return (
        f"An adapter for {name}{size}{rehearsal}. It was trained for {training['steps']:,} steps, {share} "
        f"{data['split_sizes']['train']:,} training records ({data['tokens']['train']:,} tokens) from {', '.join(sources(settings))}."
    )


def one_pass(settings: Settings, data: Facts) -> int:
    """Optimizer steps of one pass over the training split."""
    return workload.steps_of_a_pass(settings, data["blocks"]["train"])


def sources(settings: Settings) -> list[str]:
    """The names of the sources without their folders, as somebody else may read the page."""
    paths = [path.removeprefix("optional:") for path in settings.corpus_paths + settings.operatives_paths]
    return [path if path.startswith("demo:") else path.rstrip("/").rsplit("/", 1)[-1] for path in paths]


def actions_of(run: Run, result: Facts) -> list[str]:
    """`next_actions` of an evaluated run, numbered."""
    training, data = (files.read_json(run.folder / name) for name in ("training/result.json", "data/report.json"))
    return [f"{number}. {action}" for number, action in enumerate(next_actions(run.settings, result, training, data), 1)]


def next_actions(settings: Settings, result: Facts, training: Facts, data: Facts) -> list[str]:
    """The most useful next steps, at most three, the most urgent first."""
    found = [*_failed(result), *_training(settings, training, data), *_unknown(settings, result, data), *_beyond(settings, result)]
    return list(dict.fromkeys(found))[:SHOWN]


def _failed(result: Facts) -> Iterator[str]:
    advice = {
        "labels better": "Look at the confusion of the labels below: train longer, and check the rows of labels that are confused.",
        "better overall": "Look at the validation curve below: if it rises, train with a lower learning_rate or fewer epochs; if answers "
        "and prompts do not belong together in the corpus, correct them first.",
        "no domain worse": "Look at records of the domains that got worse (notebook 01), and give them more weight (domain_weights).",
        "prompts still count": "Check that each answer in the corpus belongs to its prompt: the adapter has learned to ignore prompts.",
        "little forgotten": "Train with a lower learning_rate or fewer epochs, or add general chats to the corpus.",
        "own texts kept": "Train with a lower learning_rate or fewer epochs, or add texts like those of retention_paths to the corpus.",
        "answers stop": "Look at answers that do not end: were the answers of the corpus cut off, or is max_new_tokens too small?",
        "preferred in a blind vote": "Read the pairs in which people preferred the base model before you train again.",
    }
    yield from (advice[one["rule"]] for one in result["rules"] if one["outcome"] == verdict.FAILED and one["rule"] in advice)


def _training(settings: Settings, training: Facts, data: Facts) -> Iterator[str]:
    made, steps = training["steps"], one_pass(settings, data)
    if training.get("stopped_by"):
        return
    if made < steps:
        yield f"Train longer: {made:,} of about {steps:,} steps that one pass takes (max_steps: 0 trains for `epochs` passes)."
    elif made < workload.FEW_STEPS:
        yield f"Train longer (max_steps: 0, more epochs), or on more data: below some {workload.FEW_STEPS} steps, here {made:,}, an adapter has hardly begun to learn."


def _unknown(settings: Settings, result: Facts, data: Facts) -> Iterator[str]:
    measured, there = result["overall"]["records"], result["test_records_in_split"]
    tokens = [name for name in ("max_test_tokens", "max_probe_tokens") if 0 < getattr(settings, name) < data["tokens"]["test"]]
    of_test = _measure_more(name for name in tokens if name == "max_test_tokens")
    of_labels = _measure_more(
        ["max_label_records"] if "beyond max_label_records" in (result.get("labels") or {}).get("left_out", {}) else []
    )
    advice = {
        "labels better": f"{of_labels}, or train longer: the adapter's labels are not yet better beyond "
        "chance than the base model's and than always the most frequent one.",
        verdict.ACTIVE: "Train again: the adapter changes nothing.",
        "better overall": f"{of_test}: {measured:,} of {there:,} test records were measured.",
        "no domain worse": f"{of_test}: a domain has too few documents to be judged.",
        "prompts still count": f"{_measure_more(tokens)}: too few answers were measured after another prompt.",
        "little forgotten": "Measure forgetting on all general prompts (general_prompts: 60).",
        "own texts kept": "Measure more of your own texts: more files in retention_paths"
        + (", and max_probe_tokens: 0." if settings.max_probe_tokens else "."),
        "answers stop": f"Let both models answer more prompts (sample_count: {max(2 * verdict.fewest(settings.min_stop_rate), 40)}), with room "
        "for the answer to end (max_new_tokens).",
        "preferred in a blind vote": "Vote on more pairs of answers (notebook 04).",
    }
    yield from (advice[one["rule"]] for one in result["rules"] if one["outcome"] == verdict.UNKNOWN)


def _measure_more(limits: Iterable[str]) -> str:
    """How more is measured. limits: the parameters that left something of the test split out; without one, only more test data help."""
    named, more = ", ".join(f"{name}: 0" for name in limits), "prepare with a larger test_share, or add data"
    return f"Measure more ({named}); if that is not enough, {more}" if named else more.capitalize()


def _beyond(settings: Settings, result: Facts) -> Iterator[str]:
    if result["votes"]["adapter"] + result["votes"]["base"] < verdict.FEWEST_VOTES:
        yield "Vote on pairs of answers without knowing which model wrote which (notebook 04): a lower loss is not a better answer."
    if settings.base_model.startswith("demo:"):
        yield "Train the real model on a GPU instance: `python -m mistral_lib plan params/g5_mistral_7b.yaml` shows time and price."
    yield "Measure the adapter on your own task before others use it."
