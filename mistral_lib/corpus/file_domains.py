"""The domain of a row that names none: its file, without endings and numbers of parts, or the folder of a file that is one record.

A file name that is personal, such as an e-mail address, does not become a domain: it would stand in every report and on every axis.
"""

import re
from functools import lru_cache
from pathlib import PurePosixPath

from mistral_lib.curation.redaction import redact
from mistral_lib.formats import kinds

PLACE = re.compile(r"(?:#\d+(?:[-.]\d+)?|(?:[.:]\d+)+)\Z")  # of a row in its file, after the name: line, page or pages, part of it
LOOSE_TEXTS = "texts"  # domain of texts that are in no folder of the source
SHARD = re.compile(
    r"(?:[-_.](?:\d{3,6}[-_]of[-_]\d{3,6})|(?<=part)[-_]\d{3,6}(?:-[0-9a-f-]{2,}[-\w]*)?(?:\.c\d{3})?|[-_.]0\d{3,5})(?:\.snappy)?\Z"
)
# names of splits and parts, which say nothing of what is in them
GENERIC = re.compile(r"(?i)(?:train(?:ing)?|test|valid(?:ation)?|val|dev|eval|data|default|part|shard|corpus|main|[\w ]+=[^/]*)\Z")
PERSONAL = "private"  # domain of files with personal names that are in no folder


def file_domain(source: str) -> str:
    """The name of the archive or file without its endings; shards of one table are one domain. For a file that is a single record, it is
    the folder's name, so that a folder of five hundred notes is one domain."""
    name, colon, line = source.rpartition(":")
    return _first_name(name if colon and line.isdecimal() else source)


@lru_cache(maxsize=1024)
def _first_name(source: str) -> str:
    place = PurePosixPath(PLACE.sub("", source.split("!")[0]))
    if kinds.kind_of(place.name)[0] in kinds.ONE_RECORD:
        return _public(place.parent.name) or LOOSE_TEXTS
    own = kinds.without_endings(place.name)
    whole = SHARD.sub("", own)
    if whole != own and GENERIC.match(whole):
        folders = [part for part in place.parent.parts if not GENERIC.match(part)]
        whole = folders[-1] if folders else whole
    return _public(whole) or next((name for part in reversed(place.parent.parts) if (name := _public(part))), "") or PERSONAL


def _public(name: str) -> str:
    """The name; "" for one that contains personal data or a secret."""
    return name if redact(name)[0] == name else ""
