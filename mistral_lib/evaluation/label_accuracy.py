"""Label domains measured as what they are: how often base and adapter choose the right label, against always choosing the most frequent one.

A model answers in two ways. `likelihood`: the most likely label of the domain after the prompt. The log-likelihoods of the label's tokens
are summed, with the end token: the result is the probability of exactly this answer. A mean per token would prefer long labels whose
ending is easy to guess, and without the end token "good" could never be less likely than "good or bad". `generated`: the greedy answer,
which counts only if it ends by itself and is a label, in any spelling (label_domains.label_key).
"""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mistral_lib.corpus.records import Record
from mistral_lib.curation.label_domains import label_key
from mistral_lib.evaluation import generation, paired_difference
from mistral_lib.evaluation.answer_metrics import WHO
from mistral_lib.evaluation.measurements import Measurements, refuse_not_finite
from mistral_lib.model import likelihood
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.run import files
from mistral_lib.run.settings import Settings
from mistral_lib.shapes.conversation import Message, words_of
from mistral_lib.tokens import chat_format

WAYS = ("likelihood", "generated")
USUAL_LABELS, FEWEST_RECORDS = 20, 20  # beyond so many labels fewer records are measured, but not fewer than these
MORE_TOKENS = 4  # that a generated answer may have beyond the longest label, since a model may divide a label into more tokens

Row = Mapping[str, Any]  # of records.parquet
Answers = dict[str, dict[str, np.ndarray]]  # way → who → (records,) the number of the label; the number of labels: none of them


@dataclass(frozen=True, slots=True)
class Labels:
    """The labels of a domain, the most frequent in the data first."""

    names: list[str]
    messages: list[Message]  # the assistant's message that is each label
    trained: list[int]  # training records with each label

    @property
    def majority(self) -> int:
        """The most frequent label of the training split."""
        return int(np.argmax(self.trained))

    def numbers(self, texts: Sequence[str]) -> list[int]:
        """Which label each text is; len(names): none. Compared as label domains are found: case and a full stop at the end do not matter."""
        known = {label_key(name): number for number, name in enumerate(self.names)}
        return [known.get(label_key(text), len(self.names)) for text in texts]


@dataclass(frozen=True, slots=True)
class Question:
    """A test record of a label domain."""

    row: Row
    label: int  # the right one
    windows: list[chat_format.Encoded]  # the prompt with each of the labels


def read_labels(data: Path) -> dict[str, Labels]:
    """The label domains of prepared data, with the counts of the training split. data: the folder of the data stage."""
    import pyarrow.dataset as ds

    found = files.read_json(data / "report.json").get("label_domains", {})  # an older report has none
    if not found:
        return {}
    names = {domain: list(facts["labels"]) for domain, facts in found.items()}
    labels = {
        domain: Labels(own, [{"role": "assistant", "content": name} for name in own], [0] * len(own)) for domain, own in names.items()
    }
    wanted = (ds.field("split") == "train") & ds.field("domain").isin(list(names))
    batches = ds.dataset(data / "records.parquet").to_batches(columns=["domain", "messages"], filter=wanted, batch_size=4096)
    for batch in batches:
        rows = [row for row in batch.to_pylist() if row["messages"]]
        for domain in {row["domain"] for row in rows}:
            _count(labels[domain], [orjson.loads(row["messages"])[-1] for row in rows if row["domain"] == domain])
    return labels


def _count(labels: Labels, answers: Sequence[Message]) -> None:
    for number, answer in zip(labels.numbers(list(map(words_of, answers))), answers, strict=True):
        if number < len(labels.names):
            labels.trained[number] += 1
            if labels.trained[number] == 1:  # as it is in the data: it may be a tool call
                labels.messages[number] = answer


def questions(
    tokenizer: Any, rows: Sequence[Row], labels: Mapping[str, Labels], settings: Settings
) -> tuple[list[Question], dict[str, int]]:
    """The test records that are measured, at most `max_label_records`, and how many others are left out, by reason.

    A record costs a window for each label, so with more than USUAL_LABELS there are fewer, by `most_records`.
    By record id, which is a hash, and in turn from each domain: fixed, and independent of results.
    """
    ordered = sorted((row for row in rows if row["domain"] in labels), key=lambda row: (row["domain"], row["record_id"]))
    queues = [list(same) for _, same in groupby(ordered, lambda row: row["domain"])]
    left_out: Counter[str] = Counter()
    found = (_question(tokenizer, row, labels[row["domain"]], settings.max_tokens, left_out) for row in generation.round_robin(*queues))
    chosen = list(islice((one for one in found if one is not None), most_records(labels, settings.max_label_records)))
    rest = len(ordered) - len(chosen) - left_out.total()
    return chosen, dict(left_out) | ({"beyond max_label_records": rest} if rest else {})


