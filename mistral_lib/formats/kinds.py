"""The format of a file: by the endings of its name, by its first bytes where they contradict the name, and what is passed over."""

import json
import re
from pathlib import PurePosixPath

from mistral_lib.formats.decompression import CODECS, MAGIC

KINDS = {".jsonl": "lines", ".ndjson": "lines", ".jsonlines": "lines", ".jl": "lines", ".json": "json",
         ".csv": "csv", ".tsv": "tsv", ".tab": "tsv", ".parquet": "parquet", ".arrow": "arrow", ".feather": "arrow",
         ".xlsx": "sheet", ".xlsm": "sheet", ".xlsb": "sheet", ".xls": "sheet", ".ods": "sheet",
         ".txt": "text", ".text": "text", ".md": "text", ".markdown": "text", ".mdx": "text", ".rst": "text",
         ".docx": "document", ".pptx": "document", ".html": "document", ".htm": "document", ".xhtml": "document", ".epub": "document",
         ".odt": "document", ".rtf": "document", ".eml": "document",
         ".pdf": "pdf", ".zip": "zip", ".tar": "tar"}  # fmt: skip
SHORT = {".tgz": ".tar.gz", ".tbz2": ".tar.bz2", ".tbz": ".tar.bz2", ".txz": ".tar.xz", ".tzst": ".tar.zst"}
TEXT_KINDS = ("lines", "json", "csv", "tsv", "text")  # read as UTF-8, whatever their encoding is
ONE_RECORD = ("text", "document", "picture")  # a file of them is one record
PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".svg", ".tif", ".tiff", ".ico", ".heic", ".avif", ".psd"}
OCR_PICTURES = {".png", ".jpg", ".jpeg", ".gif", ".bmp", ".webp", ".tif", ".tiff"}
SOUNDS = {".mp3", ".wav", ".flac", ".ogg", ".opus", ".m4a", ".aac", ".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg"}
SYSTEM_NAMES = {"thumbs.db", "desktop.ini", "__macosx", "__pycache__", "$recycle.bin", "system volume information", "icon\r"}
SYSTEM_ENDINGS = {".pyc", ".pyo", ".crc", ".md5", ".sha1", ".sha256", ".lock", ".lnk"}
MARKERS = re.compile(r"_(?:SUCCESS|FAILURE|committed_\w+|started_\w+|metadata|common_metadata|delta_log)\Z")
DATASET_FILES = {"dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"}
LICENSES = re.compile(r"(?i)(?:(?:license|licence|copying)(?:[-.](?:txt|md|rst|mit|apache))?|notice|authors|codeowners)\Z")
CARD_NAME = re.compile(r"(?i)readme(?:[._-]\w+)?(?:\.md|\.markdown)?\Z")
CARD_KEYS = re.compile(
    rb"(?m)^(?:dataset_info|configs|task_categories|task_ids|size_categories|annotations_creators|language_creators|pretty_name|license|"
    rb"source_datasets|base_model|pipeline_tag|library_name|model-index|multilinguality)\s*:"
)
START = 64 * 1024  # bytes by which a file is recognized


def kind_of(name: str) -> tuple[str, str | None]:
    """(kind, codec) of a file name: `a.tar.gz` → (tar, gzip), `a.jsonl.txt` → (lines, None), `notes` → (unknown, None)."""
    path = PurePosixPath(name.lower())
    path = path.with_suffix(SHORT[path.suffix]) if path.suffix in SHORT else path
    codec = CODECS.get(path.suffix)
    inner = PurePosixPath(path.stem) if codec else path
    kind = "picture" if inner.suffix in OCR_PICTURES else KINDS.get(inner.suffix, "unknown")
    if inner.suffix == ".txt" and (before := KINDS.get(PurePosixPath(inner.stem).suffix)) in TEXT_KINDS:
        return before, codec
    return kind, codec


def without_endings(name: str) -> str:
    """A file name without the endings that name its format: `gpt3.5_law.jsonl.gz` → `gpt3.5_law`, `v1.2` → `v1.2`."""
    path = PurePosixPath(name)
    if path.suffix.lower() in CODECS:
        path = PurePosixPath(path.stem)
    if path.suffix.lower() == ".txt" and KINDS.get(PurePosixPath(path.stem).suffix.lower()) in TEXT_KINDS:
        path = PurePosixPath(path.stem)
    return path.stem if path.suffix.lower() in {*KINDS, *SHORT, *OCR_PICTURES} else str(path)


def by_content(kind: str, codec: str | None, start: bytes) -> tuple[str, str | None]:
    """(kind, codec) as the first bytes say, if they contradict the name: a tar named .tar.gz, a workbook named .csv, rows named .txt."""
    found = next((name for magic, name in MAGIC.items() if start.startswith(magic)), None)
    if found != codec:
        if found is None and codec is not None and (_is_text(start) or start[257:262] == b"ustar"):
            return _plain_kind(kind, start), None  # not compressed, whatever its name says
        if found and (codec or kind in ("tar", "unknown", *TEXT_KINDS)):
            return kind, found
    return (kind, codec) if codec else (_plain_kind(kind, start), None)


