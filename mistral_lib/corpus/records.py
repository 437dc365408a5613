"""The record, to which every recognized row shape is mapped; other rows are rejected with a reason code."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from mistral_lib.corpus.document_keys import source_document
from mistral_lib.corpus.file_domains import file_domain
from mistral_lib.corpus.messages import Message, UnmappableError
from mistral_lib.corpus.row_shapes import shaped
from mistral_lib.curation.redaction import redact
from mistral_lib.formats.rows import Row


@dataclass(frozen=True, slots=True)
class Record:
    domain: str
    source: str  # file:line or archive!member#page
    source_group: str  # its source document, which must not straddle splits
    shape: str  # the name of its row shape
    messages: list[Message] | None = None  # a chat that ends with the assistant ...
    text: str | None = None  # ... or a plain document
    metadata: dict[str, Any] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()  # codes of the changes that were needed to map the row
    document_key: str = ""  # which key named the source document; "" for a row that names none and is a document of its own

    @property
    def canonical(self) -> str:
        """The text by which two records are equal, whatever their metadata."""
        if self.text is not None:
            return self.text
        return "\x1e".join(f"{m['role']}\x1f{m['content']}" for m in self.messages)

    @property
    def record_id(self) -> str:
        return text_id(self.canonical)

    @property
    def texts(self) -> list[str]:
        """Every text of the record: its messages in order, the answer last; or the document."""
        return [self.text] if self.text is not None else [message["content"] for message in self.messages]

    def with_texts(self, texts: list[str]) -> "Record":
        """The record with other texts, as many as `texts` has; itself if they are the same."""
        if texts == self.texts:
            return self
        if self.text is not None:
            return replace(self, text=texts[0])
        messages: list[Message] = [{**message, "content": text} for message, text in zip(self.messages, texts, strict=True)]
        return replace(self, messages=messages)

    @property
    def answer(self) -> str:
        """The text that the model learns to write: the last assistant message, or the complete document."""
        return self.text if self.text is not None else self.messages[-1]["content"]

    @property
    def prompt(self) -> list[Message]:
        """The messages before the answer; empty for a plain document."""
        return self.messages[:-1] if self.messages else []


def text_id(text: str) -> str:
    """16 hexadecimal digits of the SHA-256 of the text."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


def map_row(
    value: Any, source: str, domain_key: str = "domain", group_key: str = "", columns: Mapping[str, str] | None = None, note: str = ""
) -> Record:
    """The record in a row. Errors: UnmappableError with a reason code, without any content of the row.

    columns: which of the row's keys is the `prompt`, the `answer`, the `text`, … (see COLUMNS), for shapes that are not recognized.
    group_key: the key that names the source document; empty: one of the usual keys. note: the first of the record's repairs.
    """
    if not isinstance(value, dict):
        raise UnmappableError("not_an_object")
    shape, content, used = shaped(value, columns or {})
    repairs = (*([note] if note else []), *content.pop("repairs", ()))
    places = [value, *(inner for inner in (value.get("metadata"), value.get("meta")) if isinstance(inner, dict))]
    document_key, document = source_document(places, group_key)
    return Record(
        domain=_without_secrets(_domain(places, domain_key)) or file_domain(source),
        source=source,
        source_group=document or source,
        shape=shape,
        metadata={key: part for key, part in value.items() if key not in used and key not in (domain_key, group_key)},
        repairs=repairs,
        document_key=document_key,
        **content,
    )


def record_of(row: Row, settings: Any) -> Record:
    """The record in a row, by the parameters of a run. Errors: UnmappableError with the row's problem, or as map_row."""
    if row.problem:
        raise UnmappableError(row.problem)
    return map_row(row.value, row.source, settings.domain_key, settings.group_key, settings.columns, row.note)


def record_or_reason(row: Row, settings: Any) -> tuple[Record | None, str]:
    """The record in a row and "", or None and the reason code."""
    try:
        return record_of(row, settings), ""
    except UnmappableError as reason:
        return None, str(reason)


def _domain(places: list[dict[str, Any]], key: str) -> str:
    """The domain that a row or its metadata names; "" if neither does."""
    return next((place[key] for place in places if isinstance(place.get(key), str) and place[key]), "")


@lru_cache(maxsize=4096)
def _without_secrets(domain: str) -> str:
    """The domain, redacted: it is in every artifact and on every axis, where no secret may be."""
    return redact(domain)[0]
