"""The tables of notebooks 00 to 03: files, parameters, rows, splits and blocks.

Numbers are a data frame. Texts are a TextTable: a data frame truncates each text and aligns it right, which cannot be read beyond a
few words. Run headless, a table is plain lines.
"""

import html
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from mistral_lib.corpus import sources
from mistral_lib.corpus.sources import SourceFile
from mistral_lib.curation.splits import SPLITS
from mistral_lib.run import files, params
from mistral_lib.run.settings import Settings, meaning
from mistral_lib.tokens.chat_format import IGNORED

CELL = "vertical-align:top;max-width:30em;white-space:pre-line;word-break:normal;overflow-wrap:anywhere"
DECISIONS = {
    "objective": ["objective"],
    "data": ["corpus_paths", "operatives_paths", "base_model"],
    "instance": ["instance", "quantization", "dtype"],
    "scope": ["max_tokens", "max_steps", "epochs"],
    "batch": ["micro_batch_size", "gradient_accumulation_steps"],
    "budget": ["max_hours", "max_usd"],
}
QUANTILES = {
    "10 % have at most": 0.1, "half have at most": 0.5, "90 % have at most": 0.9, "99 % have at most": 0.99, "the longest has": 1.0,
}  # fmt: skip
LONGEST_LABEL = 60  # characters of a label or canned reply that are shown
NOTICED = ("redacted", "repairs", "flags", "rejected", "unused_keys", "unknown_roles")


class Html:
    """HTML for a notebook's page, and the plain text that is shown headless."""

    def __init__(self, shown: str, plain: str):
        self.shown, self.plain = shown, plain

    def _repr_mimebundle_(self, **options: Any) -> dict[str, str]:
        return {"text/plain": self.plain, "text/html": self.shown}


class TextTable(Html):
    """Rows of the same columns; each value is a text or a number. empty: the text that is shown if there is no row."""

    def __init__(self, rows: Sequence[Mapping[str, Any]], empty: str = "none"):
        self.rows = rows
        super().__init__(_table(rows) if rows else f"<i>{html.escape(empty)}</i>", _lines(rows) if rows else empty)


