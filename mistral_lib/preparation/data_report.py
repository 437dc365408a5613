"""The fate of every input row: the ledger, the rejects, the kept records, and the figures of the report, which reconcile."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from mistral_lib.corpus import document_keys
from mistral_lib.corpus.records import text_id
from mistral_lib.corpus.unmapped_rows import UNKNOWN, counted
from mistral_lib.curation import mixture, rejections, splits
from mistral_lib.preparation.prepared import Prepared
from mistral_lib.preparation.row_inspection import DUPLICATE, KEPT, NEAR_DUPLICATE, ORIGINS, REJECTED, RowColumns
from mistral_lib.run import files
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import packing

LEDGER = pa.schema([*((name, pa.string()) for name in ("source", "origin", "domain", "shape", "record_id", "fate", "reason")),
                    *((name, pa.int32()) for name in ("tokens", "supervised_tokens", "tokens_lost", "lines"))])  # fmt: skip
RECORDS = pa.schema([(name, pa.string()) for name in
                     ("record_id", "split", "domain", "source", "source_group", "shape", "messages", "text", "tools")])  # fmt: skip
PLACE_IN_FILE = r"(!.*|#\d+([-.]\d+)?|([.:]\d+)+)$"  # in the source of a row, after the file's name: member, page, line
FATES = (*splits.SPLITS, "rejected", "duplicate", "near_duplicate")  # the last three in the order of their numbers in row_inspection.py


def write_ledger(prep: Prepared, folder: Path) -> list[dict[str, Any]]:
    """ledger.parquet: a row per input row. records.parquet: the kept ones with their text. rejected.jsonl: source and reason,
    never any content. All in one pass over the store. Returns what is rejected often."""
    by_file: Counter = Counter()
    tokens, supervised = (prep.tokens.per_record(name, len(prep.rows.fate)) for name in ("length", "supervised"))
    keys = prep.rows.document_key.read()
    repeats, lost, lines_of = prep.splits.repeats.read(), prep.lost.read(), prep.rows.lines.read()
    with (
        pq.ParquetWriter(folder / "ledger.parquet", LEDGER, write_statistics=False) as ledger,
        pq.ParquetWriter(folder / "records.parquet", RECORDS, write_statistics=False) as kept,
        files.atomic(folder / "rejected.jsonl") as rejected,
    ):
        for start, batch in prep.store.batches():
            part = slice(start, start + len(batch))
            lines = _ledger(prep, part, batch, repeats[part], tokens[part], supervised[part], lost[part])
            lines = lines.append_column(LEDGER.field("lines"), pa.array(np.maximum(lines_of[part], 1).astype(np.int32)))
            ledger.write_table(lines)
            kept.write_table(_records(lines, batch, prep.splits.divided is not None, keys[part]))
            for row in lines.filter(pc.equal(lines["fate"], "rejected")).select(["source", "reason", "lines"]).to_pylist():
                if row["lines"] == 1:
                    del row["lines"]
                rejected.write(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE))
            by_file.update(_rejected_by_file(lines))
    pa.default_memory_pool().release_unused()
    return rejections.large(by_file)


def _rejected_by_file(lines: pa.Table) -> dict[tuple[str, str], int]:
    """Rows of each file by their reason, "" for those that are not rejected. lines: of the ledger."""
    file = pc.replace_substring_regex(lines["source"], PLACE_IN_FILE, "")
    reason = pc.if_else(pc.equal(lines["fate"], "rejected"), lines["reason"], "")
    counted = pa.table({"file": file, "reason": reason, "lines": lines["lines"]}).group_by(["file", "reason"]).aggregate([("lines", "sum")])
    return dict(
        zip(zip(counted["file"].to_pylist(), counted["reason"].to_pylist(), strict=True), counted["lines_sum"].to_pylist(), strict=True)
    )


def _ledger(
    prep: Prepared, part: slice, batch: pa.RecordBatch, repeats: np.ndarray, tokens: np.ndarray, supervised: np.ndarray, lost: np.ndarray
) -> pa.Table:
    """The ledger's rows for a slice of the input rows."""
    rows, fate = prep.rows, prep.rows.fate[part]
    mapped, refused = rows.domain[part] >= 0, fate == REJECTED
    reason = np.where(refused, rows.reason[part], -1)
    repeated = dict(zip(wanted := np.unique(repeats[repeats >= 0]), prep.store.sources(wanted), strict=True))
    columns = {
        "source": batch["source"], "origin": _named(rows.origin[part], ORIGINS), "domain": _named(rows.domain[part], rows.domains),
        "shape": pc.fill_null(batch["shape"], ""),
        "record_id": [f"{key:016x}" if has else "" for key, has in zip(rows.key[part].tolist(), mapped.tolist(), strict=True)],
        "fate": _named(np.where(fate == KEPT, prep.splits.split[part], fate.astype(np.int64) + len(splits.SPLITS) - 1), FATES),
        "reason": [rows.reasons[number] if number >= 0 else repeated.get(first, "") for number, first in zip(reason.tolist(), repeats.tolist(), strict=True)],
        "tokens": tokens, "supervised_tokens": supervised, "tokens_lost": lost,
    }  # fmt: skip
    return pa.table(columns, schema=pa.schema([field for field in LEDGER if field.name != "lines"]))


