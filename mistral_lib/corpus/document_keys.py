"""Which key of a row names its source document, all of whose records must be in one split: the parameter group_key, or a usual one.

In a row that names none, a long text of the prompt is the document: several questions about one passage belong together.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

from mistral_lib.curation.similarity import folded_words

LONG_TEXT = "a long text in the prompt"  # in place of a key
LONG_TEXT_WORDS = 40
PDF_KEY = "document"  # the key by which a page of a PDF names its file
# The usual ones, the first that a row has counts, however it is spelled: ticket_id, ticketId, "Ticket ID". Not among them are keys that often
# name a collection (source, category): a document of half the corpus cannot be divided into splits.
USUAL = (PDF_KEY, "document_id", "doc_id", "document_name", "source_document", "conversation_id", "thread_id", "ticket_id", "case_id",
         "session_id", "chat_id", "article_id", "source_file", "file_name", "file_path", "url")  # fmt: skip


def searched(group_key: str) -> tuple[str, ...]:
    """The keys that may name a source document, best first; last LONG_TEXT, which stands for none of them, unless `group_key` is given."""
    return (group_key, PDF_KEY) if group_key else (*USUAL, LONG_TEXT)


def source_document(places: Sequence[Mapping[str, Any]], group_key: str = "") -> tuple[str, str]:
    """(key as in `searched`, name) of a row's source document; two empty texts if no key names it. places: the row and its metadata."""
    for key in searched(group_key):
        for place in places:
            own = key if group_key else usual_keys(tuple(place)).get(key)
            found = None if own is None else place.get(own)
            if isinstance(found, str | int) and not isinstance(found, bool) and found != "":
                return key, str(found)
    return "", ""


def long_text(prompt: str) -> str:
    """The longest line of a prompt of several lines if it has LONG_TEXT_WORDS words, else ""."""
    lines = [line for line in prompt.split("\n") if line.strip()]
    longest = max(lines, key=len, default="").strip()
    return longest if len(lines) > 1 and len(folded_words(longest)) >= LONG_TEXT_WORDS else ""


@lru_cache(maxsize=1024)
def usual_keys(keys: tuple[str, ...]) -> dict[str, str]:
    """`{usual key: the row's own spelling of it}` of a row's keys."""
    spelled = {_plain(str(key)): key for key in reversed(keys)}
    return {usual: spelled[_plain(usual)] for usual in USUAL if _plain(usual) in spelled}


def _plain(key: str) -> str:
    return "".join(filter(str.isalnum, key)).casefold()
