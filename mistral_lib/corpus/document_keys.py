"""Which key of a row names its source document, all of whose records must be in one split: the parameter group_key, or a usual one."""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

PDF_KEY = "document"  # the key by which a page of a PDF names its file
# The usual ones, the first that a row has counts, however it is spelled: ticket_id, ticketId, "Ticket ID". Not among them are keys that often
# name a collection (source, category): a document of half the corpus cannot be divided into splits.
USUAL = (PDF_KEY, "document_id", "doc_id", "document_name", "source_document", "conversation_id", "thread_id", "ticket_id", "case_id",
         "session_id", "chat_id", "article_id", "source_file", "file_name", "file_path", "url")  # fmt: skip


def searched(group_key: str) -> tuple[str, ...]:
    """The keys that may name a source document, best first."""
    return (group_key, PDF_KEY) if group_key else USUAL


def source_document(places: Sequence[Mapping[str, Any]], group_key: str = "") -> tuple[str, str]:
    """(key as in `searched`, name) of a row's source document; two empty texts if no key names it. places: the row and its metadata."""
    for key in searched(group_key):
        for place in places:
            own = key if group_key else usual_keys(tuple(place)).get(key)
            found = None if own is None else place.get(own)
            if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
                return key, str(found)
    return "", ""


@lru_cache(maxsize=1024)
def usual_keys(keys: tuple[str, ...]) -> dict[str, str]:
    """`{usual key: the row's own spelling of it}` of a row's keys."""
    spelled = {_plain(str(key)): key for key in reversed(keys)}
    return {usual: spelled[_plain(usual)] for usual in USUAL if _plain(usual) in spelled}


def _plain(key: str) -> str:
    return "".join(filter(str.isalnum, key)).casefold()