def _named(numbers: np.ndarray, names: Sequence[str]) -> pa.Array:
    """The names that numbers refer to; "" for -1."""
    return pa.array([*names, ""]).take(pa.array(np.where(numbers < 0, len(names), numbers)))


def _records(lines: pa.Table, batch: pa.RecordBatch, divided: bool, keys: np.ndarray) -> pa.Table:
    """The kept rows of the ledger, with their text. divided: whether each record is a group of its own; keys: what names its document."""
    kept = pc.is_in(lines["fate"], pa.array(splits.SPLITS)).combine_chunks()
    rows, stored = lines.filter(kept), batch.filter(kept)
    named = pc.if_else(pa.array(keys > 0).filter(kept), stored["source_group"], stored["source"])
    groups = rows["record_id"] if divided else [text_id(group) for group in named.to_pylist()]
    columns = {"record_id": rows["record_id"], "split": rows["fate"], "domain": rows["domain"], "source": rows["source"], "source_group": groups,
               "shape": stored["shape"], "messages": stored["messages"].cast(pa.string()), "text": stored["text"],
               "tools": stored["tools"].cast(pa.string())}  # fmt: skip
    return pa.table(columns, schema=RECORDS)


def figures(prep: Prepared, blocks: dict[str, int]) -> dict[str, Any]:
    """The figures of data/report.json. blocks: their number in each split."""
    return {**_row_figures(prep), **_leak_figures(prep), "mixture": mixture_figures(prep), **_token_figures(prep, blocks)}


def _row_figures(prep: Prepared) -> dict[str, Any]:
    """What was read, kept, rejected and dropped."""
    rows, split = prep.rows, prep.splits.split
    fates, in_split = np.bincount(rows.fate, minlength=4), _in_split(prep)
    return {
        "lines_read": int(rows.lines.read().sum(dtype=np.int64)),
        "records_read": int(rows.weights().sum()),
        "records_kept": int((split >= 0).sum()),
        "rejected": rejected(rows),
        **{name: dict(sorted(counter.items())) for name, counter in rows.counts.items()},
        "duplicates_exact": int(fates[DUPLICATE]),
        "duplicates_near": int(fates[NEAR_DUPLICATE]) if prep.near_duplicates_searched else None,
        "split_sizes": {name: int(mask.sum()) for name, mask in in_split.items()},
        "domains": {name: _names(rows.domain[mask], rows.domains) for name, mask in in_split.items()},
        "origins": _names(rows.origin[split >= 0], ORIGINS),
        "label_domains": prep.splits.labels,
        "source_documents": _source_documents(prep),
        "divided_documents": prep.splits.divided,
        "documents": {name: _documents(rows, mask) for name, mask in in_split.items()},
    }


