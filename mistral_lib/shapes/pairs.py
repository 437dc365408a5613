"""A row with a question and its answer, or a text and its label."""

from collections.abc import Callable, Sequence
from typing import Any

from mistral_lib.shapes.cells import Cells, Content, NoFitError, UnmappableError, as_json, is_empty, parsed_json
from mistral_lib.shapes.chats import chat, human_assistant, lone_turn, marked
from mistral_lib.shapes.contents import REASONING_REPAIR, text_of, value_text, with_reasoning
from mistral_lib.shapes.tools import written_calls
from mistral_lib.shapes.turns import Turn, is_turn_list, turns, written_turns

Builder = Callable[[Cells], Content]

# What the question is about, beside it
CONTEXT = ("input", "context", "passage", "story", "knowledge", "background", "schema", "paragraph", "article", "create_table_statement",
           "support")  # fmt: skip
REASONING = ("reasoning_content", "reasoning", "thinking", "complex_cot", "chain_of_thought", "cot", "rationale", "thoughts", "thought")
CONTEXT_KEYS, REASONING_KEYS = frozenset(CONTEXT), frozenset(REASONING)
ALTERNATIVES = ("answer", "answers", "aliases", "short_answers")  # a list in one of these cells: several right answers
LONG_TEXTS = ("text", "content", "body", "review", "review_text", "post")  # a title beside one of these belongs to it
MISSING_LABEL = (-1, "-1")  # what the columns in HIDDEN have in test sets; a sentiment may be -1
HIDDEN = ("label", "labels", "class", "gold_label")
HEADS = ("title", "subject")  # of a body


def pair(question_key: str, answer_key: str) -> Builder:
    """A builder for a question and its answer, each a text or a list of messages, with everything beside them that belongs to it."""

    def build(cells: Cells) -> Content:
        if "parent_id" in cells.values and any(key in cells for key in ("id", "message_id")):
            raise UnmappableError("earlier_turns_are_in_other_rows")
        question = asked(cells, side("user", cells.take(question_key)), *_body(cells, question_key))
        if question_key in LONG_TEXTS and isinstance(title := cells.optional(*HEADS), str) and len(question) == 1:
            question = [question[0]._replace(text=f"{title.strip()}\n\n{question[0].text}")]
        answer, repairs = answered(cells, answer_key)
        return chat(cells, [*history(cells), *question, *answer], *repairs)

    return build


def _body(cells: Cells, question_key: str) -> list[str]:
    """The body of a mail or a post whose title is the question."""
    body = cells.optional("body") if question_key in (*HEADS, "question") else None
    return [body] if isinstance(body, str) else []


def code(cells: Cells) -> Content:
    """A task as a text and the code that solves it. Errors: NoFitError if the code is the code of a thing: `FR`, `E12`."""
    found = cells.values["code"]
    if not isinstance(found, str) or not ("(" in found or "\n" in found.strip()):
        raise NoFitError
    return pair("text", "code")(cells)


def summary(text_key: str, summary_key: str) -> Builder:
    """A builder for a text and its summary. Errors: NoFitError if the text is a list of turns."""

    def build(cells: Cells) -> Content:
        if not isinstance(cells.values[text_key], str) or not isinstance(cells.values[summary_key], str):
            raise NoFitError
        return pair(text_key, summary_key)(cells)

    return build


def side(role: str, value: Any) -> list[Turn]:
    """One side of a pair: a text, a list of messages, or one message."""
    value = written_turns(value) or value
    if isinstance(value, str):
        return (_dialogue(value) if role == "user" else []) or [Turn(role, value)]
    if isinstance(value, dict) and is_turn_list([value]):
        value = [value]
    if isinstance(value, list) and value and all(isinstance(part, dict) and "type" not in part for part in value):
        return turns(value) if is_turn_list(value) else [Turn(role, text_of(value))]
    return [Turn(role, text_of(value))]


def _dialogue(text: str) -> list[Turn]:
    """The turns of a prompt as hh-rlhf writes it, from `Human:` to an open `Assistant:`; none for another text."""
    if not text.lstrip().startswith("Human:") or not text.rstrip().endswith("\n\nAssistant:"):
        return []
    return human_assistant(text.rstrip().removesuffix("\n\nAssistant:"))


def asked(cells: Cells, question: Sequence[Turn], *parts: str) -> list[Turn]:
    """The question with the parts that belong to it, and the cells that it is about, at the end of its last text."""
    if not parts and not cells.has_any(CONTEXT_KEYS):
        return list(question)
    found = [value_text(value) for key in CONTEXT if key not in cells.used and (value := cells.optional(key)) is not None]
    if not (found := [*found, *parts]) or not question:
        return list(question)
    *before, last = question
    return [*before, last._replace(text="\n\n".join(part for part in (last.text, *found) if part))]