def _is_text(start: bytes) -> bool:
    try:
        return b"\0" not in start and bool(start[:-3].decode())
    except UnicodeDecodeError:
        return False


def _plain_kind(kind: str, start: bytes) -> str:
    if start.startswith(b"PK\x03\x04") and kind not in ("document", "sheet"):
        return _of_zip(start)
    if start[257:262] == b"ustar":
        return "tar"
    if start.startswith(b"%PDF-") and kind != "pdf":
        return "pdf"
    if start.startswith(b"PAR1"):
        return "parquet"
    if start.startswith(b"ARROW1\0\0"):
        return "arrow"
    return of_text("document", start) if kind == "document" else kind


def of_text(kind: str, start: bytes) -> str:
    """The kind of a text that begins with these bytes: rows of JSON are read as such, whatever the name says."""
    return "lines" if kind in ("text", "unknown", "document", "csv") and _has_json_lines(start) else kind


def looks_like_a_table(start: bytes) -> bool:
    """Whether the first lines have equally many delimiters."""
    lines = [line for line in start.split(b"\n")[:10] if line.strip()]
    if len(lines) < 3 or b"\0" in start:
        return False
    return any(len(counts := {line.count(one) for line in lines[:-1]}) == 1 and max(counts) > 0 for one in (b",", b";", b"\t", b"|"))


def _of_zip(start: bytes) -> str:
    """What a zip is: the parts of an office document are among its first members."""
    if b"xl/" in start or b"opendocument.spreadsheet" in start:
        return "sheet"
    office = (b"word/", b"ppt/", b"application/epub+zip", b"opendocument.text")
    return "document" if b"[Content_Types].xml" in start[:4096] and any(part in start for part in office) else "zip"


def _has_json_lines(start: bytes) -> bool:
    """Whether the first lines are objects of JSON, one a line; a single one is enough if the file has only that line. Also whether it
    begins with an array of objects, or with an object of several lines."""
    import orjson

    text = start.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text.startswith((b"{", b"[")):
        return False
    if _has_long_json(text.decode("utf-8", "replace")):
        return True
    lines = [line for line in text.split(b"\n") if line.strip()]
    whole = lines[:-1] if len(start) >= START - 16 and len(lines) > 1 else lines
    good = 0
    for line in whole[:8]:
        try:
            good += isinstance(orjson.loads(line), dict)
        except orjson.JSONDecodeError:
            continue
    return good > min(len(whole), 8) / 2


def _has_long_json(text: str) -> bool:
    """Whether a text begins with an object of JSON that fills its lines, or with an array of such objects."""
    is_array = text[0] == "["
    begin = len(text) - len(text[1:].lstrip()) if is_array else 0
    try:
        value, end = json.JSONDecoder(strict=False).raw_decode(text, begin)
    except (ValueError, RecursionError):
        return False
    return isinstance(value, dict) and text[end:].lstrip()[:1] in (("]", ",") if is_array else ("", "{", ","))


def left_out(name: str, start: bytes | None = None, ocr: bool = False) -> str:
    """What kind of file is passed over, by its name and its first bytes if given; "" for one that is read.

    name: with the folders below the source, since a hidden folder hides all that is in it.
    """
    path = PurePosixPath(name.replace("\\", "/"))
    parts = [part.lower() for part in path.parts]
    if any(part in SYSTEM_NAMES for part in parts) or path.suffix.lower() in SYSTEM_ENDINGS or path.name.startswith("~$"):
        return "system files"
    if any(part.startswith(".") and part not in (".", "..") for part in parts):
        return "hidden files"
    if path.suffix.lower() in PICTURES and not (ocr and path.suffix.lower() in OCR_PICTURES):
        return "pictures"
    if path.suffix.lower() in SOUNDS:
        return "sound and video files"
    if MARKERS.match(path.name) or LICENSES.match(path.name):
        return "licenses and markers of other tools"
    return _dataset_file(path.name, start) if start is not None else ""


def about_content(name: str) -> bool:
    """Whether the first bytes of a file with this name decide if it is left out."""
    base = PurePosixPath(name.replace("\\", "/")).name
    return base.lower() in DATASET_FILES or bool(CARD_NAME.match(base))


def _dataset_file(name: str, start: bytes) -> str:
    """Cards and descriptions of data sets and models, which are no data."""
    if CARD_NAME.match(name) and start.lstrip(b"\xef\xbb\xbf").startswith(b"---"):
        front = start.lstrip(b"\xef\xbb\xbf")[3:].partition(b"\n---")[0]
        return "data-set cards" if CARD_KEYS.search(front) else ""
    if name.lower() not in DATASET_FILES:
        return ""
    described = (
        b'"features"',
        b'"_data_files"',
        b'"splits"',
        b'"file_name"',
        b'"hf_hub_url"',
        b'"script_url"',
        b'"dataset_size"',
        b'"builder_name"',
    )
    return "data-set cards" if any(key in start for key in described) else ""
