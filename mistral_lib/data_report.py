"""What became of every input row: the ledger, the rejects, the kept records, and the counts that reconcile."""

from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mistral_lib import files, mixture, splits
from mistral_lib.reading import DUPLICATE, NEAR_DUPLICATE, ORIGINS, REJECTED, Rows
from mistral_lib.record_store import RecordStore
from mistral_lib.records import text_id

LEDGER = pa.schema([("source", pa.string()), ("origin", pa.string()), ("domain", pa.string()), ("shape", pa.string()), ("record_id", pa.string()),
                    ("fate", pa.string()), ("reason", pa.string()), ("tokens", pa.int32()), ("supervised_tokens", pa.int32()),
                    ("tokens_lost", pa.int32())])  # fmt: skip
RECORDS = pa.schema([("record_id", pa.string()), ("split", pa.string()), ("domain", pa.string()), ("source", pa.string()),
                     ("source_group", pa.string()), ("shape", pa.string()), ("messages", pa.string()), ("text", pa.string())])  # fmt: skip
DROPPED = {REJECTED: "rejected", DUPLICATE: "duplicate", NEAR_DUPLICATE: "near_duplicate"}


def fate_names(rows: Rows, split: np.ndarray) -> np.ndarray:
    """The fate of each row in words: a split's name, rejected, duplicate or near_duplicate."""
    return np.array([DROPPED.get(fate) or splits.SPLITS[place] for fate, place in zip(rows.fate.tolist(), split.tolist(), strict=True)])


def write_ledger(prep: Any) -> None:
    """ledger.parquet: a row per input row. records.parquet: the kept ones with their text. rejected.jsonl: place and reason,
    never a word of the content. All in one pass over the store."""
    tokens, supervised = (prep.tokens.per_record(name, len(prep.rows.fate)) for name in ("length", "supervised"))
    repeated = sources_of(prep.store, np.unique(prep.repeats[prep.repeats >= 0]))
    with (
        pq.ParquetWriter(prep.folder / "ledger.parquet", LEDGER) as ledger,
        pq.ParquetWriter(prep.folder / "records.parquet", RECORDS) as kept,
        files.atomic(prep.folder / "rejected.jsonl") as rejected,
    ):
        for start, batch in prep.store.batches():
            rows = list(_lines(prep, start, batch.to_pylist(), repeated, tokens, supervised))
            ledger.write_table(pa.Table.from_pylist([row for row, _ in rows], schema=LEDGER))
            texts = [_kept(row, stored) for row, stored in rows if row["fate"] in splits.SPLITS]
            kept.write_table(pa.Table.from_pylist(texts, schema=RECORDS))
            for row, _ in rows:
                if row["fate"] == "rejected":
                    rejected.write(orjson.dumps({"source": row["source"], "reason": row["reason"]}, option=orjson.OPT_APPEND_NEWLINE))


