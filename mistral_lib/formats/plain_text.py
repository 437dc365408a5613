"""Text and Markdown files: one document each, without the front matter of a site generator."""

import re
from collections.abc import Iterator
from typing import BinaryIO

from mistral_lib.formats.rows import Reading, Row
from mistral_lib.formats.streams import read_all

# a block of `key: value` lines between two lines of dashes (YAML) or pluses (TOML), at the very beginning
FRONT_MATTER = re.compile(r"(---|\+\+\+)[ \t]*\n((?:[ \t]*(?:[\w.-]+[ \t]*[:=].*|#.*|-[ \t].*|[ \t]+\S.*)?\n)+?)\1[ \t]*(?:\n|\Z)")
KEYED = re.compile(r"(?m)^[\w.-]+[ \t]*[:=]")


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
    found = FRONT_MATTER.match(text)
    return text[found.end() :].lstrip("\n") if found and KEYED.search(found[2]) else text