def _source_documents(prep: Prepared) -> list[dict[str, Any]]:
    """For each row key that named source documents of kept records, their number; key "": records that name none, a document each."""
    kept = prep.splits.split >= 0
    group, number = prep.rows.group.read()[kept], prep.rows.document_key.read()[kept]
    keys = ("", *document_keys.searched(prep.settings.group_key))
    found = [
        {"key": keys[n], "records": int((number == n).sum()), "documents": len(np.unique(group[number == n]))} for n in np.unique(number)
    ]
    return sorted(found, key=lambda one: -one["records"])


def _documents(rows: RowColumns, mask: np.ndarray) -> dict[str, int]:
    """The number of source documents in each domain. mask: bool (rows,), the rows that count."""
    domain, group = rows.domain[mask], rows.group.read()[mask]
    order = np.lexsort((group, domain))
    domain, group = domain[order], group[order]
    first = np.ones(len(domain), bool)
    first[1:] = (domain[1:] != domain[:-1]) | (group[1:] != group[:-1])
    return _names(domain[first], rows.domains)


def documents_text(report: dict[str, Any]) -> str:
    """How many source documents there are, and which row key names them. report: data/report.json."""
    found = report.get("source_documents", [])  # an older version of the library did not count them
    named = [f"{one['documents']:,} named by {_key(one['key'])} ({one['records']:,} records)" for one in found if one["key"]]
    alone = [f"{one['records']:,} records that name none and count as a document each" for one in found if not one["key"]]
    if report.get("divided_documents"):
        return f"source documents: {divided_text(report['divided_documents'])}"
    return f"source documents: {'; '.join([*named, *alone]) or 'not counted'}"


def divided_text(divided: dict[str, Any]) -> str:
    """Which documents had to be divided, what that means, and what to do. divided: of data/report.json."""
    which = "all records are of one document" if divided["documents"] == 1 else f"all records are of {divided['documents']} documents"
    named = f", named by {_key(divided['key'])}" if divided["key"] else ""
    remedy = "name a key that divides them (group_key)" if divided["key"] else "add documents"
    return (
        f"{which}{named}: too few for three splits. So they are split by their {divided['records']:,} {divided['into']}; "
        f"{divided['into']} of one document are in training and in the test, which therefore shows less. To change it, {remedy}"
    )


def _key(key: str) -> str:
    return key if key == document_keys.LONG_TEXT else f"the key {key}"


def uneven_splits(report: dict[str, Any], settings: Settings) -> list[str]:
    """A warning for each held-out split that has more than twice its share, since links take whole groups of records there."""
    sizes, shares = report["split_sizes"], {"validation": settings.validation_share, "test": settings.test_share}
    total = sum(sizes.values())
    return [
        f"{name} holds {sizes[name]:,} of {total:,} records, its share is {share:g}: records with nearly equal prompts or answers go to the "
        "most protected split of any of them. If they are about one document, give them a key that names it (group_key)"
        for name, share in shares.items()
        if sizes[name] > max(2 * share * total, splits.SMALLEST_LARGE_LIMIT)
    ]


def _in_split(prep: Prepared) -> dict[str, np.ndarray]:
    """For each split bool (rows,): whether each row is in it."""
    return {name: prep.splits.split == number for number, name in enumerate(splits.SPLITS)}


