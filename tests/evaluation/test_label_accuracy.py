"""Labels: metrics against numbers by hand, which records are measured, and a run on a small label corpus with a tiny model."""

import random
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mistral_lib.evaluation import evaluate, generation, label_accuracy, paired_difference
from mistral_lib.evaluation.label_accuracy import Labels
from mistral_lib.model import base_model, likelihood
from mistral_lib.preparation import explore, prepare
from mistral_lib.run import Run, files, params
from tests.evaluation.test_evaluate import train
from tests.support.corpora import other

LABELS = ("positive", "negative", "neutral")
NAMES = ["a", "b", "c"]


def test_scores_by_hand() -> None:
    label, answer = np.array([0, 0, 0, 0, 1, 1, 1, 2]), np.array([0, 0, 0, 1, 1, 3, 0, 1])
    found = label_accuracy.scores(label, answer, NAMES)
    assert found["confusion"] == [[3, 1, 0, 0], [1, 1, 0, 1], [0, 1, 0, 0]] and found["accuracy"] == 0.5
    a, b, c = found["by_label"]
    assert (a["label"], a["records"], a["precision"], a["recall"], a["f1"]) == ("a", 4, 0.75, 0.75, 0.75)
    assert (b["records"], b["precision"], b["recall"], b["f1"]) == (3, pytest.approx(1 / 3), pytest.approx(1 / 3), pytest.approx(1 / 3))
    assert (c["records"], c["precision"], c["recall"], c["f1"]) == (1, 0.0, 0.0, 0.0)
    assert found["macro_f1"] == pytest.approx((0.75 + 1 / 3 + 0) / 3)


def test_a_label_that_is_neither_right_nor_answered_does_not_count_in_macro_f1() -> None:
    assert label_accuracy.scores(np.array([0, 1]), np.array([0, 1]), NAMES)["macro_f1"] == 1.0
    assert label_accuracy.scores(np.array([0, 1]), np.array([0, 2]), NAMES)["macro_f1"] == pytest.approx(1 / 3), "an answered one does"
    nothing = label_accuracy.scores(np.array([0, 1]), np.array([3, 3]), NAMES)
    assert nothing["macro_f1"] == nothing["accuracy"] == 0.0


def flags(*counts: int) -> tuple[np.ndarray, np.ndarray]:
    """Right with base and adapter, for the numbers of records in which both, the adapter alone, the base model alone, none is right."""
    pairs = [(True, True)] * counts[0] + [(False, True)] * counts[1] + [(True, False)] * counts[2] + [(False, False)] * counts[3]
    return tuple(np.array(column) for column in zip(*pairs, strict=True))


