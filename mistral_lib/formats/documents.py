"""Files that are one text each: plain text and Markdown without front matter; office documents, web pages, books and mails by kreuzberg; with
`ocr` also pictures."""

import errno
import re
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import BinaryIO

from mistral_lib.formats import encodings
from mistral_lib.formats.decompression import CODECS
from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.streams import read_all

MIME_TYPES = {
    ".docx": "application/vnd.openxmlformats-officedocument.wordprocessingml.document",
    ".pptx": "application/vnd.openxmlformats-officedocument.presentationml.presentation",
    ".odt": "application/vnd.oasis.opendocument.text",
    ".epub": "application/epub+zip", ".rtf": "application/rtf", ".eml": "message/rfc822",
    ".html": "text/html", ".htm": "text/html", ".xhtml": "text/html",
    ".png": "image/png", ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".gif": "image/gif", ".bmp": "image/bmp", ".webp": "image/webp",
    ".tif": "image/tiff", ".tiff": "image/tiff",
}  # fmt: skip
PARTS = ((b"word/", ".docx"), (b"ppt/", ".pptx"), (b"application/epub+zip", ".epub"), (b"opendocument.text", ".odt"))  # of a renamed file
SECONDS = 120  # for one document
OCR_LANGUAGE = "eng"
MAIL_HEAD = re.compile(r"(?:(?:From|To|Cc|Bcc|Date|Reply-To): [^\n]*\n)+")  # names and addresses, not what was written


FRONT_MATTER_MARKS = ("---", "+++")  # of YAML and TOML; between two of them are lines `key: value`, at the very beginning
LONGEST_FRONT_MATTER = 500  # lines
KEYED = re.compile(r"[\w.-]+[ \t]?[:=]")


class NoOcrError(OSError):
    """OCR was asked for and is not installed."""

    errno = errno.EIO  # a fault of the machine; damaged content is an OSError without errno


def document(data: bytes, name: str, reading: Reading) -> Row:
    """The row of a document. Errors: NoOcrError."""
    import kreuzberg

    ending = _ending(name, data)
    if MIME_TYPES[ending] == "text/html" and not encodings.is_utf8(data):
        return Row(name, None, "not_utf8")
    try:
        text = _extracted(data, MIME_TYPES[ending], ocr=False)
    except kreuzberg.KreuzbergError as error:
        encrypted = "assword" in str(error) or "encrypt" in str(error)
        return Row(name, None, "document_encrypted" if encrypted else "unreadable_document", type(error).__name__)
    if ending == ".eml":
        text = MAIL_HEAD.sub("", text, count=1)
    return Row(name, {"text": text}) if text else Row(name, None, "document_without_text")


def is_page(name: str, start: bytes) -> bool:
    """Whether a document is a web page, which may be in any encoding."""
    return MIME_TYPES[_ending(name, start)] == "text/html"


def picture(data: bytes, name: str, reading: Reading) -> Row:
    """The row of the text in a picture. Errors: NoOcrError."""
    if not reading.ocr:
        return Row(name, None, "picture_without_ocr")
    import kreuzberg

    try:
        text = recognized(data, MIME_TYPES[_ending(name, data)])
    except kreuzberg.KreuzbergError as error:
        return Row(name, None, "unreadable_picture", type(error).__name__)
    return Row(name, {"text": text}) if text else Row(name, None, "picture_without_text")


def recognized(data: bytes, mime_type: str) -> str:
    """The text in a picture, by Tesseract. Errors: NoOcrError, kreuzberg.KreuzbergError."""
    import kreuzberg

    try:
        return _extracted(data, mime_type, ocr=True)
    except kreuzberg.KreuzbergError as error:
        if "initializ" in str(error) or "tessdata" in str(error).lower() or isinstance(error, kreuzberg.MissingDependencyError):
            raise NoOcrError(
                f"ocr is true, but the language data of Tesseract ({OCR_LANGUAGE}) is not installed: apt-get install tesseract-ocr (or set the "
                "environment variable TESSDATA_PREFIX to the folder that has it), or set ocr to false"
            ) from None
        raise


def _extracted(data: bytes, mime_type: str, ocr: bool) -> str:
    from kreuzberg import ExtractionConfig, OcrConfig, extract_bytes_sync

    options = {"ocr": OcrConfig(backend="tesseract", language=OCR_LANGUAGE)} if ocr else {"disable_ocr": True}
    config = ExtractionConfig(use_cache=False, output_format="plain", extraction_timeout_secs=SECONDS, **options)
    text = extract_bytes_sync(data, mime_type, config).content
    return text.replace("\r\n", "\n").replace("\0", "").strip()


def _ending(name: str, data: bytes) -> str:
    path = PurePosixPath(name.lower())
    path = PurePosixPath(path.stem) if path.suffix in CODECS else path
    if path.suffix in MIME_TYPES:
        return path.suffix
    return next((ending for part, ending in PARTS if part in data), ".html")


def plain_text(stream: BinaryIO, name: str, reading: Reading) -> Iterator[Row]:
    """The row of a text file. Errors: RefusedError if it is too large for memory."""
    data = read_all(stream, reading.limits.in_memory_bytes)
    if not data:
        return
    if b"\0" in data:
        yield Row(name, None, "nul_bytes")
        return
    try:
        text = data.decode("utf-8-sig").replace("\r\n", "\n")
    except UnicodeDecodeError:
        yield Row(name, None, "not_utf8")
        return
    body = without_front_matter(text)
    yield Row(name, {"text": body}, note="" if body == text else "front_matter_left_out")


def without_front_matter(text: str) -> str:
    first, newline, rest = text.partition("\n")
    mark, keyed, place = first.rstrip(), False, len(first) + 1
    if mark not in FRONT_MATTER_MARKS or not newline:
        return text
    for line in rest.split("\n", LONGEST_FRONT_MATTER)[:LONGEST_FRONT_MATTER]:
        if line.rstrip() == mark:
            return text[place + len(line) :].lstrip("\n") if keyed else text
        if not (KEYED.match(line) or line[:1] in ("", " ", "\t", "-", "#", "]", "}")):
            return text
        keyed |= bool(KEYED.match(line))
        place += len(line) + 1
    return text