def most_records(labels: Mapping[str, Labels], limit: int) -> int | None:
    """How many records are measured: `limit`, and fewer for many labels, so that it bounds the windows; None for all."""
    most = max(len(own.names) for own in labels.values())
    return max(min(limit, FEWEST_RECORDS), limit * USUAL_LABELS // max(most, USUAL_LABELS)) if limit else None


def _question(tokenizer: Any, row: Row, labels: Labels, max_tokens: int, left_out: Counter) -> Question | None:
    number = labels.numbers([words_of(row["messages"][-1])])[0] if row["messages"] else len(labels.names)
    if number == len(labels.names):
        left_out["answer is no label"] += 1
        return None
    windows = chat_format.encode(tokenizer, [_record(row, message) for message in labels.messages])
    if any(one.refusal or len(one.input_ids) > max_tokens for one in windows):
        left_out["longer than max_tokens"] += 1
        return None
    return Question(row, number, windows)


def _record(row: Row, answer: Message) -> Record:
    """The prompt of a row with another answer; graded is the answer alone."""
    before = [{**message, "graded": False} if message["role"] == "assistant" else message for message in row["messages"][:-1]]
    messages = [*before, {**answer, "graded": True}]
    return Record(row["domain"], row["source"], row["source_group"], row["shape"], messages=messages, tools=row.get("tools"))


def measure(
    tokenizer: Any, rows: Sequence[Row], data: Path, settings: Settings, measured: Measurements, model: Callable[[], Any]
) -> dict[str, Any] | None:
    """Accuracy of base and adapter on the test records of label domains; None if the data have none.

    rows: the test records. model: returns the model with its adapter; called only if something is not measured yet.
    """
    labels = read_labels(data)
    if not labels:
        return None
    asked, left_out = questions(tokenizer, rows, labels, settings)
    of = len(asked) + sum(left_out.values())
    if not asked:
        return {"records": 0, "of": of, "left_out": left_out, "domains": {}}
    answers = {"likelihood": likeliest(asked, measured, model),
               "generated": generated(tokenizer, asked, labels, measured, model)}  # fmt: skip
    return {"of": of, "left_out": left_out, **figures(asked, labels, answers)}


def likeliest(asked: Sequence[Question], measured: Measurements, model: Callable[[], Any]) -> dict[str, np.ndarray]:
    """For base and adapter: the most likely label of each question."""
    lengths = [max(len(window.input_ids) for window in one.windows) for one in asked]
    order = sorted(range(len(asked)), key=lengths.__getitem__)  # little padding
    batches = generation.batches(order, [lengths[n] for n in order])

    def measure(batch: Sequence[int]) -> dict[str, list[list[float]]]:
        found = likelihood.choice_losses(model(), [asked[n].windows for n in batch])
        rows = [(asked[n].row, nats) for who in WHO for n, nats in zip(batch, found[who], strict=True)]
        losses = [RecordLoss(row["record_id"], row["domain"], sum(nats), len(nats)) for row, nats in rows]
        refuse_not_finite("labels", {"base": losses[: len(batch)], "adapter": losses[len(batch) :]}, model().dtype)
        return found

    found = measured.each("labels", batches, measure, "labels, base and adapter")
    nats = {who: dict(zip(order, (one for batch in found for one in batch[who]), strict=True)) for who in WHO}
    return {who: np.array([np.argmin(nats[who][n]) for n in range(len(asked))]) for who in WHO}


def generated(
    tokenizer: Any, asked: Sequence[Question], labels: Mapping[str, Labels], measured: Measurements, model: Callable[[], Any]
) -> dict[str, np.ndarray]:
    """For base and adapter: which label the greedy answer to each question is. One that is longer than all labels is cut off: it is none."""
    texts = [words_of(message) for own in labels.values() for message in own.messages]
    longest = max(map(len, tokenizer(texts, add_special_tokens=False).input_ids)) + MORE_TOKENS
    found = generation.samples(measured, model, tokenizer, [one.row for one in asked], longest, "label_answers")
    return {who: np.array([_said(labels[one["domain"]], one[who], one[f"{who}_stopped"]) for one in found]) for who in WHO}


def _said(labels: Labels, text: str, stopped: bool) -> int:
    return labels.numbers([text])[0] if stopped else len(labels.names)


# -- metrics ------------------------------------------------------------------------------------------------------------


def figures(asked: Sequence[Question], labels: Mapping[str, Labels], answers: Answers) -> dict[str, Any]:
    """`domains`: accuracy, macro-F1, confusion and differences of each; and accuracies and differences over all of them."""
    label, domain = np.array([one.label for one in asked]), np.array([one.row["domain"] for one in asked])
    documents = np.array([one.row["source_group"] for one in asked])
    majority = np.array([labels[name].majority for name in domain])
    domains = {}
    for name in sorted(set(domain.tolist())):
        own, names = domain == name, labels[name].names
        shown = {way: {who: scores(label[own], answers[way][who][own], names) for who in WHO} for way in WAYS}
        compared = comparison(
            label[own], {way: {who: answers[way][who][own] for who in WHO} for way in WAYS}, majority[own], documents[own]
        )
        domains[name] = {**compared, "majority_label": names[labels[name].majority], "labels": names,
                         **{way: {**compared[way], **shown[way]} for way in WAYS}}  # fmt: skip
    return {**comparison(label, answers, majority, documents), "domains": domains}


def comparison(label: np.ndarray, answers: Answers, majority: np.ndarray, documents: np.ndarray) -> dict[str, Any]:
    """Accuracies, and the adapter's difference to the base model's and to the baseline's. All arrays: (records,)."""
    always = majority == label
    found: dict[str, Any] = {"records": len(label), "documents": len(set(documents.tolist())), "majority_accuracy": float(always.mean())}
    for way in WAYS:
        right = {who: answers[way][who] == label for who in WHO}
        found[way] = {**{who: {"accuracy": float(right[who].mean())} for who in WHO},
                      "difference": difference(right["base"], right["adapter"], documents.tolist()),
                      "over_majority": difference(always, right["adapter"], documents.tolist())}  # fmt: skip
    return found


def scores(label: np.ndarray, answer: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """Accuracy, macro-F1, the figures of each label, and `confusion`: a row per right label, a column per answer, the last one for no label.

    Macro-F1 is the mean over the labels that are right or answered somewhere, as in scikit-learn; a share of nothing is 0.
    """
    confusion = np.zeros((len(names), len(names) + 1), np.int64)
    np.add.at(confusion, (label, answer), 1)
    hit, right, said = np.diag(confusion), confusion.sum(1), confusion[:, : len(names)].sum(0)
    precision, recall, f1 = _share(hit, said), _share(hit, right), _share(2 * hit, said + right)
    table = [{"label": name, "records": int(right[n]), "precision": float(precision[n]), "recall": float(recall[n]), "f1": float(f1[n])}
             for n, name in enumerate(names)]  # fmt: skip
    return {"accuracy": float(hit.sum() / len(label)), "macro_f1": float(f1[said + right > 0].mean()), "by_label": table,
            "confusion": confusion.tolist()}  # fmt: skip


def _share(count: np.ndarray, of: np.ndarray) -> np.ndarray:
    return np.divide(count, of, out=np.zeros(len(of)), where=of > 0)


def difference(one: np.ndarray, two: np.ndarray, documents: Sequence[str]) -> dict[str, Any]:
    """Accuracy of `two` minus that of `one` on the same records, with a 95 % interval over source documents. one, two: bool (records,).

    Two documents of mean length are added, in which the differences are +√½ and -√½: without them, records of which all were right in one
    and wrong in the other would give an interval of no width. The bootstrap of paired_difference is not used: a resample of a few values
    -1, 0 and 1 often has no spread. sign_p: exact, over documents; with one record to a document it is McNemar's test.
    Source: Agresti and Min, Simple improved confidence intervals for comparing matched proportions, 2005 (half a record more in each
    cell); Cochran, Sampling Techniques, 1977, section 6.3 (the standard error of a ratio of sums).
    """
    from scipy.stats import t

    gains = two.astype(float) - one
    number = np.unique(np.array(documents), return_inverse=True)[1]
    sums, lengths = np.bincount(number, weights=gains), np.bincount(number).astype(float)  # (documents,)
    found: dict[str, Any] = {"difference": float(gains.mean()), "low": None, "high": None, "documents": len(lengths),
                             "sign_p": paired_difference.sign_test(sums)}  # fmt: skip
    if len(lengths) >= paired_difference.FEWEST:
        mean = lengths.mean()
        sums, lengths = np.append(sums, [mean * 0.5**0.5, -mean * 0.5**0.5]), np.append(lengths, [mean, mean])
        value = sums.sum() / lengths.sum()
        error = np.sqrt(((sums - value * lengths) ** 2).sum() * len(sums) / (len(sums) - 1)) / lengths.sum()
        reach = float(t.ppf((1 + paired_difference.LEVEL) / 2, found["documents"] - 1)) * error
        found |= {"low": float(max(-1.0, value - reach)), "high": float(min(1.0, value + reach))}
    return found
