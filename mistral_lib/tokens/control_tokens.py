"""Control tokens such as [INST] or </s>, and the plain text between them.

Only the chat template writes control tokens. The same characters in a record are text: what is between two control tokens
is tokenized with control strings switched off, as mistral-common does it.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any


@dataclass(frozen=True, slots=True, eq=False)
class ControlTokens:
    ids: dict[str, int]
    pattern: re.Pattern[str]  # one group: the control token, with the blanks next to it that the tokenizer drops
    drops_blanks_after: frozenset[int]  # ids of control tokens that drop the blanks after them
    at_start: Any  # tokenizers.Tokenizer for the first text of a record
    after_control: Any  # the same for a text after a control token: no blank is inserted before its first word

    def cut(self, template_text: str) -> list[int | str]:
        """A template's text as control ids and the texts between them."""
        parts = self.pattern.split(template_text)
        return [self.ids[part.strip()] if place % 2 else part for place, part in enumerate(parts) if part]


def of(tokenizer: Any) -> ControlTokens:
    """The control tokens of a fast tokenizer, computed once: tokens that are added later are not seen. It is asked for each record, and
    `len(tokenizer)` counts a whole vocabulary."""
    return _of(tokenizer.backend_tokenizer)


@lru_cache(maxsize=8)
def _of(backend: Any) -> ControlTokens:
    special = {number: token for number, token in backend.get_added_tokens_decoder().items() if token.special}
    if not special:
        raise ValueError("this tokenizer has no control token, not even an end token; use an Instruct model's tokenizer")
    longest_first = sorted(special.values(), key=lambda token: -len(token.content))
    blanks = {False: "", True: r"\s*"}
    pattern = "|".join(blanks[token.lstrip] + re.escape(token.content) + blanks[token.rstrip] for token in longest_first)
    at_start, after_control = _plain(backend)
    return ControlTokens(
        ids={token.content.strip(): number for number, token in special.items()},
        pattern=re.compile(f"({pattern})"),
        drops_blanks_after=frozenset(number for number, token in special.items() if token.rstrip),
        at_start=at_start,
        after_control=after_control,
    )


def _plain(backend: Any) -> tuple[Any, Any]:
    """Two copies of the tokenizer for which a control string is text: for a first text, and for one after a control token."""
    from tokenizers import Tokenizer

    written = backend.to_str()
    at_start = _without_control(Tokenizer.from_str(written))
    setting = json.loads(written)
    changed = _without_prefix(setting)
    return at_start, at_start if changed == setting else _without_control(Tokenizer.from_str(json.dumps(changed)))


def _without_control(plain: Any) -> Any:
    plain.encode_special_tokens = True
    plain.no_padding()
    plain.no_truncation()
    return plain


def _without_prefix(setting: Any) -> Any:
    """The same tokenizer, but if it inserts a blank before a text's first word only, it inserts none."""
    if isinstance(setting, list):
        return [_without_prefix(part) for part in setting]
    if not isinstance(setting, dict):
        return setting
    if setting.get("type") == "Metaspace" and setting.get("prepend_scheme") == "first":
        return {**setting, "prepend_scheme": "never"}
    return {key: value if key in ("vocab", "merges", "added_tokens") else _without_prefix(value) for key, value in setting.items()}


def ids_of(plain: Any, texts: Sequence[str]) -> list[list[int]]:
    """Token ids of plain texts, on all cores; no offsets, which would take a third longer."""
    return [encoding.ids for encoding in plain.encode_batch_fast(list(texts), add_special_tokens=False)]


@lru_cache(maxsize=1024)
def header_ids(plain: Any, header: str) -> tuple[int, ...]:
    """Token ids of a text that precedes many answers."""
    return tuple(plain.encode(header, add_special_tokens=False).ids)


def first_token_from(plain: Any, text: str, place: int) -> int:
    """The index of the first token that extends beyond character `place`."""
    encoding = plain.encode(text, add_special_tokens=False)
    return next((number for number, (_, end) in enumerate(encoding.offsets) if end > place), len(encoding.ids))
