"""A row of the corpus as JSON, as a record and as graded tokens; and the reasons for dropped rows.

Secrets and personal data are replaced by placeholders before anything is shown, since a notebook is saved with its outputs.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, UnmappableError, record_of
from mistral_lib.curation import checks, rejections
from mistral_lib.curation.redaction import USUAL, redact, redact_all
from mistral_lib.curation.splits import SPLITS
from mistral_lib.display.tables import Html
from mistral_lib.formats.rows import Row
from mistral_lib.run.settings import Settings
from mistral_lib.shapes.cells import as_json
from mistral_lib.shapes.conversation import words_of
from mistral_lib.tokens import chat_format

LONGEST = 6000  # characters of a row, or of a message, that are shown
LONGEST_EXAMPLE = 160  # characters of an example in the table of reasons
MOST_TOKENS = 400  # tokens that are shown
NOTHING = "(nothing of it could be read)"
DEEPEST = 100  # levels of nesting that are shown; a row may have a thousand, too many for Python's recursion and JSON's writer
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


def searched(settings: Settings) -> tuple[str, ...]:
    """The groups of rules that are replaced in what is shown: the usual ones, whatever becomes of them in the data, and those switched on."""
    return (*USUAL, *settings.more_personal_data)


def raw_row(row: Row, groups: tuple[str, ...] = USUAL, longest: int = LONGEST) -> str:
    """The row as indented JSON; if it could not be parsed, the text of its source file. Redacted."""
    if row.problem is None:
        style = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
        text = orjson.dumps(_redacted_value(row.value, groups), option=style, default=str).decode()  # tables hold dates and decimals
    else:
        text = ESCAPE.sub(_unescape, row.text) or NOTHING
    return cut(redact(text, groups)[0], longest)


def _unescape(escape: re.Match[str]) -> str:
    """The character of a JSON escape: the `n` of an escaped line end would hide the token after it from the patterns."""
    return chr(int(escape[1], 16)) if escape[1] else {"n": "\n", "r": "\n", "t": "\t"}.get(escape[2], escape[2])


def _redacted_value(value: Any, groups: tuple[str, ...], levels: int = DEEPEST) -> Any:
    """Each text redacted before it becomes JSON: an escaped line end or quotation mark could hide a value from the patterns."""
    if isinstance(value, str):
        return redact(value, groups)[0]
    if not isinstance(value, Mapping | list | tuple):
        return value
    if not levels:
        return "…"
    if isinstance(value, Mapping):
        return {key: _redacted_value(part, groups, levels - 1) for key, part in value.items()}
    return [_redacted_value(part, groups, levels - 1) for part in value]


def redacted(found: Record, groups: tuple[str, ...] = USUAL) -> Record:
    """The record as it may be shown: also what the parameters keep of secrets and personal data is replaced by placeholders."""
    return found.with_texts(redact_all(found.texts, groups)[0])


def record(found: Record, longest: int = LONGEST) -> str:
    """The record as text: its messages, or its document."""
    tools = [f"[tools] {as_json(tool['function'])}" for tool in found.tools or []]
    parts = [*tools, *map(_turn, found.messages)] if found.messages else [found.text]
    return "\n".join(cut(part, longest) for part in parts)


def _turn(message: Mapping[str, Any]) -> str:
    return f"[{message['role']}{'' if message.get('graded', True) else ', not graded'}] {words_of(message)}"


def remarks(outcome: checks.Outcome) -> str:
    """What the checks of the data stage would do to the record, in one line."""
    parts = [f"rejected as {outcome.reason}"] if outcome.reason else []
    parts += [f"redacted: {kind} × {count}" for kind, count in outcome.redacted.items()]
    parts += [f"repaired: {repair}" for repair in outcome.repairs] + [f"flagged: {flag}" for flag in outcome.flags]
    return "; ".join(parts) or "the checks change nothing"


def tokens(tokenizer: Any, found: Record) -> tuple[str, str]:
    """(how many tokens are graded, the tokens as HTML with the graded ones colored)."""
    encoded = chat_format.encode(tokenizer, [found])[0]
    if encoded.problem:
        return f"cannot be written in the model's chat format: {encoded.problem}", ""
    return (
        f"{encoded.supervised:,} of {len(encoded.input_ids):,} tokens graded",
        f'<div style="overflow-wrap:anywhere">{chat_format.show_mask(tokenizer, encoded, MOST_TOKENS)}</div>',
    )


def graded(tokenizer: Any, rows: Sequence[Mapping[str, Any]]) -> Html:
    """Kept chats as tokens, the graded ones colored. rows: of data/records.parquet, with their messages parsed."""
    given = [Record("", row["source"], "", "messages", messages=row["messages"], tools=row.get("tools")) for row in rows]
    found = list(map(redacted, given))
    heads, colored = zip(*(tokens(tokenizer, one) for one in found), strict=True) if found else ((), ())
    lines = [f"{one.source}: {head}" for one, head in zip(found, heads, strict=True)]
    parts = [f"<p>{html.escape(line)}</p>{tokens}" for line, tokens in zip(lines, colored, strict=True)]
    return Html("".join(parts) or "no chat", "\n".join(lines) or "no chat")


def contains(words: str) -> Callable[[Row], bool]:
    """A test for rows that contain these words in any text, in upper or lower case."""
    wanted = words.casefold()
    return lambda row: any(wanted in text.casefold() for text in _texts(row.value))


def _texts(value: Any) -> Iterator[str]:
    waiting = [value]
    while waiting:
        one = waiting.pop()
        if isinstance(one, str):
            yield one
        elif isinstance(one, Mapping | list | tuple):
            waiting += one.values() if isinstance(one, Mapping) else one


def reasons_table(ledger: Any, found: Sequence[sources.SourceFile], settings: Settings) -> list[dict[str, Any]]:
    """A line per reason why rows of data/ledger.parquet were dropped, the most frequent first: its count, and its first row as an example."""
    dropped = ledger[~ledger["fate"].isin(SPLITS)]
    why = dropped["reason"].where(dropped["fate"] == "rejected", dropped["fate"])
    counts = why.value_counts()
    first = {reason: dropped[why == reason].iloc[0] for reason in sorted(counts.index, key=lambda reason: (-counts[reason], reason))}
    texts = dict(_example_texts({row["source"]: row["origin"] for row in first.values()}, found, settings))
    return [
        {
            "reason": reason,
            "rows": int(counts[reason]),
            "decided by": ", ".join(rejections.parameters_of(reason)),
            "for example": row["source"],
            "which repeats": row["reason"] if row["fate"] != "rejected" else "",
            "its answer": texts.get(row["source"], ""),
        }
        for reason, row in first.items()
    ]


def _example_texts(wanted: Mapping[str, str], found: Sequence[sources.SourceFile], settings: Settings) -> Iterator[tuple[str, str]]:
    """(source, text) of each wanted row that can be read. wanted: source → origin."""
    for file in found:
        mine = {source for source, origin in wanted.items() if origin == file.origin and source.startswith(file.name)}
        for row in sources.rows_of(file, settings) if mine else ():
            if row.source in mine:
                mine.remove(row.source)
                yield row.source, _example_text(row, settings)
            if not mine:
                break


def _example_text(row: Row, settings: Settings) -> str:
    """The answer of a record, or the content of a row that is no record; "" if it is not text. Redacted, in one line."""
    groups = searched(settings)
    try:
        return cut(" ".join(redact(record_of(row, settings).answer, groups)[0].split()), LONGEST_EXAMPLE)
    except UnmappableError:
        return " ".join(raw_row(row, groups, LONGEST_EXAMPLE).split())


def preformatted(text: str) -> str:
    return f'<pre style="white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;line-height:1.4;margin:0">{html.escape(text)}</pre>'


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} … and {len(text) - longest:,} more characters"