def test_the_difference_is_paired_and_its_interval_has_a_width() -> None:
    one, two = flags(20, 15, 3, 2)
    ids = [str(n) for n in range(40)]
    found = label_accuracy.difference(one, two, ids)
    assert found["difference"] == pytest.approx(0.3) and 0.08 < found["low"] < 0.3 < found["high"] < 0.55
    assert found["documents"] == 40 and found["sign_p"] == pytest.approx(0.00754, abs=1e-5), "McNemar, exact: 15 against 3"
    clustered = label_accuracy.difference(one, two, [str(n // 5) for n in range(40)])
    assert clustered["documents"] == 8 and clustered["high"] - clustered["low"] > found["high"] - found["low"]
    assert found == label_accuracy.difference(one, two, ids)


@pytest.mark.parametrize(("counts", "value"), [((0, 6, 0, 0), 1.0), ((6, 0, 0, 0), 0.0), ((0, 0, 0, 6), 0.0), ((0, 0, 6, 0), -1.0)])
def test_records_that_all_agree_do_not_give_an_interval_without_width(counts: tuple[int, ...], value: float) -> None:
    found = label_accuracy.difference(*flags(*counts), list(map(str, range(6))))
    assert found["difference"] == value and -1 <= found["low"] < found["high"] <= 1 and found["low"] <= value <= found["high"]
    assert found["high"] - found["low"] > 0.2


def test_few_documents_have_no_interval() -> None:
    found = label_accuracy.difference(*flags(2, 2, 0, 0), list(map(str, range(4))))
    assert (found["difference"], found["low"], found["high"]) == (0.5, None, None) and paired_difference.FEWEST == 5


def test_a_text_is_a_label_in_any_spelling_and_nothing_else_of_it() -> None:
    canned = "Thank you for your message, we have sent your parcel today."
    labels = Labels(["-5", "5", "正面", canned], [], [3, 7, 7, 1])
    assert labels.numbers([" 5\n", "-5", "5.", "55", "正面。", canned.lower(), "", "neither"]) == [1, 0, 1, 4, 2, 3, 4, 4]
    assert labels.majority == 1 and labels.numbers([]) == []


# -- a run ----------------------------------------------------------------------------------------------------------------


def label_rows(count: int) -> list[dict[str, Any]]:
    """Reviews with a word that carries the label; half of the rows are positive."""
    rng = random.Random(1)
    found = []
    for n in range(count):
        label = LABELS[(0, 0, 1, 2)[n % 4]]
        words = rng.choices([f"w{k}" for k in range(400)], k=9)
        found.append({"text": " ".join([*words, {"positive": "sun", "negative": "rain", "neutral": "stone"}[label]]), "label": label})
    return found


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> Path:
    from tests.support.corpora import rows, short_run

    place = tmp_path_factory.mktemp("labels")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(place))
        files.write_json_lines(place / "corpora" / "own" / "reviews.jsonl", label_rows(320))
        files.write_json_lines(place / "corpora" / "own" / "free.jsonl", rows("free", 60))
        run = Run.open(short_run(
            run_name="own", corpus_paths=["corpora/own"], base_model=tiny_model, max_tokens=128, max_steps=4, checkpoint_every_steps=4,
            validate_every_steps=0, learning_rate=5e-3, validation_share=0.1, test_share=0.15, max_validation_tokens=1024, shortest_answer=1,
            max_test_tokens=1024, max_probe_tokens=512, sample_count=2, max_new_tokens=8, general_prompts=0, group_key="", objective="answers",
            most_repeated_pattern=0, quantization="none", dtype="float32",
        ))  # fmt: skip
        prepare.prepare(run)
        train(run)
        evaluate.evaluate(run)
    return place


@pytest.fixture
def run(trained: Path, home: Path) -> Run:
    shutil.copytree(trained, home, dirs_exist_ok=True)
    return Run.existing(home / "runs" / "own")


def result_of(run: Run) -> dict[str, Any]:
    return files.read_json(run.folder / "evaluation" / "result.json")


def test_a_run_reports_accuracy_of_base_and_adapter_and_shows_it_first(run: Run) -> None:
    found = result_of(run)["labels"]
    test = [row for row in evaluate.read_records(run.folder / "data", "test") if row["domain"] == "reviews"]
    facts = found["domains"]["reviews"]
    assert set(found["domains"]) == {"reviews"} and found["records"] == found["of"] == len(test) > 30 and found["left_out"] == {}
    counts = [sum(row["messages"][-1]["content"] == label for row in test) for label in facts["labels"]]
    assert set(facts["labels"]) == set(LABELS) and facts["majority_label"] == "positive"
    assert facts["majority_accuracy"] == counts[facts["labels"].index("positive")] / len(test) == found["majority_accuracy"]
    for way in label_accuracy.WAYS:
        for who in ("base", "adapter"):
            scores = facts[way][who]
            assert [sum(row) for row in scores["confusion"]] == counts == [one["records"] for one in scores["by_label"]]
            assert scores["accuracy"] == sum(row[n] for n, row in enumerate(scores["confusion"])) / len(test) == found[way][who]["accuracy"]
        assert facts[way]["difference"]["difference"] == pytest.approx(facts[way]["adapter"]["accuracy"] - facts[way]["base"]["accuracy"])
    assert all(row[-1] == 0 for row in facts["likelihood"]["adapter"]["confusion"]), "a label is always the most likely one"
    page = (run.folder / "evaluation" / "report.html").read_text()
    assert page.index("<h2>The rules</h2>") < page.index("<h2>Labels</h2>") < page.index("<h2>Loss by domain</h2>")
    assert f"Measured on {len(test)} of {len(test)} test records" in page and "right answers on the diagonal: base " in page
    assert "labels better" in page and "## Accuracy of the most likely label" in (run.folder / "evaluation" / "model_card.md").read_text()


def test_the_most_likely_label_is_that_of_a_plain_loop(run: Run) -> None:
    """One text at a time: the log-probability of the label's tokens and of the end token after the prompt."""
    import torch

    from mistral_lib.tokens import chat_format

    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    model = base_model.load_adapter(run.settings, run.folder / "training" / "adapter").eval()
    facts = result_of(run)["labels"]["domains"]["reviews"]
    test = [row for row in evaluate.read_records(run.folder / "data", "test") if row["domain"] == "reviews"]
    confusion = np.zeros((3, 4), int)
    for row in test:
        prompt, nats = chat_format.prompt_ids(tokenizer, row["messages"][:-1]), []
        for label in facts["labels"]:
            answer = [*tokenizer(label, add_special_tokens=False).input_ids, tokenizer.eos_token_id]
            with torch.no_grad():
                logits = model(input_ids=torch.tensor([prompt + answer])).logits[0, len(prompt) - 1 : -1]
            nats.append(torch.nn.functional.cross_entropy(logits.double(), torch.tensor(answer), reduction="sum").item())
        confusion[facts["labels"].index(row["messages"][-1]["content"]), int(np.argmin(nats))] += 1
    assert np.abs(confusion - np.array(facts["likelihood"]["adapter"]["confusion"])).sum() <= 2, "at most one tie in rounding"


def test_fewer_records_are_measured_if_asked_and_nothing_is_measured_twice(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    few = evaluate.evaluate(other(run, max_label_records=12))["labels"]
    assert (few["records"], few["of"], few["left_out"]) == (
        12,
        result_of(run)["labels"]["of"],
        {"beyond max_label_records": few["of"] - 12},
    )
    monkeypatch.setattr(likelihood, "choice_losses", None)  # measuring again would fail
    monkeypatch.setattr(base_model, "load_adapter", None)  # and so would loading a model
    assert evaluate.evaluate(other(run, max_label_records=12, min_stop_rate=0.5))["labels"] == few


def test_records_that_cannot_be_measured_are_counted_by_reason(run: Run) -> None:
    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    data = run.folder / "data"
    labels = label_accuracy.read_labels(data)
    rows = [row for row in evaluate.read_records(data, "test") if row["domain"] == "reviews"][:4]
    rows[0]["messages"][-1] = {"role": "assistant", "content": "I cannot say."}
    rows[1]["messages"][0] = {"role": "user", "content": "word " * 200}
    rows[2]["messages"] = None
    asked, left_out = label_accuracy.questions(tokenizer, rows, labels, run.settings)
    assert len(asked) == 1 and left_out == {"answer is no label": 2, "longer than max_tokens": 1}
    assert label_accuracy.questions(tokenizer, [{"domain": "free"}], labels, run.settings) == ([], {})
    earlier = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello"}, *rows[3]["messages"]]
    (chat,), _ = label_accuracy.questions(tokenizer, [{**rows[3], "messages": earlier}], labels, run.settings)
    assert [one.supervised for one in chat.windows] == [one.supervised for one in asked[0].windows], "graded is the label alone"


def test_without_label_domains_there_is_nothing_to_measure(trained_run: Run) -> None:
    settings: params.Settings = trained_run.settings
    assert label_accuracy.measure(None, [], trained_run.folder / "data", settings, None, None) is None


def test_the_inventory_names_the_labels_with_their_counts(run: Run) -> None:
    found = explore.explore(run)["totals"]["label_domains"]
    assert found == {"reviews": {"labels": {"positive": 160, "negative": 80, "neutral": 80}, "majority_share": 0.5}}


def test_long_prompts_are_answered_in_smaller_batches() -> None:
    limit, most = generation.AT_ONCE, generation.LONGEST_PROMPT
    rows = list(range(2 * limit + 1))
    assert [len(batch) for batch in generation.batches(rows, [most] * len(rows))] == [limit, limit, 1]
    lengths = [most] * 5 + [2 * most] * 15 + [100 * most]
    batches = generation.batches(rows[:21], lengths)
    assert [len(batch) for batch in batches] == [10, 10, 1] and [row for batch in batches for row in batch] == rows[:21]


@pytest.mark.parametrize(
    ("labels", "limit", "most"), [(2, 200, 200), (20, 200, 200), (77, 200, 51), (200, 200, 20), (200, 12, 12), (200, 0, None)]
)
def test_with_many_labels_fewer_records_are_measured(labels: int, limit: int, most: int | None) -> None:
    names = [f"label {n}" for n in range(labels)]
    own = {"a": label_accuracy.Labels(names, [], []), "b": label_accuracy.Labels(names[:2], [], [])}
    assert label_accuracy.most_records(own, limit) == most
