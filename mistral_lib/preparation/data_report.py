"""What became of every input row: the ledger, the rejects, the kept records, and the counts that reconcile."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mistral_lib.corpus.records import text_id
from mistral_lib.curation import mixture, splits
from mistral_lib.preparation.row_inspection import DUPLICATE, KEPT, NEAR_DUPLICATE, ORIGINS, REJECTED, Rows
from mistral_lib.run import files
from mistral_lib.tokens import packing

LEDGER = pa.schema([("source", pa.string()), ("origin", pa.string()), ("domain", pa.string()), ("shape", pa.string()), ("record_id", pa.string()),
                    ("fate", pa.string()), ("reason", pa.string()), ("tokens", pa.int32()), ("supervised_tokens", pa.int32()),
                    ("tokens_lost", pa.int32())])  # fmt: skip
RECORDS = pa.schema([("record_id", pa.string()), ("split", pa.string()), ("domain", pa.string()), ("source", pa.string()),
                     ("source_group", pa.string()), ("shape", pa.string()), ("messages", pa.string()), ("text", pa.string())])  # fmt: skip
FATES = (*splits.SPLITS, "rejected", "duplicate", "near_duplicate")  # the last three in the order of their numbers in reading.py


def write_ledger(prep: Any) -> None:
    """ledger.parquet: a row per input row. records.parquet: the kept ones with their text. rejected.jsonl: place and reason,
    never a word of the content. All in one pass over the store."""
    tokens, supervised = (prep.tokens.per_record(name, len(prep.rows.fate)) for name in ("length", "supervised"))
    repeats, lost = prep.repeats.read(), prep.lost.read()
    with (
        pq.ParquetWriter(prep.folder / "ledger.parquet", LEDGER, write_statistics=False) as ledger,
        pq.ParquetWriter(prep.folder / "records.parquet", RECORDS, write_statistics=False) as kept,
        files.atomic(prep.folder / "rejected.jsonl") as rejected,
    ):
        for start, batch in prep.store.batches():
            part = slice(start, start + len(batch))
            lines = _ledger(prep, part, batch, repeats[part], tokens[part], supervised[part], lost[part])
            ledger.write_table(lines)
            kept.write_table(_records(lines, batch))
            for row in lines.filter(pc.equal(lines["fate"], "rejected")).select(["source", "reason"]).to_pylist():
                rejected.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
    pa.default_memory_pool().release_unused()


def _ledger(
    prep: Any, part: slice, batch: pa.RecordBatch, repeats: np.ndarray, tokens: np.ndarray, supervised: np.ndarray, lost: np.ndarray
) -> pa.Table:
    """The ledger's rows of one stretch of input rows."""
    rows, fate = prep.rows, prep.rows.fate[part]
    known, refused = rows.domain[part] >= 0, fate == REJECTED
    reason = np.where(refused, rows.reason[part], -1)
    repeated = dict(zip(wanted := np.unique(repeats[repeats >= 0]), prep.store.sources(wanted), strict=True))
    columns = {
        "source": batch["source"], "origin": _named(rows.origin[part], ORIGINS), "domain": _named(rows.domain[part], rows.domains),
        "shape": pc.fill_null(batch["shape"], ""),
        "record_id": [f"{key:016x}" if has else "" for key, has in zip(rows.key[part].tolist(), known.tolist(), strict=True)],
        "fate": _named(np.where(fate == KEPT, prep.split[part], fate.astype(np.int64) + len(splits.SPLITS) - 1), FATES),
        "reason": [rows.reasons[number] if number >= 0 else repeated.get(first, "") for number, first in zip(reason.tolist(), repeats.tolist(), strict=True)],
        "tokens": tokens, "supervised_tokens": supervised, "tokens_lost": lost,
    }  # fmt: skip
    return pa.table(columns, schema=LEDGER)


def _named(numbers: np.ndarray, names: Sequence[str]) -> pa.Array:
    """The names that numbers stand for; "" for -1."""
    return pa.array([*names, ""]).take(pa.array(np.where(numbers < 0, len(names), numbers)))


def _records(lines: pa.Table, batch: pa.RecordBatch) -> pa.Table:
    """The kept ones of the ledger's rows, with their text."""
    kept = pc.is_in(lines["fate"], pa.array(splits.SPLITS)).combine_chunks()
    rows, stored = lines.filter(kept), batch.filter(kept)
    groups = [text_id(group) for group in stored["source_group"].to_pylist()]
    columns = {"record_id": rows["record_id"], "split": rows["fate"], "domain": rows["domain"], "source": rows["source"], "source_group": groups,
               "shape": stored["shape"], "messages": stored["messages"].cast(pa.string()), "text": stored["text"]}  # fmt: skip
    return pa.table(columns, schema=RECORDS)


def count(prep: Any, blocks: dict[str, int]) -> dict[str, Any]:
    """The figures of data/report.json."""
    rows, settings = prep.rows, prep.settings
    fates = np.bincount(rows.fate, minlength=4)
    in_split = {name: prep.split == number for number, name in enumerate(splits.SPLITS)}
    tokens, supervised = (
        {name: int(per_row[mask].sum()) for name, mask in in_split.items()}
        for per_row in (prep.tokens.per_record("length", len(rows.fate)), prep.tokens.per_record("supervised", len(rows.fate)))
    )
    packed = {**tokens, "train": int(prep.tokens.length[prep.train[prep.mixture.windows]].sum())}
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
        "links": {name: getattr(prep.assignment, name) for name in ("moved_by_links", "large_components", "in_large_components")},
        "reassigned": prep.assignment.reassigned,
        "mixture": mixture_figures(prep),
        "tokens": tokens,
        "supervised_tokens": supervised,
        "tokens_lost_to_length": int(prep.lost.read()[prep.split >= 0].sum()),
        "windows": {name: int((in_split[name][prep.tokens.record]).sum()) for name in splits.SPLITS},
        "blocks": blocks,
        "fill": {name: packing.fill_rate(packed[name], blocks[name], settings.max_tokens) for name in splits.SPLITS},
    }


def mixture_figures(prep: Any) -> dict[str, Any]:
    """Training tokens by domain, as they were and as they are trained on; and the records of which no window is."""
    everything, chosen, domains = slice(None), prep.mixture.windows, prep.rows.domains
    tokens, domain = prep.of_windows()
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


REMEDY = "Add data, or change the parameter that the reason names"


def what_was_lost(rows: Rows, what: str, remedy: str = REMEDY) -> str:
    """A message for rows that are missing where some are needed."""
    fates = np.bincount(rows.fate, minlength=4)
    return (
        f"{what}: of {len(rows.fate)} rows {fates[0]} are usable, {fates[DUPLICATE]} exact and {fates[NEAR_DUPLICATE]} near-duplicates; "
        f"rejected: {rejected(rows) or 'none'}. {remedy}"
    )
