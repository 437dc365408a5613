"""Why rows were not kept: a line per reason, with how many and one example, its words without secrets and personal data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mistral_lib import shown_record
from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Unmappable, record_of
from mistral_lib.curation.redaction import redact
from mistral_lib.curation.splits import SPLITS
from mistral_lib.run.settings import Settings

LONGEST_EXAMPLE = 160  # characters of an example


def table(ledger: Any, found: Sequence[sources.SourceFile], settings: Settings) -> list[dict[str, Any]]:
    """ledger: data/ledger.parquet as a DataFrame. The most frequent reason first; the example is the first row with it."""
    dropped = ledger[~ledger["fate"].isin(SPLITS)]
    why = dropped["reason"].where(dropped["fate"] == "rejected", dropped["fate"])
    counts = why.value_counts()
    first = {reason: dropped[why == reason].iloc[0] for reason in sorted(counts.index, key=lambda reason: (-counts[reason], reason))}
    texts = dict(_example_texts({row["source"]: row["origin"] for row in first.values()}, found, settings))
    return [
        {
            "reason": reason,
            "rows": int(counts[reason]),
            "for example": row["source"],
            "which repeats": row["reason"] if row["fate"] != "rejected" else "",
            "its answer": texts.get(row["source"], ""),
        }
        for reason, row in first.items()
    ]


def _example_texts(wanted: Mapping[str, str], found: Sequence[sources.SourceFile], settings: Settings) -> Iterator[tuple[str, str]]:
    """(source, its words redacted and cut) of each wanted source → origin, wherever it could be read at all."""
    for file in found:
        mine = {source for source, origin in wanted.items() if origin == file.origin and source.startswith(file.name)}
        for row in sources.rows_of(file, settings) if mine else ():
            if row.source in mine:
                mine.remove(row.source)
                yield row.source, _words(row, settings)
            if not mine:
                break


def _words(row: sources.Row, settings: Settings) -> str:
    """The answer, or all that stands in a row that is no record; "" for one that is not even text."""
    try:
        answer = record_of(row, settings).answer
        return shown_record.cut(" ".join(redact(answer)[0].split()), LONGEST_EXAMPLE)
    except Unmappable:
        return " ".join(shown_record.raw_row(row, LONGEST_EXAMPLE).split())
