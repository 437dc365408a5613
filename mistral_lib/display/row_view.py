"""One row of the corpus for human eyes: as it stands in its file, as the record it becomes, and as graded tokens.

What the patterns find of secrets and personal data is replaced by placeholders before anything is shown, since what a
notebook shows is saved with it.
"""

import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import orjson

from mistral_lib.corpus import sources
from mistral_lib.corpus.records import Record, Unmappable, record_of
from mistral_lib.corpus.rows import Row
from mistral_lib.curation import checks, redaction
from mistral_lib.curation.redaction import redact
from mistral_lib.curation.splits import SPLITS
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import chat_format

LONGEST = 6000  # characters of a row, or of a message, that are shown
TOKENS = 400
DEEPEST = 100  # levels of a row that are shown; it may have a thousand, and neither Python nor JSON's writer goes down so far
ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)


def raw_row(row: Row, longest: int = LONGEST) -> str:
    """The row as it stands in its file; of one that could not be understood its text, if it has one."""
    if row.problem is None:
        return raw(row.value, longest)
    return cut(redaction.redact(ESCAPE.sub(_unescaped, row.text))[0], longest)


def _unescaped(escape: re.Match[str]) -> str:
    """An escape of JSON's writing as what it stands for: the `n` of a line end would hide the token behind it from the patterns."""
    return chr(int(escape[1], 16)) if escape[1] else {"n": "\n", "r": "\n", "t": "\t"}.get(escape[2], escape[2])


def raw(value: Any, longest: int = LONGEST) -> str:
    """The row as indented JSON, secrets and personal data taken out."""
    style = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    text = orjson.dumps(_redacted(value), option=style, default=str).decode()  # tables hold dates and decimals
    return cut(redaction.redact(text)[0], longest)


def _redacted(value: Any, levels: int = DEEPEST) -> Any:
    """Each text by itself: in JSON's writing, a line end or a quotation mark could hide a value from the patterns."""
    if isinstance(value, str):
        return redaction.redact(value)[0]
    if not isinstance(value, Mapping | list | tuple):
        return value
    if not levels:
        return "…"
    if isinstance(value, Mapping):
        return {key: _redacted(part, levels - 1) for key, part in value.items()}
    return [_redacted(part, levels - 1) for part in value]


def record(found: Record, longest: int = LONGEST) -> str:
    """The record as text: its messages, or its document."""
    parts = [f"[{m['role']}] {m['content']}" for m in found.messages] if found.messages else [found.text]
    return "\n".join(cut(redaction.redact(part)[0], longest) for part in parts)


def remarks(outcome: checks.Outcome) -> str:
    """What the checks of the data stage would do to the record, in one line."""
    parts = [f"rejected as {outcome.reason}"] if outcome.reason else []
    parts += [f"redacted: {kind} × {count}" for kind, count in outcome.redacted.items()]
    parts += [f"repaired: {repair}" for repair in outcome.repairs] + [f"flagged: {flag}" for flag in outcome.flags]
    return "; ".join(parts) or "nothing to remark"


def tokens(tokenizer: Any, found: Record) -> tuple[str, str]:
    """(how many tokens are graded, the tokens as HTML with the graded ones coloured)."""
    encoded = chat_format.encode(tokenizer, [found])[0]
    if encoded.problem:
        return f"cannot be written in the model's chat format: {encoded.problem}", ""
    return (
        f"{encoded.supervised:,} of {len(encoded.input_ids):,} tokens graded",
        f'<div style="overflow-wrap:anywhere">{chat_format.show_mask(tokenizer, encoded, TOKENS)}</div>',
    )


def finder(words: str) -> Callable[[Row], bool]:
    """Whether a row holds these words anywhere, whatever their case."""
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


def preformatted(text: str) -> str:
    return f'<pre style="white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere;line-height:1.4;margin:0">{html.escape(text)}</pre>'


def cut(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[:longest]} … and {len(text) - longest:,} more characters"


# -- why rows were not kept: a line per reason, with how many and one example, its words without secrets and personal data -----

LONGEST_EXAMPLE = 160  # characters of an example


def table(ledger: Any, found: Sequence[sources.SourceFile], settings: Settings) -> list[dict[str, Any]]:
    """ledger: data/ledger.parquet as a DataFrame. The most frequent reason first; the example is the first row with it."""
    dropped = ledger[~ledger["fate"].isin(SPLITS)]
    why = dropped["reason"].where(dropped["fate"] == "rejected", dropped["fate"])
    counts = why.value_counts()
    first = {reason: dropped[why == reason].iloc[0] for reason in sorted(counts.index, key=lambda reason: (-counts[reason], reason))}
    texts = dict(_example_texts({row["source"]: row["origin"] for row in first.values()}, found, settings))
    return [
        {
            "reason": reason,
            "rows": int(counts[reason]),
            "for example": row["source"],
            "which repeats": row["reason"] if row["fate"] != "rejected" else "",
            "its answer": texts.get(row["source"], ""),
        }
        for reason, row in first.items()
    ]


def _example_texts(wanted: Mapping[str, str], found: Sequence[sources.SourceFile], settings: Settings) -> Iterator[tuple[str, str]]:
    """(source, its words redacted and cut) of each wanted source → origin, wherever it could be read at all."""
    for file in found:
        mine = {source for source, origin in wanted.items() if origin == file.origin and source.startswith(file.name)}
        for row in sources.rows_of(file, settings) if mine else ():
            if row.source in mine:
                mine.remove(row.source)
                yield row.source, _words(row, settings)
            if not mine:
                break


def _words(row: sources.Row, settings: Settings) -> str:
    """The answer, or all that stands in a row that is no record; "" for one that is not even text."""
    try:
        answer = record_of(row, settings).answer
        return cut(" ".join(redact(answer)[0].split()), LONGEST_EXAMPLE)
    except Unmappable:
        return " ".join(raw_row(row, LONGEST_EXAMPLE).split())
