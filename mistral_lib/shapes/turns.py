"""The turns of a conversation in the forms that real corpora have, with uniform roles.

Every change has a repair code and is counted. Sources of the role names: OpenAI's chat format, ShareGPT, OpenAssistant, axolotl.
"""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from mistral_lib.shapes.cells import UnmappableError, first_of, is_empty, parsed_json, plain
from mistral_lib.shapes.contents import REASONING, REASONING_REPAIR, reasoning_of, text_of, value_text, with_reasoning
from mistral_lib.shapes.grading import MASKS, TURN_WEIGHTS, is_graded
from mistral_lib.shapes.tools import Call, calls_of, written_calls

ROLES = {
    "system": "system", "developer": "system", "system_prompt": "system",
    "user": "user", "human": "user", "prompter": "user", "customer": "user", "client": "user", "student": "user", "q": "user",
    "question": "user", "input": "user", "instruction": "user", "prompt": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
    "bing": "assistant", "bard": "assistant", "claude": "assistant", "gemini": "assistant", "llm": "assistant", "chatbot": "assistant",
    "agent": "assistant", "teacher": "assistant", "tutor": "assistant", "a": "assistant", "answer": "assistant", "output": "assistant",
    "response": "assistant", "completion": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "tool", "function": "tool", "observation": "tool", "tool_response": "tool", "tool_result": "tool", "function_response": "tool",
    "ipython": "tool",
}  # fmt: skip
CALLS = ("function_call", "tool_call")  # roles whose text is a tool call
ROLE_KEYS = ("role", "from", "sender", "speaker")
CONTENT_KEYS = ("content", "value", "text", "message", "utterance", "parts")
TOOL_KEYS = ("tool_calls", "function_call", "tool_call_id")
READ = {*ROLE_KEYS, *CONTENT_KEYS, *TOOL_KEYS, *TURN_WEIGHTS, *MASKS, *REASONING, "author", "refusal"}
LONGEST_ROLE = 24  # characters of an unknown role that is named in the report


class Turn(NamedTuple):
    role: str  # system | user | assistant | tool
    text: str
    repair: str = ""
    calls: Sequence[Call] = ()
    call_id: str = ""  # of a tool's result
    name: str = ""  # of the tool
    graded: bool = True


def is_turn(value: Any) -> bool:
    """Whether an object is a turn: a role and a content, or a role whose content is in another key."""
    if not isinstance(value, dict) or not any(isinstance(value.get(key), str) for key in ROLE_KEYS):
        return False
    return any(key in value for key in (*CONTENT_KEYS, *TOOL_KEYS, *REASONING))


def is_turn_list(value: Any) -> bool:
    return isinstance(value, list) and bool(value) and all(map(is_turn, value))


def written_turns(value: Any) -> list[Any] | None:
    """The turns that a text contains as JSON, as tables store them; None if it is another text, or no text."""
    if not isinstance(value, str) or not value.lstrip().startswith("["):
        return None
    found = parsed_json(value)
    return found if is_turn_list(found) else None


def turns(value: Any, left: set[str] | None = None) -> list[Turn]:
    """The turns of a conversation. left: gets the keys of turns that are not read. Errors: UnmappableError."""
    listed = _listed(value)
    found = [turn for one in listed for turn in _turns(one, left)]
    if all(turn.role in ("system", "user") for turn in found) and all("speaker" in one for one in listed):
        return [turn._replace(role="assistant") if turn.role == "system" else turn for turn in found]  # a dialogue system
    return found


def _listed(value: Any) -> list[Any]:
    """The turns as objects: JSON in strings is parsed, and pairs of texts are a question and its answer."""
    if isinstance(value, str):
        value = _parsed(value)
    if isinstance(value, dict):
        value = _from_columns(value) or [value]
    if not isinstance(value, list | tuple):
        raise UnmappableError("messages_are_not_a_list_of_objects")
    if value and all(isinstance(one, list | tuple) and len(one) == 2 for one in value):
        return [{"role": role, "content": text} for pair in value for role, text in zip(("user", "assistant"), pair, strict=True)]
    if any(isinstance(one, str) for one in value):
        value = [parsed_json(one) if isinstance(one, str) else one for one in value]
        if not all(isinstance(one, dict) for one in value):
            raise UnmappableError("turns_without_a_role")
    if not all(isinstance(one, dict) for one in value):
        raise UnmappableError("messages_are_not_a_list_of_objects")
    return value


def _from_columns(value: Mapping[str, Any]) -> list[Any]:
    """The turns of {"role": [role, …], "content": [text, …]}, as `datasets` stores a list of objects; none for another object."""
    lists = list(value.values())
    if not lists or not all(isinstance(one, list) for one in lists) or len({len(one) for one in lists}) != 1:
        return []
    return [dict(zip(value, parts, strict=True)) for parts in zip(*lists, strict=True)]