def history(cells: Cells) -> list[Turn]:
    """Alpaca's earlier rounds: [[question, answer], …], or a list of turns; a text is read as a dialogue or as a system text."""
    if "history" not in cells:
        return []
    found = cells.optional("history")
    if isinstance(found, str):
        if (given := parsed_json(found)) is None:
            return marked(found) or [Turn("system", found)]
        found = given
    if is_empty(found):
        return []
    is_pairs = isinstance(found, list) and all(isinstance(one, list | tuple) and len(one) == 2 for one in found)
    if not is_pairs and not is_turn_list(found):
        raise UnmappableError("history_is_not_pairs")
    return turns(found)


def answered(cells: Cells, key: str) -> tuple[list[Turn], list[str]]:
    """The answer, after its reasoning if a cell has one, and the repairs."""
    value, repairs = cells.take(key), []
    if "tools" in cells and isinstance(value, str) and value.lstrip()[:1] in ("[", "{") and (calls := written_calls(value)):
        return [Turn("assistant", "", "", calls)], repairs
    if not isinstance(value, str):
        value, repairs = _one_answer(key, value)
    found = side("assistant", value)
    reasoning = cells.optional(*REASONING) if cells.has_any(REASONING_KEYS) else None
    if reasoning is not None and len(found) == 1 and not found[0].calls and not found[0].text.lstrip().startswith("<think>"):
        return [found[0]._replace(text=with_reasoning(reasoning, found[0].text))], [*repairs, REASONING_REPAIR]
    return found, repairs


def _one_answer(key: str, value: Any) -> tuple[Any, list[str]]:
    """One answer of several right ones; an object or a number as JSON. Errors: UnmappableError for a list that could be a ranking."""
    if isinstance(value, dict) and not is_turn_list([value]) and isinstance(value.get("text"), list):
        scores = value.get("score")
        key, value = "answers", value["text"]  # of SQuAD: {"text": [answer, …], "answer_start": […]}
        if value and isinstance(scores, list) and len(scores) == len(value) and all(isinstance(one, int | float) for one in scores):
            return value[scores.index(max(scores))], ["best_of_several_answers"]  # of ELI5
    if isinstance(value, dict) and not is_turn_list([value]):
        return next((value[name] for name in ("text", "value") if isinstance(value.get(name), str)), None) or as_json(value), []
    if not isinstance(value, list):
        return value if isinstance(value, dict) else as_json(value), []
    if is_turn_list(value) or (value and all(isinstance(part, dict) and "type" in part for part in value)):
        return value, []
    texts = [text for text in map(_answer_text, value) if text is not None and not is_empty(text)]
    if not texts:
        raise UnmappableError("no_answer_given")
    if len(set(texts)) > 1 and key not in ALTERNATIVES:
        raise UnmappableError("several_answers_without_a_rank")
    return texts[0], ["first_of_several_answers"] if len(set(texts)) > 1 else []


def _answer_text(value: Any) -> str | None:
    if isinstance(value, dict):
        return next((value[key] for key in ("text", "answer", "value", "content") if isinstance(value.get(key), str)), None)
    return value if isinstance(value, str) else as_json(value)


def labelled(text_keys: Sequence[str], label_key: str) -> Builder:
    """A builder for one or more texts and their label. Several texts are named, since their order means something."""

    def build(cells: Cells) -> Content:
        if (isinstance(cells.values[label_key], dict) or "message_id" in cells) and lone_turn(cells):  # labels of a message
            raise UnmappableError("single_turn_of_a_conversation")
        texts = [(key, text_of(cells.take(key))) for key in text_keys]
        title = cells.optional("title") if text_keys[0] in LONG_TEXTS else None
        if isinstance(title, str):
            texts[0] = (texts[0][0], f"{title.strip()}\n\n{texts[0][1]}")
        question = texts[0][1] if len(texts) == 1 else "\n\n".join(f"{key}: {text}" for key, text in texts)
        return chat(cells, [Turn("user", question), Turn("assistant", _label(label_key, cells.take(label_key)))])

    return build


def _label(key: str, value: Any) -> str:
    if value in MISSING_LABEL and key in HIDDEN:
        raise UnmappableError("label_is_missing")
    if isinstance(value, list):
        return ", ".join(map(value_text, value))
    return value_text(value)


def instances(cells: Cells) -> Content:
    """Self-instruct's instruction with its instances; of several, the first."""
    found = cells.take("instances")
    first = found[0] if isinstance(found, list) and found else found
    if not isinstance(first, dict) or is_empty(first.get("output")):
        raise UnmappableError("no_answer_given")
    given = "" if is_empty(first.get("input")) else value_text(first["input"])
    question = "\n\n".join(part for part in (text_of(cells.take("instruction")), given) if part)
    repairs = ["first_of_several_answers"] if isinstance(found, list) and len(found) > 1 else []
    return chat(cells, [Turn("user", question), Turn("assistant", value_text(first["output"]))], *repairs)


def translation(cells: Cells) -> Content:
    """{"translation": {language: text, language: text}}: from the first language of the row to the second."""
    found = cells.take("translation")
    if not isinstance(found, dict) or len(found) != 2 or not all(isinstance(text, str) for text in found.values()):
        raise UnmappableError("translation_is_not_two_texts")
    (source, text), (target, translated) = found.items()
    return chat(cells, [Turn("user", f"{source}: {text}\n\n{target}:"), Turn("assistant", translated)])
