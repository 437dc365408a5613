"""The tables and lines of notebook 04, from the result of an evaluation. Numbers are a data frame, texts a TextTable.

result: evaluation/result.json.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mistral_lib.display.tables import TextTable
from mistral_lib.evaluation import verdict
from mistral_lib.evaluation.answer_metrics import WHO
from mistral_lib.evaluation.label_accuracy import WAYS
from mistral_lib.run.settings import Settings
from mistral_lib.shapes.conversation import words_of

NONE = "–"  # a number that was not measured, or for which there is too little data
DOMAIN_COLUMNS = ("records", "documents", "base", "adapter", "difference", "low", "high", "holm_p", "detectable")
LABEL_WAYS = {"likelihood": "most likely label", "generated": "greedy answer"}
GAP_COLUMNS = ("train", "test", "gap", "low", "high")
PROMPT, ANSWER = 200, 240  # characters that are shown

Facts = Mapping[str, Any]


def held_out(test: Sequence[Facts], settings: Settings) -> str:
    """How large the test split is, and what of it is measured. test: its records."""
    domains, documents = (len({row[key] for row in test}) for key in ("domain", "source_group"))
    limit = f"at most {settings.max_test_tokens:,}" if settings.max_test_tokens else "all"
    return (
        f"{len(test):,} test records in {domains:,} domains, {documents:,} documents\n"
        f"measured: {limit} tokens of them, {settings.sample_count} prompts answered"
    )


def examples(test: Sequence[Facts], count: int = 3) -> TextTable:
    """The first test record of each of the last domains: its prompt, and the text that is to be predicted."""
    names = sorted({row["domain"] for row in test})[-count:]
    return TextTable([_example(next(row for row in test if row["domain"] == name)) for name in names])


def _example(row: Facts) -> dict[str, str]:
    prompt, answer = [words_of(message) for message in (row["messages"] or [])[-2:]] or ["(a plain document)", row["text"]]
    return {"record": row["source"], "prompt": prompt[:PROMPT], "to be predicted": answer[:PROMPT]}


def domains(result: Facts) -> pd.DataFrame:
    """Losses and their difference in each domain and in all, with interval, corrected p value and smallest detectable difference."""
    rows = {**result["domains"], "all": result["overall"]}
    table = pd.DataFrame(
        [[facts.get(name) for name in DOMAIN_COLUMNS] for facts in rows.values()], pd.Index(rows, name="domain"), DOMAIN_COLUMNS
    )
    return _rounded(table.astype(dict.fromkeys(DOMAIN_COLUMNS[2:], float)), 4)


def labels(result: Facts) -> TextTable:
    """How often base and adapter are right in each label domain, by each way of answering, against always the most frequent label."""
    found = result["labels"] or {"domains": {}}
    return TextTable([_accuracy(name, facts, way) for name, facts in found["domains"].items() for way in WAYS], label_records(result))


def _accuracy(name: str, facts: Facts, way: str) -> dict[str, Any]:
    base, adapter = (facts[way][who] for who in WHO)
    return {"domain": f"{name}, {LABEL_WAYS[way]}", "records": facts["records"], "documents": facts["documents"],
            "base": f"{base['accuracy']:.1%}", "adapter": f"{adapter['accuracy']:.1%}", "difference": verdict.points(facts[way]["difference"]),
            "macro-F1": f"{base['macro_f1']:.3f} → {adapter['macro_f1']:.3f}",
            "always the most frequent label": f"{facts['majority_accuracy']:.1%} (“{facts['majority_label'][:PROMPT]}”)"}  # fmt: skip


def label_records(result: Facts) -> str:
    """On how many of the test records in label domains labels were measured."""
    found = result["labels"]
    if found is None:
        return "no label domains: in no domain are a few labels the answers to nearly all prompts"
    why = ", ".join(f"{count:,} {reason}" for reason, count in found["left_out"].items())
    return f"labels measured on {found['records']:,} of {found['of']:,} test records of label domains" + (
        f"; not measured: {why}" if why else ""
    )


def labels_one_by_one(result: Facts, way: str = "likelihood") -> TextTable:
    """Precision, recall and F1 of each label, base → adapter."""
    found = result["labels"] or {"domains": {}}
    rows = [
        (name, *pair)
        for name, facts in found["domains"].items()
        for pair in zip(*(facts[way][who]["by_label"] for who in WHO), strict=True)
    ]
    return TextTable(
        [{"label": f"{name}: {one['label'][:PROMPT]}", "records": one["records"],
          **{key: f"{one[key]:.2f} → {two[key]:.2f}" for key in ("precision", "recall", "f1")}} for name, one, two in rows],
        label_records(result),
    )  # fmt: skip


def memorization(result: Facts) -> pd.DataFrame:
    """The gain on training and on test records, and the gap between them with its interval, in each domain and in all."""
    gaps = {**result["memorization"]["domains"], "all": result["memorization"]["overall"]}
    return _rounded(pd.DataFrame(gaps).T[list(GAP_COLUMNS)].astype(float), 3)


def _rounded(table: pd.DataFrame, digits: int) -> pd.DataFrame:
    return table.round(digits).astype(object).fillna(NONE)


def prompt_worth(result: Facts) -> str:
    """What the right prompt saves, in the base model and with the adapter."""
    worth = result["prompt_worth"]
    if not worth:
        return "not measured: it takes two chats of one domain from different documents"
    return (
        f"the right prompt saves {worth['base']:.2f} nats per token in the base model, {worth['adapter']:.2f} with the adapter "
        f"({worth['records']} records)"
    )


def forgetting(result: Facts, settings: Settings) -> str:
    """The loss on the general and on one's own retention set, before and after, a line each."""
    lines = []
    for name in ("retention", "own_retention"):
        if result[name]:
            facts, change = result[name]["overall"], verdict.retention(result[name], settings.max_retention_loss)["number"]
            lines.append(f"{name}: {facts['records']} records, {facts['base']:.3f} → {facts['adapter']:.3f} nats per token, {change}")
    return "\n".join(lines) or "not measured: general_prompts is 0 and retention_paths names no text"


def answers(result: Facts) -> pd.DataFrame | str:
    """Metrics of the answers of base and adapter."""
    found, copied = result["answers"], result["memorization"]["copied"]
    rows = {
        who: {
            "ended by itself": f"{found[who]['stop_rate']['count']} of {found[who]['stop_rate']['of']}",
            "chrF": round(found[who]["chrf"], 1),
            "length / reference": round(found[who]["length_ratio"], 2),
            "repeated": f"{found[who]['repetition']:.0%}",
            "copied from training": copied[who]["count"],
        }
        for who in WHO
        if who in found
    }
    return pd.DataFrame(rows) if rows else "no answers: sample_count is 0, or no test record is a chat"


def samples(found: Sequence[Facts], count: int = 5) -> TextTable:
    """Prompts with the answers of base and adapter, and the reference. found: evaluation/samples.jsonl."""
    return TextTable(
        [
            {
                "prompt": f"{one['domain']}: {one['prompt'][-1]['content'][:PROMPT]}",
                **{who: one[who][:ANSWER] for who in (*WHO, "reference")},
            }
            for one in found[:count]
        ]
    )


def rules(result: Facts) -> TextTable:
    """Each rule of the verdict with its outcome, the number that it was judged by, and what is required."""
    return TextTable(
        [{"rule": one["rule"], "outcome": one["outcome"], "number": one["number"], "required": one["threshold"]} for one in result["rules"]]
    )
