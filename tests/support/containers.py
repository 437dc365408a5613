"""The same rows in every container that the workbook reads, for the tests of sources and readers."""

import bz2
import csv
import gzip
import io
import json
import lzma
import tarfile
import zipfile
from collections.abc import Callable

import pyarrow as pa
import pyarrow.parquet as pq

from mistral_lib.corpus import pdf_writer
from tests.support import office

ROWS = [{"prompt": f"What is number {n}?", "completion": f"It is the number {n}, é × “{n}”."} for n in range(1, 6)]


def json_lines(rows: list[dict]) -> bytes:
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


def table(rows: list[dict], delimiter: str = ",") -> bytes:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def parquet(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def arrow(rows: list[dict]) -> bytes:
    """A stream of batches, as the library datasets stores a table."""
    sink, made = io.BytesIO(), pa.Table.from_pylist(rows)
    with pa.ipc.new_stream(sink, made.schema) as writer:
        writer.write_table(made)
    return sink.getvalue()


def cells(rows: list[dict]) -> list[list]:
    """A table with its header."""
    return [list(rows[0]), *(list(row.values()) for row in rows)]


def compressed(data: bytes, codec: str) -> bytes:
    """`codec`: gzip, bz2, xz, zstd or lz4, the same bytes at every call."""
    if codec in ("zstd", "lz4"):
        return pa.Codec(codec).compress(data, asbytes=True)
    if codec == "xz":
        return lzma.compress(data)
    return gzip.compress(data, mtime=0) if codec == "gzip" else bz2.compress(data)


def zipped(members: dict[str, bytes]) -> bytes:
    sink = io.BytesIO()
    with zipfile.ZipFile(sink, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    return sink.getvalue()


def tarred(members: dict[str, bytes], mode: str = "w") -> bytes:
    """`mode`: w, or w:gz for a compressed one; the same bytes at every call."""
    sink = io.BytesIO()
    with tarfile.open(fileobj=sink, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return compressed(sink.getvalue(), "gzip") if mode == "w:gz" else sink.getvalue()


def pdf(text: str = "The first line.\nThe second line.") -> bytes:
    return pdf_writer.document(text)


LINES = json_lines(ROWS)
# file name → its bytes; each file contains ROWS
STRUCTURED: dict[str, Callable[[], bytes]] = {
    "a.jsonl": lambda: LINES,
    "a.ndjson": lambda: LINES,
    "a.json": lambda: json.dumps(ROWS, indent=1).encode(),
    "lines.json": lambda: LINES,
    "wrapped.json": lambda: json.dumps({"version": 1, "data": ROWS}).encode(),
    "a.csv": lambda: table(ROWS),
    "semicolons.csv": lambda: table(ROWS, ";"),
    "a.tsv": lambda: table(ROWS, "\t"),
    "a.parquet": lambda: parquet(ROWS),
    "a.arrow": lambda: arrow(ROWS),
    "a.xlsx": lambda: office.xlsx(cells(ROWS)),
    "a.ods": lambda: office.ods(cells(ROWS)),
    "pretty.jsonl": lambda: b"\n".join(json.dumps(row, indent=2, ensure_ascii=False).encode() for row in ROWS),
    "splits.json": lambda: json.dumps({"train": ROWS[:3], "test": ROWS[3:]}).encode(),
    "a.jsonl.xz": lambda: compressed(LINES, "xz"),
    "a.jsonl.lz4": lambda: compressed(LINES, "lz4"),
    "a.jsonl.gz": lambda: compressed(LINES, "gzip"),
    "a.jsonl.bz2": lambda: compressed(LINES, "bz2"),
    "a.jsonl.zst": lambda: compressed(LINES, "zstd"),
    "a.csv.gz": lambda: compressed(table(ROWS), "gzip"),
    "a.parquet.gz": lambda: compressed(parquet(ROWS), "gzip"),
    "a.zip": lambda: zipped({"in/a.jsonl": LINES}),
    "a.tar": lambda: tarred({"in/a.jsonl": LINES}),
    "a.tar.gz": lambda: tarred({"in/a.jsonl": LINES}, "w:gz"),
    "a.tgz": lambda: tarred({"./a.jsonl": LINES}, "w:gz"),
    "a.tar.zst": lambda: compressed(tarred({"a.jsonl": LINES}), "zstd"),
    "zip_in_zip.zip": lambda: zipped({"inner.zip": zipped({"a.jsonl": LINES})}),
    "tgz_in_tar.tar": lambda: tarred({"inner.tgz": tarred({"a.parquet": parquet(ROWS)}, "w:gz")}),
    "gz_in_zip.zip": lambda: zipped({"a.jsonl.gz": compressed(LINES, "gzip")}),
}
DOCUMENTS: dict[str, Callable[[], bytes]] = {
    "a.txt": lambda: b"A plain text.\nOf two lines.",
    "a.md": lambda: b"# A heading\n\nA text.",
    "a.pdf": pdf,
    "a.docx": lambda: office.docx("A paragraph of a document.", "Another one."),
    "a.html": lambda: office.html("A page", "A paragraph of a page."),
    "one.json": lambda: json.dumps(ROWS[0], indent=1).encode(),
}
