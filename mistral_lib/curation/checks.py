"""Named checks of a record, each flag, redact, reject or off by parameter: what is repaired, taken out, noted, refused.

`Checks` is built once and inspects the texts of one record at a time; it keeps no state and opens no file. What only a whole corpus
shows (one sentence with a thousand names) stands in `skeletons`.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from mistral_lib.curation import boilerplate, redaction, text_cleaning
from mistral_lib.run.settings import Settings

# What the chat templates of Mistral, Llama, ChatML, GPT, Gemma and Phi give a meaning. The tokenizer reads them as mere text here.
CONTROL_STRINGS = re.compile(
    r"<(?:/?s>|</?SYS>>|(?:bos|eos|pad|unk|(?:start|end)_of_turn)>"
    r"|\|(?:im_(?:start|end|sep)|endoftext|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id|user|assistant|system|end|pad)\|>)"
    r"|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT|PREFIX|SUFFIX|MIDDLE|IMG)\]"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    texts: list[str] | None  # cleaned and redacted; None where rejected
    reason: str = ""  # why it was rejected: the name of a check, empty_answer or empty_message
    redacted: dict[str, int] = field(default_factory=dict)  # kind: values taken out
    flags: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()


class Checks:
    """The checks of one run; the settings hold what each does, and the limits."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.actions = settings, settings.check_actions()
        self.redacting = tuple(group for group in redaction.GROUPS if self.actions[group] == "redact")
        self.looking = tuple(group for group in redaction.GROUPS if self.actions[group] in ("flag", "reject"))
        judges = self._judges()
        # Rejecting checks first: what is refused needs no flags.
        self.judges = [(name, judges[name]) for action in ("reject", "flag") for name in judges if self.actions[name] == action]

    def _judges(self) -> dict[str, Callable[[str], bool]]:
        """What each check asks of the answer."""
        limits = self.settings
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

    def inspect(self, texts: list[str]) -> Outcome:
        """What is left of a record's texts, and everything that was found in them. texts: every message, the answer last, or one document."""
        texts, repairs = self._cleaned(texts)
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
        return Outcome(texts, "", redacted, flags, repairs)

    def _cleaned(self, texts: list[str]) -> tuple[list[str], tuple[str, ...]]:
        unescape = self.actions["unescaped_newlines"] == "redact"
        if self.actions["normalized"] == "off":
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
