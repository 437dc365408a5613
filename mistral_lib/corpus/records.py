"""The record, to which every recognized row shape is mapped; other rows are rejected with a reason code."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any

from mistral_lib.corpus.document_keys import LONG_TEXT, long_text, source_document
from mistral_lib.corpus.file_domains import file_domain
from mistral_lib.corpus.unmapped_rows import key_name
from mistral_lib.curation.redaction import redact
from mistral_lib.formats.rows import Row
from mistral_lib.shapes import tool_texts
from mistral_lib.shapes.cells import UnmappableError, as_json, plain
from mistral_lib.shapes.conversation import Message, words_of
from mistral_lib.shapes.row_shapes import shaped
from mistral_lib.shapes.tools import Tool
from mistral_lib.shapes.turns import is_turn_list


@dataclass(frozen=True, slots=True)
class Record:
    domain: str
    source: str  # file:line or archive!member#page
    source_group: str  # its source document, which must not straddle splits
    shape: str  # the name of its row shape
    messages: list[Message] | None = None  # a chat that ends with the assistant ...
    text: str | None = None  # ... or a plain document
    tools: list[Tool] | None = None  # that the chat may call
    metadata: dict[str, Any] = field(default_factory=dict)
    repairs: tuple[str, ...] = ()  # codes of the changes that were needed to map the row
    unused: tuple[str, ...] = ()  # names of the keys that were not used: of the row, and as `messages.name` of its turns
    document_key: str = ""  # which key named the source document; "" for a row that names none and is a document of its own

    @property
    def canonical(self) -> str:
        """The text by which two records are equal, whatever their metadata."""
        if self.text is not None:
            return self.text
        chat = "\x1e".join(f"{m['role']}\x1f{words_of(m)}" for m in self.messages)
        return chat if not self.tools else f"tools\x1f{as_json(self.tools)}\x1e{chat}"

    @property
    def record_id(self) -> str:
        return text_id(self.canonical)

    @property
    def texts(self) -> list[str]:
        """Every text of the record: its tools, then its messages and tool calls in order, the answer last; or the document."""
        if self.text is not None:
            return [self.text]
        if not tool_texts.has_tools(self.messages, self.tools):
            return [message["content"] for message in self.messages]
        return tool_texts.texts(self.messages, self.tools)

    def with_texts(self, texts: list[str]) -> "Record":
        """The record with other texts, as many as `texts` has; itself if they are the same."""
        if texts == self.texts:
            return self
        if self.text is not None:
            return replace(self, text=texts[0])
        if not tool_texts.has_tools(self.messages, self.tools):
            messages: list[Message] = [{**message, "content": text} for message, text in zip(self.messages, texts, strict=True)]
            return replace(self, messages=messages)
        messages, tools = tool_texts.with_texts(self.messages, self.tools, texts)
        return replace(self, messages=messages, tools=tools)

    @property
    def answer(self) -> str:
        """The text that the model learns to write: the last assistant message with its tool calls, or the complete document."""
        return self.text if self.text is not None else words_of(self.messages[-1])

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
    if is_turn_list(value):  # a conversation without an object around it
        value = {"messages": value}
    if not isinstance(value, dict):
        raise UnmappableError("not_an_object")
    shape, content, unused, left_in_turns = shaped(value, columns or {})
    repairs = (*([note] if note else []), *content.pop("repairs", ()))
    places = [value, *(inner for inner in (value.get("metadata"), value.get("meta")) if isinstance(inner, dict))]
    document_key, document = source_document(places, group_key)
    if not document_key and not group_key and (found := _long_text(content)):
        document_key, document = LONG_TEXT, f"text {text_id(found)}"
    return Record(
        domain=_without_secrets(_domain(places, domain_key)) or file_domain(source),
        source=source,
        source_group=document or source,
        shape=shape,
        metadata={key: value[key] for key in unused if key not in (domain_key, group_key)},
        repairs=repairs,
        unused=(*_names(unused, domain_key, document_key), *map(key_name, sorted(left_in_turns))),
        document_key=document_key,
        **content,
    )


def _long_text(content: Mapping[str, Any]) -> str:
    """The long text that a chat's first question is about, "" without one."""
    return long_text(next((message["content"] for message in content.get("messages") or () if message["role"] == "user"), ""))


def _names(keys: Iterable[Any], domain_key: str, document_key: str) -> Iterator[str]:
    """The names by which unused keys are counted. The keys of domain and source document are used."""
    return (key_name(key) for key in keys if key != domain_key and (not document_key or not _same_key(key, document_key)))


@lru_cache(maxsize=4096)
def _same_key(one: Any, other: str) -> bool:
    return plain(str(one)) == plain(other)


def tool_use(record: Record) -> list[str]:
    """Which parts of tool use a record has: tools, tool_calls, tool_results; and ungraded_answers."""
    if record.messages is None:
        return []
    found = {"tools": bool(record.tools), "tool_calls": False, "tool_results": False, "ungraded_answers": False}
    for message in record.messages:
        if len(message) > 2:  # more than a role and a content
            found["tool_calls"] |= "tool_calls" in message
            found["tool_results"] |= message["role"] == "tool"
            found["ungraded_answers"] |= not message.get("graded", True)
    return [name for name, has in found.items() if has]


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
