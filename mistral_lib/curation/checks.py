"""The checks of a record. A parameter of the same name sets what each does: off, flag, redact or reject.

`Checks` is built once from the settings and inspects the texts of one record at a time; it keeps no state and opens no file.
Patterns that show only in the complete corpus (one sentence with a thousand names) are found by `repeated_patterns`.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from mistral_lib.curation import boilerplate, code_requests, redaction, text_cleaning
from mistral_lib.run.settings import Settings

# Control strings in the chat templates of Mistral, Llama, ChatML, GPT, Gemma and Phi. The tokenizer reads them as plain text here.
CONTROL_STRINGS = re.compile(
    r"<(?:/?s>|</?SYS>>|(?:bos|eos|pad|unk|(?:start|end)_of_turn)>"
    r"|\|(?:im_(?:start|end|sep)|endoftext|begin_of_text|end_of_text|eot_id|start_header_id|end_header_id|user|assistant|system|end|pad)\|>)"
    r"|\[/?(?:INST|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS|SYSTEM_PROMPT|PREFIX|SUFFIX|MIDDLE|IMG)\]"
)


@dataclass(frozen=True, slots=True)
class Outcome:
    texts: list[str] | None  # cleaned and redacted; None if rejected
    reason: str = ""  # of the rejection: the name of a check, empty_answer, empty_message or redacted_answer
    redacted: dict[str, int] = field(default_factory=dict)  # kind → number of values replaced
    flags: tuple[str, ...] = ()
    repairs: tuple[str, ...] = ()


class Checks:
    """The checks of one run. The settings name the action of each check (off, flag, redact, reject) and the limits."""

    def __init__(self, settings: Settings) -> None:
        self.settings, self.actions = settings, settings.check_actions()
        searched = {"secrets": ("secrets",), "personal_data": ("personal_data", *settings.more_personal_data)}
        self.redacting = tuple(group for name, groups in searched.items() if self.actions[name] == "redact" for group in groups)
        self.looking = {name: groups for name, groups in searched.items() if self.actions[name] in ("flag", "reject")}
        judges = self._judges()
        # Rejecting checks first: a rejected record needs no flags.
        self.judges = [(name, judges[name]) for action in ("reject", "flag") for name in judges if self.actions[name] == action]

    def _judges(self) -> dict[str, Callable[[str, str], bool]]:
        """For each check of the answer, whether an answer fails it, given its prompt ("" for a document)."""
        limits = self.settings
        return {
            "answer_too_short": lambda answer, prompt: len(answer) < limits.shortest_answer,
            "placeholder_answer": boilerplate.is_placeholder_answer,
            "refusal": lambda answer, prompt: boilerplate.is_refusal(answer),
            "boilerplate": boilerplate.is_boilerplate,
            "mostly_html": lambda answer, prompt: (
                boilerplate.tag_share(answer) > limits.html_share and not code_requests.asks(prompt, answer)
            ),
            "low_letter_share": lambda answer, prompt: not boilerplate.enough_letters(answer, limits.letter_share),
            "low_script_share": lambda answer, prompt: boilerplate.script_share(answer, limits.script) < limits.script_share,
            "odd_code_fences": lambda answer, prompt: boilerplate.odd_code_fences(answer),
        }

    def inspect(self, texts: list[str]) -> Outcome:
        """The cleaned and redacted texts of a record, and what was found in them. texts: every message, the answer last, or one document."""
        texts, repairs = self._cleaned(texts)
        if not all(text.strip() for text in texts):
            return Outcome(None, "empty_message" if texts[-1].strip() else "empty_answer", repairs=repairs)
        reason, flags = self._judged(texts)
        if reason:
            return Outcome(None, reason, flags=flags, repairs=repairs)
        texts, redacted = redaction.redact_all(texts, self.redacting)
        if redacted and not redaction.PLACEHOLDER.sub("", texts[-1]).strip() and not _copied(texts):
            return Outcome(None, "redacted_answer", redacted, flags, repairs)
        return Outcome(texts, "", redacted, flags, repairs)

    def _cleaned(self, texts: list[str]) -> tuple[list[str], tuple[str, ...]]:
        unescape = self.actions["unescaped_newlines"] == "redact"
        if self.actions["normalized"] == "off":
            lines = [text_cleaning.unescape_newlines(text) for text in texts] if unescape else texts
            return lines, (text_cleaning.UNESCAPED,) if lines != texts else ()
        cleaned = [text_cleaning.clean(text, unescape) for text in texts]
        return [text for text, _ in cleaned], tuple(dict.fromkeys(code for _, codes in cleaned for code in codes))

    def _judged(self, texts: list[str]) -> tuple[str, tuple[str, ...]]:
        """The reason of the rejection ("" for none) and the flags."""
        flags = []
        for name in self._failed(texts):
            if self.actions[name] == "reject":
                return name, tuple(flags)
            flags.append(name)
        return "", tuple(flags)

    def _failed(self, texts: list[str]) -> Iterator[str]:
        """The checks that found something: first those of the answer, then those of every message."""
        prompt = "\n".join(texts[:-1])
        yield from (name for name, judge in self.judges if judge(texts[-1], prompt))
        yield from (name for name, groups in self.looking.items() if any(redaction.find(text, groups) for text in texts))
        if self.actions["control_strings"] != "off" and any(("<" in t or "[" in t) and CONTROL_STRINGS.search(t) for t in texts):
            yield "control_strings"


def _copied(texts: list[str]) -> bool:
    """Whether an answer of placeholders alone copies them from the prompt: "Which address is in this text?" can be learnt, "Whose is it?" not."""
    prompt = "\n".join(texts[:-1])
    return all(placeholder in prompt for placeholder in redaction.PLACEHOLDER.findall(texts[-1]))
