"""Named checks of a record, each flag, redact, reject or off by parameter: what is repaired, taken out, noted, refused.

`Checks` is built once and inspects one record at a time; it keeps no state and opens no file. What only a whole corpus
shows (one sentence with a thousand names) stands in `skeletons`.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

from mistral_lib import boilerplate, redaction, text_cleaning
from mistral_lib.records import Message, Record

ACTIONS = ("flag", "redact", "reject", "off")
JUDGED = ("flag", "reject", "off")
# name of the check (also its code), default, what may be chosen, meaning
CHECKS: dict[str, tuple[str, tuple[str, ...], str]] = {
    "normalised": ("redact", ("redact", "off"), "one Unicode form, one line end, nothing invisible; redact = repair"),
    "unescaped_newlines": ("redact", ("redact", "off"), "literal backslash-n in a text without newlines become newlines; redact = repair"),
    "secrets": ("redact", ACTIONS, "private keys, provider tokens, URL credentials, secret-like assignments"),
    "personal_data": ("redact", ACTIONS, "e-mail, telephone, IBAN and card numbers, user names in home paths"),
    "answer_too_short": ("reject", JUDGED, "the answer has fewer characters than shortest_answer"),
    "boilerplate": ("reject", JUDGED, "cookie banner, licence header, error page or menu instead of an answer"),
    "placeholder_answer": ("reject", JUDGED, "TODO, lorem ipsum, 'Processed content from <file>'"),
    "refusal": ("flag", JUDGED, "the answer is an assistant's refusal"),
    "mostly_html": ("reject", JUDGED, "more than html_share of the answer's characters stand in tags"),
    "low_letter_share": ("flag", JUDGED, "fewer than letter_share of the answer's characters are letters"),
    "low_script_share": ("off", JUDGED, "fewer than script_share of the answer's letters belong to `script`"),
    "odd_code_fences": ("flag", JUDGED, "a code block of the answer is opened and never closed"),
    "control_strings": ("flag", JUDGED, "a chat template's control string such as </s> stands in the text"),
}
# What the chat templates of Mistral, Llama, ChatML, GPT, Gemma and Phi give a meaning. The tokenizer reads them as mere text here.
CONTROL_STRINGS = re.compile(
    r"<(?:/?s>|</?SYS>>|(?:bos|eos|pad|unk|(?:start|end)_of_turn)>"
    r"|\|(?:im_(?:start|end|sep)|endoftext|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id|user|assistant|system|end|pad)\|>)"
    r"|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT|PREFIX|SUFFIX|MIDDLE|IMG)\]"
)


class CheckError(ValueError):
    """Checks that cannot be built; the message names every fault."""


@dataclass(frozen=True, slots=True)
class Limits:
    shortest_answer: int = 20  # characters
    html_share: float = 0.5  # of the answer's characters
    letter_share: float = 0.25  # of the answer's characters that are not blank
    script: str = "latin"
    script_share: float = 0.5  # of the answer's letters


@dataclass(frozen=True, slots=True)
class Outcome:
    record: Record | None  # cleaned and redacted; None where rejected
    reason: str = ""  # why it was rejected: the name of a check, empty_answer or empty_message
    redacted: dict[str, int] = field(default_factory=dict)  # kind: values taken out
    flags: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()


class Checks:
    def __init__(self, actions: Mapping[str, str] | None = None, limits: Limits | None = None) -> None:
        """actions: check → flag, redact, reject or off; CHECKS says what is the default. Errors: CheckError."""
        self.limits = limits or Limits()
        self.actions = {**{name: default for name, (default, _, _) in CHECKS.items()}, **(actions or {})}
        _refuse_faults(self.actions, self.limits)
        self.redacting = tuple(group for group in redaction.GROUPS if self.actions[group] == "redact")
        self.looking = tuple(group for group in redaction.GROUPS if self.actions[group] in ("flag", "reject"))
        judges = self._judges()
        # Rejecting checks first: what is refused needs no flags.
        self.judges = [(name, judges[name]) for action in ("reject", "flag") for name in judges if self.actions[name] == action]

    def _judges(self) -> dict[str, Callable[[str], bool]]:
        """What each check asks of the answer."""
        limits = self.limits
        return {
            "answer_too_short": lambda answer: len(answer) < limits.shortest_answer,
            "placeholder_answer": boilerplate.is_stand_in,
            "refusal": boilerplate.is_refusal,
            "boilerplate": boilerplate.is_boilerplate,
            "mostly_html": lambda answer: boilerplate.tag_share(answer) > limits.html_share,
            "low_letter_share": lambda answer: not boilerplate.enough_letters(answer, limits.letter_share),
            "low_script_share": lambda answer: boilerplate.script_share(answer, limits.script) < limits.script_share,
            "odd_code_fences": boilerplate.odd_code_fences,
        }

    def inspect(self, record: Record) -> Outcome:
        """What is left of the record, and everything that was found in it."""
        texts, repairs = self._cleaned(_texts(record))
        if not texts[-1].strip():
            return Outcome(None, "empty_answer", repairs=repairs)
        if not all(text.strip() for text in texts):
            return Outcome(None, "empty_message", repairs=repairs)
        reason, flags = self._judged(texts)
        if reason:
            return Outcome(None, reason, flags=flags, repairs=repairs)
        texts, redacted = redaction.redact_all(texts, self.redacting)
        if redacted and not redaction.PLACEHOLDER.sub("", texts[-1]).strip():
            return Outcome(None, "empty_answer", redacted, flags, repairs)  # it was nothing but what had to go
        return Outcome(_with_texts(record, texts), "", redacted, flags, repairs)

    def _cleaned(self, texts: list[str]) -> tuple[list[str], tuple[str, ...]]:
        unescape = self.actions["unescaped_newlines"] == "redact"
        if self.actions["normalised"] == "off":
            lines = [text_cleaning.unescape_newlines(text) for text in texts] if unescape else texts
            return lines, (text_cleaning.UNESCAPED,) if lines != texts else ()
        cleaned = [text_cleaning.clean(text, unescape) for text in texts]
        return [text for text, _ in cleaned], tuple(dict.fromkeys(code for _, codes in cleaned for code in codes))

    def _judged(self, texts: list[str]) -> tuple[str, tuple[str, ...]]:
        """The reason to reject ("" for none) and the flags."""
        answer, flags = texts[-1], []
        for name, judge in self.judges:
            if judge(answer):
                if self.actions[name] == "reject":
                    return name, ()
                flags.append(name)
        for name in self._found(texts):
            if self.actions[name] == "reject":
                return name, tuple(flags)
            flags.append(name)
        return "", tuple(flags)

    def _found(self, texts: list[str]) -> list[str]:
        """The checks that look at every message, not only at the answer, and found something."""
        found = [group for group in self.looking if any(redaction.find(text, (group,)) for text in texts)]
        if self.actions["control_strings"] != "off" and any(("<" in t or "[" in t) and CONTROL_STRINGS.search(t) for t in texts):
            found.append("control_strings")
        return found


def _refuse_faults(actions: Mapping[str, str], limits: Limits) -> None:
    faults = [f"unknown check {name!r}; known are {', '.join(CHECKS)}" for name in actions if name not in CHECKS]
    for name in CHECKS:
        _, allowed, meaning = CHECKS[name]
        if actions[name] not in allowed:
            faults.append(f"{name} = {actions[name]!r}: expected {', '.join(allowed)} — {name} is: {meaning}")
    if limits.script not in boilerplate.SCRIPTS:
        faults.append(f"script = {limits.script!r}: expected {', '.join(boilerplate.SCRIPTS)}")
    for name in ("html_share", "letter_share", "script_share"):
        if not 0 <= getattr(limits, name) <= 1:
            faults.append(f"{name} = {getattr(limits, name)!r}: expected a share from 0 to 1")
    if faults:
        raise CheckError("\n".join(faults))


def _texts(record: Record) -> list[str]:
    return [record.text] if record.text is not None else [message["content"] for message in record.messages]


def _with_texts(record: Record, texts: list[str]) -> Record:
    if texts == _texts(record):
        return record
    if record.text is not None:
        return replace(record, text=texts[0])
    messages: list[Message] = [{**message, "content": text} for message, text in zip(record.messages, texts, strict=True)]
    return replace(record, messages=messages)
