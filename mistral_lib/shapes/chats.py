"""A row with a conversation: a list of turns, a dialogue in one string, an export of a chat program, or a tree of replies."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from mistral_lib.shapes.cells import Cells, Content, NoFitError, UnmappableError, as_json, is_empty, parsed_json, says_nothing
from mistral_lib.shapes.contents import text_of, value_text
from mistral_lib.shapes.conversation import regular
from mistral_lib.shapes.grading import require_graded
from mistral_lib.shapes.tools import Tool, tools_of, written_calls
from mistral_lib.shapes.turns import ROLE_KEYS, ROLES, Turn, is_turn, is_turn_list, turns, written_turns

SYSTEM = ("system", "system_prompt", "system_message", "sys_prompt", "preamble", "systemprompt", "system_instruction", "systeminstruction")
TOOLS = ("tools", "functions", "available_tools", "tool_definitions", "function_definitions")
SYSTEM_OR_TOOLS = frozenset((*SYSTEM, *TOOLS))
CHAT_KEYS = ("messages", "conversations", "conversation")  # keys that mean nothing else
ANSWERS = ("completion", "response", "output", "answer", "answers", "target", "reply", "resposta", "respuesta", "antwort", "risposta")
CONTEXT = ("context", "documents", "passage", "knowledge", "background")  # beside a list of turns
HUMAN_ASSISTANT = re.compile(r"\n\n(Human|Assistant): ?")  # a complete dialogue in one string, as in hh-rlhf
MARKED = re.compile(r"(?im)^\s*(?:#+ ?)?(system|human|user|assistant|gpt|bot|function response|customer|agent)[ \t]*: ?")
END_TEXT = re.compile(r"\s*<\|endoftext\|>\s*\Z")
FUNCTION_CALL = re.compile(r"\A<functioncall>\s*(\{.*\})\s*\Z", re.DOTALL)
QUOTED_ARGUMENTS = re.compile(r"'(\{.*\})'", re.DOTALL)  # glaive writes the arguments as JSON in single quotes
DEEPEST = 1000  # turns of a tree or an export


def chat(cells: Cells, given: Iterable[Turn], *repairs: str) -> Content:
    """The messages of a row with its system text and its tools. Errors: UnmappableError."""
    require_graded(cells)
    system, tools = system_texts(cells)
    if system:
        given = list(given)
        own = [turn.text.strip() for turn in given if turn.role == "system"]  # a row may say the same in both places
        given = [*(Turn("system", text) for text in system if text.strip() not in own), *given]
    messages, more = regular(given)
    content: Content = {"messages": messages, "repairs": (*repairs, *more)}
    if tools:
        content["tools"] = tools
    return content


def system_texts(cells: Cells) -> tuple[list[str], list[Tool] | None]:
    """The system texts of a row and its tools. A text that should be tools and is not JSON is read as system text."""
    if not cells.has_any(SYSTEM_OR_TOOLS):
        return [], None
    given = cells.optional(*SYSTEM)
    if isinstance(given, dict) and ("parts" in given or isinstance(given.get("text"), str)):  # of Gemini
        given = text_of(given)
    texts = [] if given is None else [END_TEXT.sub("", value_text(given)).removeprefix("SYSTEM:").lstrip(" ")]
    cells.use(*(key for key in TOOLS if says_nothing(cells.values.get(key))))
    name = next((key for key in TOOLS if key in cells and key not in cells.used), None)
    if name is None:
        return texts, None
    tools = tools_of(cells.values[name])
    if tools is not None or isinstance(cells.values[name], str):
        cells.use(name)
    return texts if tools is not None or not isinstance(cells.values[name], str) else [*texts, cells.values[name]], tools


def listed(key: str) -> Any:
    """A builder for a list of turns in this cell, or a dialogue in one string."""

    def build(cells: Cells) -> Content:
        value = cells.take(key)
        if isinstance(value, str) and parsed_json(value) is None:
            if found := marked(value):
                return chat(cells, found)
            is_id = not cells.values.keys().isdisjoint(ANSWERS) and value.lstrip()[:1] not in ("[", "{")
            if key not in CHAT_KEYS or is_id:
                raise NoFitError
        if isinstance(value, bool | int | float) or (key not in CHAT_KEYS and not _has_turns(value)):
            raise NoFitError  # a number of messages, a list of other things
        given = turns(value, cells.left_in_turns)
        given += _answer_beside(cells, given)
        context = cells.optional(*(name for name in CONTEXT if name != key))
        if context is None:
            return chat(cells, given)
        return chat(cells, [Turn("system", value_text(context)), *given], "context_as_system")

    return build


def _answer_beside(cells: Cells, given: list[Turn]) -> list[Turn]:
    """The answer that stands in a cell of its own beside turns that end with a question."""
    key = next((name for name in ANSWERS if name in cells), None)
    if key is None or not given or given[-1].role != "user":
        return []
    value = cells.values[key]
    found = [value] if is_turn(value) else written_turns(value) or value
    if not isinstance(found, str) and not is_turn_list(found):
        return []
    cells.use(key)
    return [Turn("assistant", found)] if isinstance(found, str) else turns(found, cells.left_in_turns)


def _has_turns(value: Any) -> bool:
    """Whether a cell whose key can mean something else is a list of turns in any form, except texts whose roles are not known."""
    if isinstance(value, str):
        value = parsed_json(value)
    values = list(value.values()) if isinstance(value, dict) else []
    if values and all(isinstance(one, list) for one in values):  # columns
        return any(key in value for key in ROLE_KEYS)
    return isinstance(value, list) and all(isinstance(one, dict | list | tuple) or written_turns(f"[{one}]") for one in value)


def marked(text: str) -> list[Turn]:
    """The turns of a dialogue in one string, each after its role and a colon; none if it does not begin so."""
    first, *parts = MARKED.split(text)
    if first.strip() or not parts:
        return []
    found = [_marked_turn(role.lower().replace(" ", "_"), words) for role, words in zip(parts[::2], parts[1::2], strict=True)]
    return found if {"user", "assistant"} <= {turn.role for turn in found} else []


def _marked_turn(role: str, words: str) -> Turn:
    words = END_TEXT.sub("", words).strip()
    if (call := FUNCTION_CALL.match(words)) is None:
        return Turn(ROLES[role], words)
    calls = written_calls(QUOTED_ARGUMENTS.sub(lambda found: as_json(found[1]), call[1]))
    return Turn("assistant", "", "", calls) if calls else Turn("assistant", words, "tool_call_as_text")


def human_assistant(text: str) -> list[Turn]:
    """The turns of a dialogue as hh-rlhf writes it; none if it is another text."""
    _, *parts = HUMAN_ASSISTANT.split("\n\n" + text.lstrip())
    return [Turn("user" if who == "Human" else "assistant", words) for who, words in zip(parts[::2], parts[1::2], strict=True)]


def unknown_list(cells: Cells) -> Content:
    """The only cell that is a list of turns, whatever its key is. Errors: UnmappableError."""
    found = [key for key, value in cells.values.items() if is_turn_list(value)]
    if len(found) != 1:
        raise UnmappableError("unknown_shape")
    return listed(found[0])(cells)


def lone_turn(cells: Cells) -> bool:
    """Whether a row is one turn of a conversation: its role beside its text, or a message of a chat program."""
    if "speaker" in cells or ("parent_id" in cells and "message_id" in cells):
        return True
    if cells.values.get("type") == "message" and ("user" in cells or "ts" in cells or "from" in cells):
        return True
    return any(isinstance(cells.values.get(key), str) and cells.values[key].strip().lower() in ROLES for key in ("role", "from", "sender"))


def chatgpt_export(cells: Cells) -> Content:
    """The branch of a ChatGPT conversation that was shown last."""
    nodes = cells.take("mapping")
    if not isinstance(nodes, dict) or not all(isinstance(node, dict) for node in nodes.values()):
        raise UnmappableError("unknown_shape")
    last = cells.take("current_node")
    place = last if isinstance(last, str) and last in nodes else _last_leaf(nodes)
    path: list[Any] = []
    while isinstance(place, str) and place in nodes and len(path) < DEEPEST:
        path.append(nodes[place].get("message"))
        place = nodes[place].get("parent")
    spoken = [message for message in reversed(path) if isinstance(message, dict) and not _is_blank(message)]
    branches = sum(len(node.get("children") or []) > 1 for node in nodes.values())
    repairs = ["one_branch_of_a_conversation"] if branches else []
    return chat(cells, turns(spoken, None), *repairs)


def _last_leaf(nodes: Mapping[str, Any]) -> str | None:
    """The node that is reached from the root over the last child of each."""
    place = next((name for name, node in nodes.items() if node.get("parent") not in nodes), None)
    for _ in range(DEEPEST):
        children = [child for child in (nodes[place].get("children") or []) if child in nodes] if place is not None else []
        if not children:
            return place
        place = children[-1]
    return place


def _is_blank(message: Mapping[str, Any]) -> bool:
    """Whether a message of an export has no text: the root, a hidden system message."""
    content = message.get("content")
    parts = content.get("parts") if isinstance(content, dict) else content
    return is_empty(parts) or (isinstance(parts, list) and all(is_empty(part) for part in parts))


def claude_export(cells: Cells) -> Content:
    """A conversation of a Claude export. Its text is in `text`; `content` repeats it in parts."""
    found = cells.take("chat_messages")
    if not isinstance(found, list) or not all(isinstance(one, dict) for one in found):
        raise UnmappableError("messages_are_not_a_list_of_objects")
    plain = [{key: one[key] for key in ("sender", "text") if key in one} if not is_empty(one.get("text")) else one for one in found]
    return chat(cells, turns(plain, None))


def reply_tree(cells: Cells) -> Content:
    """The best thread of a tree of replies, as OpenAssistant stores them: the reply of the best rank, otherwise the first."""
    node, path, branches = cells.take("prompt", "root"), [], False
    while isinstance(node, dict) and len(path) < DEEPEST:
        path.append({key: part for key, part in node.items() if key in ("role", "text", "content")})
        replies = [one for one in node.get("replies") or [] if isinstance(one, dict) and not one.get("deleted")]
        branches |= len(replies) > 1
        node = min(replies, key=lambda one: one["rank"] if isinstance(one.get("rank"), int) else 0) if replies else None
    return chat(cells, turns(path, None), *(["one_branch_of_a_conversation"] if branches else []))
