"""Turns in regular order: a system text, then a question first and a graded answer at the end. Every change has a repair code."""

from collections.abc import Iterable
from typing import Any

from mistral_lib.shapes.cells import UnmappableError, trimmed
from mistral_lib.shapes.tools import call_id, line_of
from mistral_lib.shapes.turns import Turn, as_text

# {"role": system | user | assistant | tool, "content": text}. An assistant's may have `tool_calls` (see tools.py), and `graded`: False if
# it is not to be learned; a tool's has `tool_call_id`, and `name` if the row has one.
Message = dict[str, Any]


def regular(given: Iterable[Turn]) -> tuple[list[Message], tuple[str, ...]]:
    """The messages and the codes of the repairs. Errors: UnmappableError if no question with a graded answer is left."""
    repairs: list[str] = []
    sound = [_sound(turn, repairs) for turn in given]
    found = _system_first([turn for turn in sound if turn.text or turn.role != "system"], repairs)
    system, talk = (found[:1], found[1:]) if found and found[0].role == "system" else ([], found)
    talk = _from_question_to_answer(_with_calls_before_results(talk), repairs)
    if any(not (turn.text or turn.calls or turn.role == "tool") for turn in talk):
        raise UnmappableError("empty_message")
    messages = [_message(turn) for turn in [*system, *_merged(talk, repairs)]]
    if any(turn.calls or turn.role == "tool" for turn in talk):
        _number_calls(messages)
    return messages, tuple(dict.fromkeys(repairs))


def _sound(turn: Turn, repairs: list[str]) -> Turn:
    text = _without_lead(trimmed(turn.text), repairs)
    return turn if text == turn.text else turn._replace(text=text)


def _message(turn: Turn) -> Message:
    message: Message = {"role": turn.role, "content": turn.text}
    if turn.calls:
        message["tool_calls"] = list(turn.calls)
    if not turn.graded:
        message["graded"] = False
    if turn.role == "tool":
        message["tool_call_id"] = turn.call_id
        if turn.name:
            message["name"] = turn.name
    return message


def _without_lead(text: str, repairs: list[str]) -> str:
    """The text without the one blank with which completions of older formats begin, since a chat template adds its own. If another line
    is indented too, the blank is layout and is kept."""
    if not text.startswith(" ") or text[1].isspace() or "\n " in text:
        return text
    repairs.append("leading_blank_removed")
    return text[1:]


def _system_first(given: list[Turn], repairs: list[str]) -> list[Turn]:
    """System texts at the start are joined. A later one becomes a user message in its place: moved to the start, it
    would change the context of the answers before it."""
    start = next((number for number, turn in enumerate(given) if turn.role != "system"), len(given))
    leading = [turn.text for turn in given[:start]]
    found = [Turn("system", "\n\n".join(leading))] if leading else []
    repairs += ["merged_same_role"] if len(leading) > 1 else []
    for turn in given[start:]:
        later = turn.role == "system"
        repair = "later_system_as_user" if later else turn.repair
        repairs += [repair] if repair else []
        found.append(turn._replace(role="user") if later else turn)
    return found


def _with_calls_before_results(talk: list[Turn]) -> list[Turn]:
    """A tool's result that follows no call becomes a user's text: no chat format has a place for it."""
    if not any(turn.role == "tool" for turn in talk):
        return talk
    found: list[Turn] = []
    for turn in talk:
        before = found[-1] if found else None
        answers_call = before is not None and (before.role == "tool" or bool(before.calls))
        found.append(as_text(turn) if turn.role == "tool" and not answers_call else turn)
    return found


def _from_question_to_answer(talk: list[Turn], repairs: list[str]) -> list[Turn]:
    answers = [number for number, turn in enumerate(talk) if turn.role == "assistant"]
    questions = [number for number, turn in enumerate(talk) if turn.role == "user"]
    if not answers or (questions and questions[0] > answers[-1]):
        raise UnmappableError("no_answer_at_the_end")
    if not questions:
        raise UnmappableError("no_question")
    graded = [number for number in answers if talk[number].graded and number > questions[0]]
    if not graded:
        raise UnmappableError("no_graded_answer")
    repairs += ["tool_output_as_user"] if any(turn.repair == "tool_output_as_user" for turn in talk) else []
    repairs += ["dropped_leading_answer"] if questions[0] > 0 else []
    repairs += ["cut_after_last_graded_answer"] if graded[-1] < answers[-1] else []
    repairs += ["cut_after_last_answer"] if graded[-1] == answers[-1] < len(talk) - 1 else []
    return talk[questions[0] : graded[-1] + 1]


def _merged(talk: list[Turn], repairs: list[str]) -> list[Turn]:
    """Neighbors of one role as one turn. Of two answers to one question, one that is not graded is left out."""
    found: list[Turn] = []
    for turn in talk:
        last = found[-1] if found else None
        if last is None or last.role != turn.role or turn.role == "tool":
            found.append(turn)
        elif last.graded != turn.graded:
            found[-1] = turn if turn.graded else last
            repairs.append("ungraded_answer_left_out")
        else:
            text = "\n\n".join(part for part in (last.text, turn.text) if part)
            found[-1] = last._replace(text=text, calls=[*last.calls, *turn.calls])
            repairs.append("merged_same_role")
    return found


def _number_calls(messages: list[Message]) -> None:
    """Gives results the ids of their calls, in order, if the row has none; calls get an id only if a result refers to them."""
    waiting: list[dict[str, Any]] = []
    for number, message in enumerate(messages):
        if message["role"] == "assistant":
            calls = message.get("tool_calls", [])
            followed = number + 1 < len(messages) and messages[number + 1]["role"] == "tool"
            waiting = message["tool_calls"] = [_with_id(call, f"{number} {place}", followed) for place, call in enumerate(calls)]
            if not calls:
                del message["tool_calls"]
        elif message["role"] == "tool":
            own = next((call for call in waiting if call.get("id") == message["tool_call_id"]), waiting[0] if waiting else None)
            message["tool_call_id"] = message["tool_call_id"] or (own or {}).get("id") or call_id(f"{number}")
            waiting = [call for call in waiting if call is not own]


def _with_id(call: dict[str, Any], place: str, followed: bool) -> dict[str, Any]:
    return {"id": call_id(f"{place} {line_of(call)}"), **call} if followed and "id" not in call else call


def is_learned(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("graded", True)


def words_of(message: Message) -> str:
    """What an assistant's message says: its text, then each of its tool calls as a line of JSON."""
    calls = message.get("tool_calls")
    return message["content"] if not calls else "\n\n".join(part for part in (message["content"], *map(line_of, calls)) if part)
