"""The text of a message: a string, a list of parts as in the APIs of OpenAI and Anthropic, and the reasoning beside it."""

from collections.abc import Mapping
from typing import Any

from mistral_lib.shapes.cells import UnmappableError, as_json, first_of, is_empty

TEXT_PARTS = ("text", "input_text", "output_text", "")
# Parts that are no text: the reason names their kind
OTHER_PARTS = {
    "image": "image", "image_url": "image", "input_image": "image", "audio": "audio", "input_audio": "audio", "video": "video",
    "video_url": "video", "file": "file", "input_file": "file", "document": "file", "tool_use": "tool_call", "tool_result": "tool_result",
}  # fmt: skip
REASONING = ("reasoning_content", "reasoning", "thinking", "thought", "thoughts")  # keys of a turn, and kinds of parts
REASONING_KEYS = frozenset(REASONING)
REASONING_REPAIR = "reasoning_as_think_text"


def text_of(content: Any) -> str:
    """Text as it is, or the text parts of a list of parts joined. Errors: UnmappableError, naming the kind of a part that is no text."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        return "\n".join(_part_text(part) for part in content if not _is_reasoning(part))
    if isinstance(content, dict) and isinstance(content.get("parts"), list):  # of a ChatGPT export
        return text_of(content["parts"])
    if isinstance(content, dict) and isinstance(content.get("text"), str):
        return content["text"]
    raise UnmappableError("text_is_not_a_string")


def _is_reasoning(part: Any) -> bool:
    """Whether a part is read by `reasoning_of`."""
    return isinstance(part, dict) and part.get("type") in REASONING


def _part_text(part: Any) -> str:
    if isinstance(part, str):
        return part
    if not isinstance(part, dict):
        raise UnmappableError("content_part_is_unknown")
    kind = part.get("type") or ""
    text = part.get("text")
    if kind in TEXT_PARTS and isinstance(text, str):
        return text
    raise UnmappableError(f"content_part_is_{OTHER_PARTS.get(kind, 'unknown') if isinstance(kind, str) else 'unknown'}")


def value_text(value: Any) -> str:
    """Any cell as text: parts joined, another value as JSON."""
    if isinstance(value, str):
        return value
    is_parts = isinstance(value, list) and all(isinstance(part, dict) and isinstance(part.get("text"), str) for part in value)
    return text_of(value) if is_parts and value else as_json(value)


def reasoning_of(turn: Mapping[str, Any], content: Any) -> str:
    """The reasoning of a turn: in a key of its own, or as parts of its content; "" if it has none."""
    own = None if REASONING_KEYS.isdisjoint(turn) else first_of(turn, REASONING)
    if own is None and isinstance(content, list):
        parts = filter(_is_reasoning, content)
        own = "\n".join(text for part in parts if isinstance(text := first_of(part, (*REASONING, "text")), str))
    return "" if is_empty(own) else value_text(own).strip()


def with_reasoning(reasoning: Any, text: str) -> str:
    """The answer after its reasoning, which is written as models that reason write it."""
    return f"<think>\n{value_text(reasoning).strip()}\n</think>\n\n{text}"