def _parsed(text: str) -> Any:
    found = parsed_json(text)
    if found is None:
        is_python = text.lstrip()[:2] in ("[{", "[[") and "'" in text
        raise UnmappableError("messages_are_python_text" if is_python else "messages_are_not_a_list_of_objects")
    return found


def _turns(turn: Mapping[str, Any], left: set[str] | None) -> Iterator[Turn]:
    given = first_of(turn, ROLE_KEYS)
    if given is None:
        turn = {plain(str(key)): part for key, part in turn.items()}
        author = turn.get("author")
        given = first_of(turn, ROLE_KEYS) or (author if isinstance(author, str) and plain(author) in ROLES else None)
    if given is None:
        yield from _by_role_keys(turn)
        return
    role = role_of(given)
    content = first_of(turn, CONTENT_KEYS)
    if left is not None and not turn.keys() <= READ:
        left.update(
            f"messages.{key}"
            for key, part in turn.items()
            if key not in READ and not is_empty(part) and not (role == "tool" and key == "name")
        )
    if isinstance(content, list) and any(isinstance(part, dict) and part.get("type") in ("tool_use", "tool_result") for part in content):
        yield from _anthropic(role, content, turn)
        return
    yield _turn(role, given, content, turn)


def role_of(given: Any) -> str:
    """The uniform name of a role. Errors: UnmappableError."""
    if isinstance(given, str) and given in ROLES:
        return ROLES[given]
    name = plain(given) if isinstance(given, str) else ""
    if name not in ROLES:
        raise UnmappableError("unknown_role", name if name.isidentifier() and len(name) <= LONGEST_ROLE else "")
    return ROLES[name]


def _turn(role: str, given: str, content: Any, turn: Mapping[str, Any]) -> Turn:
    calls = calls_of(turn) if "tool_calls" in turn or "function_call" in turn else []
    reasoning = reasoning_of(turn, content) if role == "assistant" else ""
    if role == "tool":
        text = "" if content is None else value_text(content)
        number, name = turn.get("tool_call_id"), turn.get("name")
        return Turn(role, text, "", (), number if isinstance(number, str) else "", name if isinstance(name, str) else "")
    if content is None and isinstance(turn.get("refusal"), str):
        content = turn["refusal"]
    text = "" if content is None and calls else text_of(content)
    repair = ""
    if plain(given) in CALLS and not calls:
        calls = written_calls(text)
        text, repair = ("", "") if calls else (text, "tool_call_as_text")
    if reasoning:
        text, repair = with_reasoning(reasoning, text), REASONING_REPAIR
    return Turn("assistant" if calls else role, text, repair, calls, graded=is_graded(turn))


def _by_role_keys(turn: Mapping[str, Any]) -> Iterator[Turn]:
    """A round as {"human": …, "assistant": …}: its keys are the roles. Errors: UnmappableError."""
    author = turn.get("author")
    if isinstance(author, dict) and isinstance(author.get("role"), str):  # of a ChatGPT export
        yield _turn(role_of(author["role"]), author["role"], first_of(turn, CONTENT_KEYS), turn)
        return
    filled = {key: part for key, part in turn.items() if not is_empty(part)}
    spoken = {key: part for key, part in filled.items() if plain(str(key)) in ROLES}
    if not spoken or (len(spoken) < len(filled) and any(key in filled for key in CONTENT_KEYS)):
        raise UnmappableError("turn_without_a_role")
    for key, part in spoken.items():
        yield Turn(role_of(key), text_of(part), graded=is_graded(turn))


def _anthropic(role: str, content: list[Any], turn: Mapping[str, Any]) -> Iterator[Turn]:
    """A message with parts for calls of tools or their results: the results first, then the text and its calls."""
    uses = [part for part in content if isinstance(part, dict) and part.get("type") == "tool_use"]
    results = [part for part in content if isinstance(part, dict) and part.get("type") == "tool_result"]
    rest = [part for part in content if not any(part is one for one in (*uses, *results))]
    for part in results:
        given, number = part.get("content"), part.get("tool_use_id")
        text = "" if given is None else text_of(given) if isinstance(given, list) else value_text(given)
        yield Turn("tool", text, "", (), number if isinstance(number, str) else "")
    if rest or uses:
        yield _turn(role, role, rest, {"reasoning": reasoning_of(turn, rest), "tool_calls": uses, "weight": first_of(turn, TURN_WEIGHTS)})


def as_text(turn: Turn) -> Turn:
    """A tool's result whose call is not in the chat, as a user's text."""
    return turn._replace(role="user", repair="tool_output_as_user", call_id="", name="")
