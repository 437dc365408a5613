"""The messages of a conversation: one name for each role, roles in turn, an answer at the end.

Every change has a repair code and is counted. Source of the role names: OpenAI's chat format, ShareGPT, OpenAssistant.
"""

from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

import orjson

Message = dict[str, str]  # {"role": system | user | assistant, "content": text}

ROLES = {
    "system": "system", "developer": "system",
    "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "model": "assistant", "bot": "assistant", "ai": "assistant",
    "function_call": "assistant", "tool_call": "assistant",
    "tool": "user", "function": "user", "observation": "user", "tool_response": "user", "ipython": "user",
}  # fmt: skip
CALLS = ("function_call", "tool_call")  # a tool call, which the model writes: trained on as its own text
OUTPUTS = ("tool", "function", "observation", "tool_response", "ipython")  # the result of a tool: read, like a user's text


class UnmappableError(ValueError):
    """A row that cannot become a record; the message is a reason code without any content of the row."""


def turns(value: Any) -> list[tuple[str, str, str]]:
    """(role, text, repair) of each message, with the keys of OpenAI or ShareGPT. Errors: UnmappableError."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        raise UnmappableError("messages_are_not_a_list_of_objects")
    return [_turn(turn) for turn in value]


def _turn(turn: Mapping[str, Any]) -> tuple[str, str, str]:
    role, content = first_of(turn, "role", "from"), first_of(turn, "content", "value")
    role = role.strip().lower() if isinstance(role, str) else ""
    if role not in ROLES:
        raise UnmappableError("unknown_role")
    calls = _calls(turn)
    text = "" if content is None and calls else text_of(content)
    if calls or role in CALLS:
        return "assistant", "\n\n".join(part for part in (trimmed(text), *calls) if part), "tool_call_as_text"
    return ROLES[role], text, "tool_output_as_user" if role in OUTPUTS else ""


def first_of(row: Mapping[str, Any], *keys: str) -> Any:
    """The value of the first of the keys that has one, else None."""
    return next((row[key] for key in keys if row.get(key) is not None), None)


def text_of(content: Any) -> str:
    """Text as it is, or the text parts of OpenAI's list of parts joined. Errors: UnmappableError for anything else."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) and part.get("type", "text") == "text" else part for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise UnmappableError("content_is_not_text")  # a picture, a sound
        return "\n".join(parts)
    raise UnmappableError("text_is_not_a_string")


def as_json(value: Any) -> str:
    """A value that is not text as one line of JSON. Errors: UnmappableError if it is nested too deep to be written (254 levels)."""
    try:
        return orjson.dumps(value, default=str, option=orjson.OPT_NON_STR_KEYS).decode()
    except TypeError:
        raise UnmappableError("nested_too_deep") from None


def _calls(turn: Mapping[str, Any]) -> list[str]:
    """Each call as a line of JSON with its name and arguments, since a plain chat format has no other place for it."""
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UnmappableError("tool_calls_are_not_a_list_of_objects")
    return [_call(call.get("function", call)) for call in calls]


def _call(function: Any) -> str:
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UnmappableError("tool_call_without_a_name")
    arguments = function.get("arguments")
    if isinstance(arguments, str):
        with suppress(orjson.JSONDecodeError):  # arguments that are not JSON are kept as text
            arguments = orjson.loads(arguments)  # OpenAI writes them as JSON in a string
    return as_json({"name": function["name"], "arguments": arguments})


def regular(given: Iterable[tuple[str, str, str]]) -> tuple[list[Message], tuple[str, ...]]:
    """The messages and the codes of the repairs. Errors: UnmappableError if no question with an answer is left."""
    repairs: list[str] = []
    sound = [(role, _without_lead(trimmed(text), repairs), repair) for role, text, repair in given]
    found = _system_first([turn for turn in sound if turn[1] or turn[0] != "system"], repairs)
    system, talk = (found[:1], found[1:]) if found and found[0][0] == "system" else ([], found)
    talk = _from_question_to_answer(talk, repairs)
    if any(not text for _, text in talk):
        raise UnmappableError("empty_message")
    return [{"role": role, "content": text} for role, text in [*system, *_merged(talk, repairs)]], tuple(dict.fromkeys(repairs))


def trimmed(text: str) -> str:
    """The text without empty lines at the start and white space at the end. The first line keeps its indentation: it may be code."""
    return text.rstrip().lstrip("\n")


def _without_lead(text: str, repairs: list[str]) -> str:
    """The text without the one blank with which completions of older formats begin, since a chat template adds its own. If another line
    is indented too, the blank is layout and is kept."""
    if not text.startswith(" ") or text[1].isspace() or "\n " in text:
        return text
    repairs.append("leading_blank_removed")
    return text[1:]


def _system_first(given: list[tuple[str, str, str]], repairs: list[str]) -> list[tuple[str, str]]:
    """System texts at the start are joined. A later one becomes a user message in its place: moved to the start, it would change the
    context of the answers before it."""
    start = next((number for number, (role, _, _) in enumerate(given) if role != "system"), len(given))
    leading = [text for _, text, _ in given[:start]]
    found = [("system", "\n\n".join(leading))] if leading else []
    repairs += ["merged_same_role"] if len(leading) > 1 else []
    for role, text, repair in given[start:]:
        repair = "later_system_as_user" if role == "system" else repair
        repairs += [repair] if repair else []
        found.append(("user" if role == "system" else role, text))
    return found


def _from_question_to_answer(talk: list[tuple[str, str]], repairs: list[str]) -> list[tuple[str, str]]:
    answers = [number for number, (role, _) in enumerate(talk) if role == "assistant"]
    questions = [number for number, (role, _) in enumerate(talk) if role == "user"]
    if not answers or (questions and questions[0] > answers[-1]):
        raise UnmappableError("no_answer_at_the_end")
    if not questions:
        raise UnmappableError("no_question")
    repairs += ["dropped_leading_answer"] if questions[0] > 0 else []
    repairs += ["cut_after_last_answer"] if answers[-1] < len(talk) - 1 else []
    return talk[questions[0] : answers[-1] + 1]


def _merged(talk: list[tuple[str, str]], repairs: list[str]) -> list[tuple[str, str]]:
    found: list[tuple[str, str]] = []
    for role, text in talk:
        if found and found[-1][0] == role:
            found[-1] = (role, f"{found[-1][1]}\n\n{text}")
            repairs.append("merged_same_role")
        else:
            found.append((role, text))
    return found