def _leak_figures(prep: Prepared) -> dict[str, Any]:
    """What leaks from training into held-out splits, and what was done against it."""
    leak, assignment = prep.leak, prep.splits.assignment
    return {
        "leaked_exact": leak["exact"] + leak["answer"],
        "leaked_near": leak["near"] if prep.near_duplicates_searched else None,
        "leaked_prompt": leak["prompt"],
        "leaked_document": leak["document"],
        "leaked_by_a_random_split": prep.splits.random_leak,
        "links": {name: getattr(assignment, name) for name in ("moved_by_links", "large_components", "in_large_components")},
        "reassigned": assignment.reassigned,
    }


def _token_figures(prep: Prepared, blocks: dict[str, int]) -> dict[str, Any]:
    """Tokens, windows and blocks of each split."""
    in_split, count = _in_split(prep), len(prep.rows.fate)
    tokens, supervised = (
        {name: int(per_row[mask].sum()) for name, mask in in_split.items()}
        for per_row in (prep.tokens.per_record("length", count), prep.tokens.per_record("supervised", count))
    )
    packed = {**tokens, "train": int(prep.tokens.length[prep.train[prep.mixture.windows]].sum())}
    return {
        "tokens": tokens,
        "supervised_tokens": supervised,
        "tokens_lost_to_length": int(prep.lost.read()[prep.splits.split >= 0].sum()),
        "windows": {name: int(prep.windows_of(number).sum()) for number, name in enumerate(splits.SPLITS)},
        "blocks": blocks,
        "fill": {name: packing.fill_rate(packed[name], blocks[name], prep.settings.max_tokens) for name in splits.SPLITS},
    }


def mixture_figures(prep: Prepared) -> dict[str, Any]:
    """Training tokens by domain, before and after the mixture, and the number of records that it leaves out completely."""
    everything, chosen, domains = slice(None), prep.mixture.windows, prep.rows.domains
    tokens, domain = prep.of_training_windows()
    used = np.unique(prep.tokens.record[prep.train[chosen]])
    return {
        "before": mixture.tokens_by_domain(everything, tokens, domain, domains),
        "after": mixture.tokens_by_domain(chosen, tokens, domain, domains),
        "operatives_tokens": int(tokens[prep.mixture.operatives].sum()),
        "records_left_out": int((prep.splits.split == 0).sum() - len(used)),
    }


def rejected(rows: RowColumns) -> dict[str, int]:
    """Rejected rows by reason; a refused file counts as many as it has."""
    refused = rows.fate == REJECTED
    return _names(rows.reason[refused], rows.reasons, rows.weights()[refused])


def _names(numbers: np.ndarray, names: Sequence[str], weights: np.ndarray | None = None) -> dict[str, int]:
    """How often each name's number occurs, or the sum of its weights; names that do not occur are left out."""
    counts = np.bincount(numbers[numbers >= 0], None if weights is None else weights[numbers >= 0], minlength=len(names)).tolist()
    return {name: int(count) for name, count in sorted(zip(names, counts, strict=True)) if count}


def what_was_lost(rows: RowColumns, what: str, remedy: str = "Add data, or change the parameter that the reason names") -> str:
    """An error message: what is missing, and the fate of all rows."""
    fates = np.bincount(rows.fate, minlength=4)
    if UNKNOWN in rejected(rows):
        remedy += f". Rows of unknown shape have the keys {counted(rows.counts['unused_keys'])}: the parameter columns says which is what"
    if rows.counts["unknown_roles"]:
        remedy += f". Unknown roles: {counted(rows.counts['unknown_roles'])}"
    return (
        f"{what}: of {rows.weights().sum()} rows {fates[0]} are usable, {fates[DUPLICATE]} exact and {fates[NEAR_DUPLICATE]} near-duplicates; "
        f"rejected: {_rejected_text(rows)}. {remedy}"
    )


def _rejected_text(rows: RowColumns) -> str:
    """`answer_too_short 28 (shortest_answer ...)`, the most frequent reason first."""
    found = sorted(rejected(rows).items(), key=lambda one: (-one[1], one[0]))
    return ", ".join(f"{count} as {rejections.explained(reason)}" for reason, count in found) or "none"
