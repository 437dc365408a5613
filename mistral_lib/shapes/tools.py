"""Tools and tool calls in one form: OpenAI's, with parameters and arguments as objects.

A tool is {"type": "function", "function": {"name", "description", "parameters"}}, a call {"id", "type": "function", "function":
{"name", "arguments"}}; the id is left out if the row has none. Sources: the APIs of OpenAI and Anthropic; transformers, "Tool use".
"""

import hashlib
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import orjson

from mistral_lib.shapes.cells import UnmappableError, as_json, is_empty, parsed_json, without_nulls

Tool = dict[str, Any]
Call = dict[str, Any]
PARAMETERS = ("parameters", "input_schema", "inputSchema")
ARGUMENTS = ("arguments", "input", "parameters", "args")
DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
ID_LENGTH = 9  # of the ids of Mistral's calls


def tools_of(value: Any) -> list[Tool] | None:
    """The tools in a cell; None if it does not define tools. A text is parsed, and keeps its nulls. Errors: UnmappableError."""
    value = parsed_json(value) if isinstance(value, str) else without_nulls(value)
    if isinstance(value, dict):
        value = [value]
    if not isinstance(value, list):
        return None
    found = [_tool(parsed_json(one) if isinstance(one, str) else one) for one in value]
    if not found or None in found:
        return None
    as_json(found)  # they can be written
    return found


def _tool(value: Any) -> Tool | None:
    if not isinstance(value, dict):
        return None
    function = value.get("function", value)
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        return None
    parameters = next((function[key] for key in PARAMETERS if isinstance(function.get(key), dict)), {})
    description = function.get("description")
    rest = {key: part for key, part in function.items() if key not in ("name", "description", "type", *PARAMETERS)}
    own = {"name": function["name"], "description": description if isinstance(description, str) else "", "parameters": parameters}
    return {"type": "function", "function": {**own, **rest}}


def calls_of(turn: Mapping[str, Any]) -> list[Call]:
    """The tool calls of a turn. Errors: UnmappableError."""
    calls = turn.get("tool_calls")
    if is_empty(calls):
        calls = [turn["function_call"]] if not is_empty(turn.get("function_call")) else []
    if isinstance(calls, str):
        calls = parsed_json(calls)
    if isinstance(calls, list):
        calls = [call for call in calls if not _is_void(call)]
    if not isinstance(calls, list) or not all(isinstance(call, dict) for call in calls):
        raise UnmappableError("tool_calls_are_not_a_list_of_objects")
    return [call_of(call) for call in calls]


def _is_void(value: Any) -> bool:
    """Whether a call has no value at all: Arrow gives a turn without a call the keys of the calls of other turns."""
    return value is None or (isinstance(value, dict) and bool(value) and all(map(_is_void, value.values())))


def call_of(value: Mapping[str, Any]) -> Call:
    """One call in the form of this module. Errors: UnmappableError."""
    function = value["function"] if value.get("function") is not None else value
    if not isinstance(function, dict) or not isinstance(function.get("name"), str):
        raise UnmappableError("tool_call_without_a_name")
    given = next((function[key] for key in ARGUMENTS if function.get(key) is not None), {})
    call = {"type": "function", "function": {"name": function["name"], "arguments": _arguments(given)}}
    line_of(call)  # it can be written
    number = value.get("id")
    return {"id": number, **call} if isinstance(number, str) and number not in ("", "null") else call


def _arguments(given: Any) -> Any:
    """As an object. OpenAI writes them as JSON in a string; text that is not JSON is kept as text."""
    if not isinstance(given, str):
        return without_nulls(given)
    if not given.strip():
        return {}
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(given)
    return given


def written_calls(text: str) -> list[Call]:
    """The calls that a text consists of, as JSON: one object, a list of them, or one a line; none if it is something else."""
    found = parsed_json(text)
    if found is None:
        found = [parsed_json(line) for line in text.split("\n") if line.strip()]
    found = found if isinstance(found, list) else [found]
    with suppress(UnmappableError):
        return [call_of(one) for one in found] if all(isinstance(one, dict) for one in found) else []
    return []


def line_of(call: Call) -> str:
    """A call as a line of JSON with its name and arguments. Errors: UnmappableError if it is nested too deep."""
    return as_json(call["function"])


def call_id(seed: str) -> str:
    """An id as Mistral's models write them, nine letters and digits, that depends only on the seed."""
    number = int.from_bytes(hashlib.sha256(seed.encode("utf-8", "surrogatepass")).digest()[:8])
    found = ""
    for _ in range(ID_LENGTH):
        number, digit = divmod(number, len(DIGITS))
        found += DIGITS[digit]
    return found