def _lines(
    prep: Any, start: int, stored: list[dict[str, Any]], repeated: dict[int, str], tokens: np.ndarray, supervised: np.ndarray
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    rows = prep.rows
    for number, row in enumerate(stored, start):
        fate, known = int(rows.fate[number]), rows.domain[number] >= 0
        yield {
            "source": row["source"], "origin": ORIGINS[rows.origin[number]], "domain": rows.domains[rows.domain[number]] if known else "",
            "shape": row["shape"] or "", "record_id": f"{rows.key[number]:016x}" if known else "",
            "fate": DROPPED.get(fate) or splits.SPLITS[prep.split[number]],
            "reason": rows.reasons[rows.reason[number]] if fate == REJECTED else repeated.get(int(prep.repeats[number]), ""),
            "tokens": int(tokens[number]), "supervised_tokens": int(supervised[number]), "tokens_lost": int(prep.lost[number]),
        }, row  # fmt: skip


def _kept(row: dict[str, Any], stored: dict[str, Any]) -> dict[str, Any]:
    def text(value: bytes | None) -> str | None:
        return value.decode() if value is not None else None

    return {"record_id": row["record_id"], "split": row["fate"], "domain": row["domain"], "source": row["source"],
            "source_group": text_id(stored["source_group"]), "shape": stored["shape"], "messages": text(stored["messages"]),
            "text": stored["text"]}  # fmt: skip


def sources_of(store: RecordStore, numbers: np.ndarray) -> dict[int, str]:
    """The `source` of each row number."""
    return {int(number): store.source(int(number)) for number in numbers}


def count(prep: Any, blocks: dict[str, int]) -> dict[str, Any]:
    """The figures of data/report.json."""
    rows, settings = prep.rows, prep.settings
    fates = np.bincount(rows.fate, minlength=4)
    in_split = {name: prep.split == number for number, name in enumerate(splits.SPLITS)}
    tokens, supervised = (
        {name: int(per_row[mask].sum()) for name, mask in in_split.items()}
        for per_row in (prep.tokens.per_record("length", len(rows.fate)), prep.tokens.per_record("supervised", len(rows.fate)))
    )
    packed = {**tokens, "train": int(prep.of_window[0][prep.mixture.windows].sum())}
    return {
        "lines_read": len(rows.fate),
        "records_read": len(rows.fate),
        "records_kept": int(sum(mask.sum() for mask in in_split.values())),
        "rejected": rejected(rows),
        **{name: dict(sorted(counter.items())) for name, counter in rows.counts.items()},
        "duplicates_exact": int(fates[DUPLICATE]),
        "duplicates_near": int(fates[NEAR_DUPLICATE]) if prep.near is not None else None,
        "split_sizes": {name: int(mask.sum()) for name, mask in in_split.items()},
        "domains": {name: _names(rows.domain[mask], rows.domains) for name, mask in in_split.items()},
        "origins": _names(rows.origin[prep.split >= 0], ORIGINS),
        "leaked_exact": prep.leak["exact"] + prep.leak["answer"],
        "leaked_near": prep.leak["near"] if prep.near is not None else None,
        "leaked_document": prep.leak["document"],
        "leaked_by_a_random_split": prep.random_leak,
        "ties": {"gave_way": prep.assignment.gave_way, "large_knots": prep.assignment.large_knots, "in_large_knots": prep.assignment.large},
        "mixture": mixture_figures(prep),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "tokens_lost_to_length": int(prep.lost[prep.split >= 0].sum()),
        "windows": {name: int((in_split[name][prep.tokens.record]).sum()) for name in splits.SPLITS},
        "blocks": blocks,
        "fill": {name: packed[name] / (blocks[name] * settings.max_tokens) for name in splits.SPLITS},
    }


def mixture_figures(prep: Any) -> dict[str, Any]:
    """Training tokens by domain, as they were and as they are trained on; and the records of which no window is."""
    everything, chosen = np.arange(len(prep.train)), prep.mixture.windows
    tokens, domain, domains = prep.of_window
    used = np.unique(prep.tokens.record[prep.train[chosen]])
    return {
        "before": mixture.tokens_by_domain(everything, tokens, domain, domains),
        "after": mixture.tokens_by_domain(chosen, tokens, domain, domains),
        "operatives_tokens": int(tokens[prep.mixture.operatives].sum()),
        "records_left_out": int((prep.split == 0).sum() - len(used)),
    }


def rejected(rows: Rows) -> dict[str, int]:
    return _names(rows.reason[rows.fate == REJECTED], rows.reasons)


def _names(numbers: np.ndarray, names: list[str] | tuple[str, ...]) -> dict[str, int]:
    found = Counter(dict(enumerate(np.bincount(numbers[numbers >= 0]).tolist())))
    return {name: n for name, n in sorted((names[number], n) for number, n in found.items()) if n}


def what_was_lost(rows: Rows, what: str) -> str:
    """A message for rows that are missing where some are needed."""
    fates = np.bincount(rows.fate, minlength=4)
    return (
        f"{what}: of {len(rows.fate)} rows {fates[0]} are usable, {fates[DUPLICATE]} exact and {fates[NEAR_DUPLICATE]} near-duplicates; "
        f"rejected: {rejected(rows) or 'none'}. Add data, or change the parameter that the reason names"
    )
