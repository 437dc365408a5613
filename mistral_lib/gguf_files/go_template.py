"""Renders the small part of Go's template language in which Modelfiles are written here: if, else, range, eq, and, len, slice.

Anything else is refused with its text, so that no template is rendered in another way than Ollama would.
Source: https://pkg.go.dev/text/template and collate and Execute in template/template.go of Ollama
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

ACTION = re.compile(r"\{\{ (.*?) \}\}", re.DOTALL)
WORD = re.compile(r'\s*("[^"]*"|[()]|[^\s()]+)')
RANGE = re.compile(r"range \$(\w+), \$_ := \.Messages$")


class GoTemplateError(ValueError):
    """A template with something that this renderer does not know."""


@dataclass
class Branch:
    """`if` with its `else if` and `else`, or `range`."""

    choices: list[tuple[str, list[Any]]]  # condition ("" for else) or range, and what it writes
    nodes: list[Any] = field(default_factory=list)  # of the choice that is read


def render(template: str, messages: Sequence[dict[str, str]]) -> str:
    """The prompt that Ollama makes of a chat. Errors: GoTemplateError."""
    system, collated = collate(messages)
    data = {"System": system, "Messages": [{"Role": one["role"], "Content": one["content"]} for one in collated]}
    return _written(_parsed(template), data, data, {})


def collate(messages: Sequence[dict[str, str]]) -> tuple[str, list[dict[str, str]]]:
    """As Ollama does it: the system texts, and messages of one role after each other joined into one."""
    found: list[dict[str, str]] = []
    for one in messages:
        if found and found[-1]["role"] == one["role"]:
            found[-1]["content"] += "\n\n" + one["content"]
        else:
            found.append({"role": one["role"], "content": one["content"]})
    return "\n\n".join(one["content"] for one in messages if one["role"] == "system"), found


# -- reading ------------------------------------------------------------------------------------------------------------


def _parsed(template: str) -> list[Any]:
    """Nodes: texts, ("show", expression) and branches."""
    root = Branch([("", [])])
    root.nodes = root.choices[0][1]
    open_branches = [root]
    for place, piece in enumerate(ACTION.split(template)):
        if place % 2:
            _read_action(piece, open_branches)
        elif "{{" in piece or "}}" in piece:
            raise GoTemplateError(f"an action without blanks inside its braces: {piece!r}")
        else:
            open_branches[-1].nodes.append(piece)
    if len(open_branches) != 1:
        raise GoTemplateError("an if or range without its end")
    return root.nodes


def _read_action(action: str, open_branches: list[Branch]) -> None:
    branch = open_branches[-1]
    if action.startswith(("if ", "range ")):
        new = Branch([(action, [])])
        new.nodes = new.choices[0][1]
        branch.nodes.append(new)
        open_branches.append(new)
    elif action == "else" or action.startswith("else if "):
        _require_open(open_branches, action)
        branch.choices.append((action.removeprefix("else").strip(), []))
        branch.nodes = branch.choices[-1][1]
    elif action == "end":
        _require_open(open_branches, action)
        open_branches.pop()
    else:
        branch.nodes.append(("show", action))


def _require_open(open_branches: list[Branch], action: str) -> None:
    if len(open_branches) == 1:
        raise GoTemplateError(f"{action!r} without an if or range before it")


# -- writing ------------------------------------------------------------------------------------------------------------


def _written(nodes: Sequence[Any], dot: dict[str, Any], root: dict[str, Any], names: dict[str, Any]) -> str:
    return "".join(_node(node, dot, root, names) for node in nodes)


def _node(node: Any, dot: dict[str, Any], root: dict[str, Any], names: dict[str, Any]) -> str:
    if isinstance(node, str):
        return node
    if isinstance(node, tuple):
        return str(_value(node[1], dot, root, names))
    if node.choices[0][0].startswith("range "):
        return _repeated(node, root)
    for condition, nodes in node.choices:
        if not condition or _value(condition.removeprefix("if "), dot, root, names):
            return _written(nodes, dot, root, names)
    return ""


def _repeated(node: Branch, root: dict[str, Any]) -> str:
    over = RANGE.match(node.choices[0][0])
    if not over or len(node.choices) > 1:
        raise GoTemplateError(f"expected `range $i, $_ := .Messages` without else, found {node.choices[0][0]!r}")
    return "".join(_written(node.choices[0][1], one, root, {over[1]: place}) for place, one in enumerate(root["Messages"]))


def _value(expression: str, dot: dict[str, Any], root: dict[str, Any], names: dict[str, Any]) -> Any:
    words = WORD.findall(expression)
    found = _call(words, dot, root, names)
    if words:
        raise GoTemplateError(f"{expression!r}: {words[0]!r} is not understood")
    return found


def _call(words: list[str], dot: dict[str, Any], root: dict[str, Any], names: dict[str, Any]) -> Any:
    """The value of a term, or of a function and its arguments up to `)` or the end; the words are used up."""
    function = FUNCTIONS.get(words[0]) if words else None
    if function is None:
        return _term(words, dot, root, names)
    words.pop(0)
    arguments = []
    while words and words[0] != ")":
        arguments.append(_term(words, dot, root, names))
    try:
        return function(*arguments)
    except (TypeError, IndexError) as error:
        raise GoTemplateError(f"{error}") from None


def _term(words: list[str], dot: dict[str, Any], root: dict[str, Any], names: dict[str, Any]) -> Any:
    word = words.pop(0) if words else ""
    if word == "(":
        found = _call(words, dot, root, names)
        if not words or words.pop(0) != ")":
            raise GoTemplateError("a bracket is not closed")
        return found
    if word.startswith('"'):
        return word[1:-1]
    if word.isdigit():
        return int(word)
    holder, key = (root, word[2:]) if word.startswith("$.") else (names, word[1:]) if word.startswith("$") else (dot, word[1:])
    if not word.startswith((".", "$")) or key not in holder:
        raise GoTemplateError(f"{word!r} is not understood")
    return holder[key]


FUNCTIONS = {
    "eq": lambda one, other: one == other,
    "and": lambda *values: next((value for value in values if not value), values[-1]),
    "len": len,
    "slice": lambda values, start: values[start:],
}
