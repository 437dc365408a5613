"""A Modelfile for Ollama: the GGUF file, the trained chat format as a Go template, and the strings that end an answer.

The template is built from what the trained format writes around the contents of a few chats, rendered again and compared for each order of
roles; a format that it cannot express is refused. It is rendered by go_template: no Ollama was run.

Ollama tokenizes the rendered text with llama.cpp, which adds the start token if the GGUF file says so (add_bos_token), and adds it also
if the text has one already. So the template leaves it out in that case.
Source: https://github.com/ollama/ollama/blob/main/docs/modelfile.mdx ; inputs in runner/llamarunner/runner.go (add_special, parse_special)
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.gguf_files import gguf_tokenizer, go_template, llama_cpp_tokens
from mistral_lib.gguf_files.gguf_tokenizer import Difference
from mistral_lib.shapes.conversation import Message
from mistral_lib.tokens import chat_format, chat_template, control_tokens
from mistral_lib.tokens.chat_template import TemplateError

TEMPLATE = re.compile(r'^TEMPLATE """(.*?)"""$', re.DOTALL | re.MULTILINE)
HEAD = """# For Ollama. In this folder: ollama create NAME -f {file}
# The template was compared with the format of the training by rendering it; no Ollama was run.
"""
IS_LAST = "eq (len (slice $.Messages $i)) 1"
PLACES = ("start", "last user message")  # of a system text
ROLES = ("user", "user assistant user", "user assistant user assistant user")  # of the chats that are compared
MARKS = ("first", "second {braces}", "third\n\nline", "fourth", "fifth")  # contents


class UnsupportedTemplateError(ValueError):
    """A chat format that cannot be written as a template of Ollama; the message says why."""


@dataclass(frozen=True)
class Written:
    """What the format writes, without the contents."""

    before: str  # the first message, in a chat without system text
    before_system: str
    after_system: str
    before_answer: str  # between a user's words and the answer
    after_answer: str  # between an answer and the user's next words
    end: str  # after the last words of the user
    has_system: bool


def modelfile(tokenizer: Any, gguf_name: str, adapter_name: str = "", max_tokens: int = 0, file: str = "Modelfile") -> str:
    """The text of a Modelfile. Names are paths relative to its folder.

    adapter_name: an adapter as GGUF, if the file is the base model. max_tokens: the length of context; 0: Ollama's own default, which
    cuts longer prompts silently. file: what the Modelfile will be called. Errors: UnsupportedTemplateError.
    """
    written = _written(tokenizer)
    template = _template(tokenizer, written)
    stops = "".join(f'PARAMETER stop "{stop}"\n' for stop in stop_strings(tokenizer))
    lines = [f"FROM ./{gguf_name.removeprefix('./')}", *([f"ADAPTER ./{adapter_name.removeprefix('./')}"] if adapter_name else [])]
    context = f"PARAMETER num_ctx {max_tokens}\n" if max_tokens else ""
    return (
        f"{HEAD.format(file=file)}{''.join(_limits(tokenizer, written))}" + "\n".join(lines) + f'\nTEMPLATE """{template}"""\n{stops}'
        f"{context}PARAMETER temperature 0\nPARAMETER repeat_penalty 1\n"  # as it was evaluated: greedy
    )


def render(modelfile: str, messages: Sequence[dict[str, str]]) -> str:
    """The prompt that Ollama would make of a chat, without the start token if llama.cpp adds it. Errors: GoTemplateError."""
    found = TEMPLATE.search(modelfile)
    if not found:
        raise go_template.GoTemplateError('the Modelfile has no TEMPLATE """…"""')
    return go_template.render(found[1], messages)


def differences(tokenizer: Any, modelfile: str, gguf: Path, chats: Sequence[Sequence[Message]]) -> list[Difference]:
    """The chats that get other token ids from Ollama's prompt and llama.cpp's tokenizer than in training. Empty: all are equal.

    chats: complete ones, or such that end with a user's message; one that the trained format cannot express is left out.
    """
    prompts = [chat[:-1] if chat[-1]["role"] == "assistant" else chat for chat in chats]
    ids = llama_cpp_tokens.of_gguf(gguf, prompts=[render(modelfile, prompt) for prompt in prompts]).prompts
    found = []
    for number, (prompt, one) in enumerate(zip(prompts, ids, strict=True)):
        try:
            expected = chat_format.prompt_ids(tokenizer, prompt)
        except TemplateError:
            continue
        if one != expected:
            reason = "control string" if gguf_tokenizer.holds_control_string(tokenizer, prompt) else "ids"
            found.append(Difference(number, "ollama", expected, one, reason))
    return found


def stop_strings(tokenizer: Any) -> list[str]:
    """What ends an answer: the end token, and what begins a user's turn, if the model goes on to that."""
    parts = control_tokens.of(tokenizer).cut(_written(tokenizer).after_answer)
    names = [tokenizer.convert_ids_to_tokens(part) if isinstance(part, int) else part.strip() for part in parts]
    return list(dict.fromkeys(name for name in names if name))[:2]


# -- what the format writes ---------------------------------------------------------------------------------------------


