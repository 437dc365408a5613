"""The tables and lines of notebook 04, from the result of an evaluation. Numbers are a data frame, texts a TextTable.

result: evaluation/result.json.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mistral_lib.display.tables import TextTable
from mistral_lib.evaluation import verdict
from mistral_lib.evaluation.answer_metrics import WHO
from mistral_lib.run.settings import Settings
from mistral_lib.shapes.conversation import words_of

NONE = "–"  # a number that was not measured, or for which there is too little data
DOMAIN_COLUMNS = ("records", "documents", "base", "adapter", "difference", "low", "high", "holm_p", "detectable")
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
