"""Why rows were not kept: a line per reason, with how many and one example, its text without secrets and personal data."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mistral_lib import shown_record, sources
from mistral_lib.settings import Settings
from mistral_lib.splits import SPLITS

LONGEST = 160  # characters of an example


def table(ledger: Any, found: Sequence[sources.SourceFile], settings: Settings) -> list[dict[str, Any]]:
    """ledger: data/ledger.parquet as a DataFrame. The most frequent reason first; the example is the first row with it."""
    dropped = ledger[~ledger["fate"].isin(SPLITS)]
    why = dropped["reason"].where(dropped["fate"] == "rejected", dropped["fate"])
    counts = why.value_counts()
    first = {reason: dropped[why == reason].iloc[0] for reason in sorted(counts.index, key=lambda reason: (-counts[reason], reason))}
    texts = dict(_texts({row["source"]: row["origin"] for row in first.values()}, found, settings))
    return [
        {
            "reason": reason,
            "rows": int(counts[reason]),
            "for example": row["source"],
            "which repeats": row["reason"] if row["fate"] != "rejected" else "",
            "its text": texts.get(row["source"], ""),
        }
        for reason, row in first.items()
    ]


def _texts(wanted: Mapping[str, str], found: Sequence[sources.SourceFile], settings: Settings) -> Iterator[tuple[str, str]]:
    """(source, the row as it stands in its file, redacted and cut) of each source, wherever it could be read at all."""
    for file in found:
        mine = {source for source, origin in wanted.items() if origin == file.origin and source.startswith(file.name)}
        if not mine:
            continue
        for row in sources.rows(file, salvage=settings.salvage, pdf_characters=settings.pdf_characters):
            if row.source in mine:
                mine.remove(row.source)
                yield row.source, "" if row.value is None else " ".join(shown_record.raw(row.value, LONGEST).split())
            if not mine:
                break