def _written(tokenizer: Any) -> Written:
    """Errors: UnsupportedTemplateError if the format refuses a chat of user and assistant, or ends no answer with a control token."""
    try:
        chat_template.layout(tokenizer, ("user", "assistant"))  # with an end token after the answer
        before, end = _around(tokenizer, "user")
        _, before_answer, after_answer, _ = _around(tokenizer, "user assistant user")
    except (TemplateError, chat_template.NoEndTokenError) as error:
        raise UnsupportedTemplateError(f"no Modelfile can be written: {error}") from None
    try:
        before_system, after_system, _ = _around(tokenizer, "system user")
    except TemplateError:
        return Written(before, "", "", before_answer, after_answer, end, False)
    return Written(before, before_system, after_system, before_answer, after_answer, end, True)


def _around(tokenizer: Any, roles: str) -> list[str]:
    """The text before, between and after the contents of a chat, without the start token if llama.cpp adds it."""
    messages = _chat(roles)
    texts = [""]
    for piece in chat_format.pieces(tokenizer, messages, for_answer=True):
        if piece.role is None:
            texts[-1] += piece.text
        else:
            texts.append("")
    texts[0] = _without_start(tokenizer, texts[0])
    return texts


def _chat(roles: str) -> list[Message]:
    return [{"role": role, "content": text} for role, text in zip(roles.split(), MARKS, strict=False)]


def _without_start(tokenizer: Any, text: str) -> str:
    return text.removeprefix(tokenizer.bos_token) if gguf_tokenizer.adds_start(tokenizer) else text


def trained(tokenizer: Any, messages: Sequence[Message]) -> str:
    """The prompt as it was trained, without the start token if llama.cpp adds it. Errors: TemplateError."""
    pieces = chat_format.pieces(tokenizer, messages, for_answer=True)
    return _without_start(tokenizer, "".join(piece.text for piece in pieces))


# -- the template -------------------------------------------------------------------------------------------------------


def _template(tokenizer: Any, written: Written) -> str:
    """The first form of the template that renders every order of roles as trained. Errors: UnsupportedTemplateError."""
    for place in PLACES:
        template = _form(written, place)
        if all(go_template.render(template, chat) == trained(tokenizer, chat) for chat in _compared(written)):
            return template
    raise UnsupportedTemplateError(
        "no Modelfile can be written: what this chat format writes around a message depends on more than its role and place, which the "
        "template here cannot express; serve the GGUF file with llama.cpp, which uses the format's own template"
    )


def _compared(written: Written) -> list[list[Message]]:
    return [_chat(roles) for roles in ROLES] + (
        [_chat(f"system {roles}") for roles in ROLES if written.has_system and len(roles.split()) < 5]
    )


def _form(written: Written, place: str) -> str:
    """place: where the system text is."""
    opening, at_last = _literal(written.before), ""
    if written.has_system and place == PLACES[0]:
        with_system = f"{_literal(written.before_system)}{{{{ .System }}}}{_literal(written.after_system)}"
        opening = f"{{{{ if .System }}}}{with_system}{{{{ else }}}}{opening}{{{{ end }}}}"
    elif written.has_system:
        own = _literal(written.before_system.removeprefix(written.before))
        at_last = f"{{{{ if $.System }}}}{own}{{{{ $.System }}}}{_literal(written.after_system)}{{{{ end }}}}"
    user = (
        f"{{{{ if {IS_LAST} }}}}{at_last}{{{{ .Content }}}}{_literal(written.end)}"
        f"{{{{ else }}}}{{{{ .Content }}}}{_literal(written.before_answer)}{{{{ end }}}}"
    )
    answer = f"{{{{ .Content }}}}{_literal(written.after_answer)}"
    turns = f'{{{{ if eq .Role "user" }}}}{user}{{{{ else if eq .Role "assistant" }}}}{answer}{{{{ end }}}}'
    return f"{opening}{{{{ range $i, $_ := .Messages }}}}{turns}{{{{ end }}}}"


def _literal(text: str) -> str:
    if "{{" in text or "}}" in text or '"""' in text:
        raise UnsupportedTemplateError(f"no Modelfile can be written: the format writes {text!r}, which would end the template's own marks")
    return text


def _limits(tokenizer: Any, written: Written) -> list[str]:
    """Comments: what Ollama does not do as in training."""
    limits = ["# Tools: not in the template; llama.cpp's server has them.\n"]
    roles = ("system", "user", "assistant", "user") if written.has_system else ("user", "assistant", "user")
    edits = chat_template.layout(tokenizer, roles, True).edits
    if changed := dict.fromkeys(role for role, edit in zip(roles, edits, strict=True) if edit(" \nx\n ") != " \nx\n "):
        limits.append(f"# Blanks at the ends of {' and '.join(changed)} messages: the training strips them, Ollama does not.\n")
    if not written.has_system:
        limits.append("# System text: this chat format has none; Ollama leaves it out.\n")
    if gguf_tokenizer.adds_start(tokenizer):
        limits.append(f"# The start token {tokenizer.bos_token} is not in the template: llama.cpp adds it, and would add a second one.\n")
    return limits