def _table(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = "".join(f'<th style="{_style(value)}">{html.escape(name)}</th>' for name, value in rows[0].items())
    cells = "".join(f"<tr>{''.join(map(_cell, row.values()))}</tr>" for row in rows)
    return f'<table style="margin-left:0"><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table>'


def _lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Each row under the value of its first column, a line for each of the others."""
    lines = []
    for row in rows:
        (_, first), *others = row.items()
        lines += [_one_line(first), *(f"  {name}: {_one_line(value)}" for name, value in others if value != "")]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    return f'<td style="{_style(value)}">{html.escape(_shown(value))}</td>'


def _style(value: Any) -> str:
    return f"text-align:{'left' if isinstance(value, str) else 'right'};{CELL}"


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else f"{value:,}"


def _one_line(value: Any) -> str:
    return " ".join(_shown(value).split())


# -- notebook 00: files and parameters ----------------------------------------------------------------------------------


def source_files(found: Sequence[SourceFile]) -> pd.DataFrame:
    """Name, origin and size of each file."""
    return pd.DataFrame([{"file": file.name, "origin": file.origin, "size": files.size_text(file.size)} for file in found])


def decisions(settings: Settings) -> TextTable:
    """The decisions of a run, with the value and the meaning of each parameter."""
    return TextTable(
        [
            {"parameter": name, "decides": decision, "value": str(getattr(settings, name)), "meaning": meaning(name)}
            for decision, names in DECISIONS.items()
            for name in names
        ]
    )


def chosen(settings: Settings) -> str:
    """The parameters that differ from the demo's or, with a corpus of one's own, from the defaults; one a line."""
    lines, base = [f"{name} = {value!r}" for name, value in params.chosen(settings).items()], params.base_name(settings)
    return "\n".join([*lines, f"all others: {base}"] if lines else [f"nothing differs from {base}"])


def all_parameters(settings: Settings) -> Html:
    """Every parameter with its value and meaning, folded below one line."""
    head = f"all {len(settings.names())} parameters"
    return Html(f"<details><summary>{head}</summary><pre>{html.escape(params.to_yaml(settings))}</pre></details>", f"({head}, folded)")


def differences(here: Settings, there: Settings) -> TextTable:
    """The parameters in which two runs differ."""
    one, two = here.model_dump(), there.model_dump()
    changed = [name for name in one if one[name] != two[name]]
    rows = [{"parameter": name, "this run": str(one[name]), there.run_name: str(two[name])} for name in changed]
    return TextTable(rows, "they have the same parameters")


# -- notebook 01: the corpus --------------------------------------------------------------------------------------------


def first_rows(found: Sequence[SourceFile]) -> TextTable:
    """The first row of each file: the names of its fields and the number of characters in each, or why it cannot be read."""
    first = [next(sources.rows(file)) for file in found]
    return TextTable(
        [
            {"file": file.name, "fields and their characters": row.problem or _fields(row.value)}
            for file, row in zip(found, first, strict=True)
        ]
    )


def _fields(value: Any) -> str:
    if not isinstance(value, dict):
        return type(value).__name__
    return " · ".join(f"{key} {len(str(part))}" for key, part in value.items())


def inventory(entries: Sequence[Mapping[str, Any]]) -> TextTable:
    """Rows, shapes and problems of each file. entries: `files` of corpus/inventory.json."""
    return TextTable(
        [
            {"file": entry["name"], "origin": entry["origin"], "rows": entry["rows"], "shapes": _counts(entry["shapes"]),
             "problems": _counts(entry["problems"]),
             **({"encoding": ", ".join(entry["encodings"])} if any(one.get("encodings") for one in entries) else {})}
            for entry in entries
        ]
    )  # fmt: skip


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def label_domains(found: Mapping[str, Mapping[str, Any]], most: int = 10) -> str:
    """The label domains with the counts of their labels and the share of the most frequent one, a line each. found: `label_domains` of
    corpus/inventory.json or of data/report.json; most: labels that are named."""
    lines = []
    for domain, facts in found.items():
        counts = [(_name(label), rows) for label, rows in facts["labels"].items()]
        named = ", ".join(f"{name} {rows:,}" for name, rows in counts[:most])
        more = f" and {len(counts) - most:,} more" if len(counts) > most else ""
        lines.append(
            f"{domain}: {sum(rows for _, rows in counts):,} rows with {len(counts)} labels: {named}{more}; always "
            f"answering “{counts[0][0]}” is right in {facts['majority_share']:.1%} of the rows (the baseline)"
        )
    return "\n".join(lines) or "no label domains: in no domain are a few labels the answers to nearly all prompts"


def _name(label: str) -> str:
    return " ".join(label.split()) if len(label) <= LONGEST_LABEL else " ".join(label[:LONGEST_LABEL].split()) + " …"


def length_quantiles(lengths: pd.DataFrame) -> pd.DataFrame:
    """How long most records are, in characters and tokens. lengths: corpus/lengths.parquet."""
    table = lengths[["characters", "tokens", "mistral_tokens"]].quantile(list(QUANTILES.values())).round().astype(int)
    return table.set_axis(pd.Index(QUANTILES, name="of the records"))


def repeats(entries: Sequence[Mapping[str, Any]]) -> TextTable:
    """Rows whose text is that of an earlier row, by file and the file of the earlier row. entries: `files` of corpus/inventory.json."""
    rows = [
        {"file": entry["name"], "its rows": entry["rows"], "rows that repeat": count, "seen before in": earlier}
        for entry in entries
        for earlier, count in entry["repeats"].items()
    ]
    return TextTable(rows, "none found: no row repeats an earlier one")


def problems(entries: Sequence[Mapping[str, Any]], most: int = 10) -> TextTable:
    """Rows that are no record, by reason and file; of each reason the `most` files with the most rows. entries: as above."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for entry in entries:
        for reason, count in entry["problems"].items():
            found[reason][entry["name"]] += count
    rows = [{"reason": reason, "rows": counts.total(), "files": _most(counts, most)} for reason, counts in found.items()]
    return TextTable(rows, "none found: every row is a record")


def _most(counts: Counter[str], most: int) -> str:
    return _counts(dict(counts.most_common(most))) + (f" and {len(counts) - most:,} files more" if len(counts) > most else "")


# -- notebook 02: the fate of the rows ----------------------------------------------------------------------------------


def noticed(report: Mapping[str, Any]) -> pd.DataFrame:
    """What was redacted, repaired, flagged, rejected, or not used, by kind. report: data/report.json, as below."""
    return pd.DataFrame(
        [(what, kind, count) for what in NOTICED for kind, count in report.get(what, {}).items()], columns=["what", "kind", "count"]
    )


def fates_by_origin(ledger: pd.DataFrame) -> pd.DataFrame:
    """The rows of corpus, operatives and both by their fate. ledger: data/ledger.parquet, as below."""
    return pd.crosstab(ledger["origin"], ledger["fate"], margins=True, margins_name="combined")


def losses_by_file(ledger: pd.DataFrame, found: Sequence[SourceFile]) -> pd.DataFrame:
    """What became of the rows of each file, and the most frequent reason for a rejection; first the file that lost the largest share."""
    names = {file.name for file in found}
    file = ledger["source"].map(lambda source: _file(source, names)).rename("file")
    fate = ledger["fate"].where(~ledger["fate"].isin(SPLITS), "kept").replace(["duplicate", "near_duplicate"], "duplicates")
    lines = ledger["lines"] if "lines" in ledger else pd.Series(1, index=ledger.index)  # a refused file has many
    table = (
        pd.crosstab(file, fate, values=lines, aggfunc="sum")
        .fillna(0)
        .astype(int)
        .reindex(columns=["kept", "rejected", "duplicates"], fill_value=0)
    )
    reasons = ledger["reason"][ledger["fate"] == "rejected"].groupby(file).agg(_most_frequent)
    table.insert(0, "rows", table.sum(axis=1))
    table.insert(3, "rejected mostly as", reasons.reindex(table.index).fillna(""))
    lost = (1 - table["kept"] / table["rows"]).sort_values(ascending=False, kind="stable")
    return table.assign(lost=lost.map("{:.1%}".format)).rename_axis(columns=None).loc[lost.index]


def _file(source: str, names: set[str]) -> str:
    """The file of a row's source: `notes.zip!a.md:3` → `notes.zip`. The source itself if no file of these names has it."""
    name = source
    while name and name not in names:
        name = name[: max(0, *(name.rfind(mark) for mark in ":!#"))]
    return name or source


def _most_frequent(reasons: pd.Series) -> str:
    count, reason = max((count, reason) for reason, count in reasons.value_counts().items())
    return f"{reason} ({count:,})"


def splits(report: Mapping[str, Any]) -> pd.DataFrame:
    """Records, tokens and blocks of each split."""
    return pd.DataFrame({key: report[key] for key in ("split_sizes", "tokens", "supervised_tokens", "blocks", "fill")})


def leaks(report: Mapping[str, Any]) -> dict[str, dict[str, int]]:
    """Held-out records that have a counterpart in training, by kind: in a random split of the rows, and in this one."""
    usual = report["leaked_by_a_random_split"]
    kinds = ("same text or answer", "same prompt", "near-duplicate", "same source document")
    theirs = (usual["exact"] + usual["answer"], usual.get("prompt", 0), usual["near"], usual["document"])  # an older report has no prompt
    ours = (report["leaked_exact"], report.get("leaked_prompt", 0), report["leaked_near"] or 0, report["leaked_document"])
    held_out = report["split_sizes"]["validation"] + report["split_sizes"]["test"]
    return {
        "random 80/20": {"held_out": usual["held_out"], **dict(zip(kinds, theirs, strict=True))},
        "this split": {"held_out": held_out, **dict(zip(kinds, ours, strict=True))},
    }


# -- notebook 03: packed blocks -----------------------------------------------------------------------------------------


def blocks(dataset: Any) -> pd.DataFrame:
    """Records, tokens, graded tokens and domains of each packed block."""
    return pd.DataFrame(
        {"records": len(block["record_ids"]), "tokens": len(block["input_ids"]), "graded": sum(t != IGNORED for t in block["labels"]),
         "domains": ", ".join(sorted(set(block["domains"])))}
        for block in dataset
    )  # fmt: skip
