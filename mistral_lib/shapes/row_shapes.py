"""The table of all row shapes, and the first that fits a row: all its keys are filled, and its values are of the right kind.

To add a shape, add a line to SHAPES. For a shape that only one corpus has, use the parameter `columns` instead.
"""

from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from mistral_lib.shapes import annotations, chats, choices, documents, pairs, preferences
from mistral_lib.shapes.cells import Cells, Content, NoFitError, UnmappableError, is_empty
from mistral_lib.shapes.turns import is_turn_list

COLUMNS = ("prompt", "answer", "system", "context", "text", "title", "content", "messages", "tools", "label")  # what `columns` may name


class Shape(NamedTuple):
    name: str
    keys: tuple[str, ...]  # all must be filled
    build: Callable[[Cells], Content]


class Shaped(NamedTuple):
    """What became of a row."""

    name: str  # of its shape
    content: Content
    unused: list[Any]  # keys of the row that were not used
    left_in_turns: set[str]  # keys of its turns or inner objects that were not used


CHATS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat", "message", "chat_history", "utterances",
         "rounds", "thread")  # fmt: skip
PROMPTS = ("prompt", "instruction", "question", "query", "pergunta", "pregunta", "frage", "domanda")
NAMES = {"instruction": "instruction", "question": "question_answer"}
OTHER_PAIRS = [("input", "output"), ("inputs", "targets"), ("input", "target"), ("inputs", "outputs"), ("input", "response"),
               ("input", "answer"), ("source", "target"), ("src", "tgt"), ("user", "assistant"), ("human", "assistant"),
               ("human", "bot"), ("human", "gpt"), ("user", "bot"), ("q", "a"), ("problem", "solution"), ("problem", "answer"),
               ("question", "solution"), ("body", "answer"), ("body", "response"), ("body", "reply"), ("title", "answer"),
               ("question", "correct_answer"), ("text", "target"), ("text", "completion"), ("text", "response"), ("text", "output"),
               ("text", "answer"), ("content", "answer"), ("content", "response")]  # fmt: skip
SUMMARIES = product(("article", "document", "text", "content", "body", "report", "maintext"),
                    ("summary", "highlights", "abstract", "tldr"))  # fmt: skip
TEXTS = ("text", "sentence", "review", "utterance", "tweet", "comment", "headline", "email", "message", "content", "post", "review_text",
         "body", "prompt", "question", "instruction", "input", "title")  # fmt: skip
TWO_TEXTS = (("premise", "hypothesis"), ("sentence1", "sentence2"), ("sentence_1", "sentence_2"), ("question1", "question2"),
             ("text1", "text2"), ("claim", "evidence"), ("question", "sentence"), ("text_a", "text_b"),
             ("question", "passage"))  # fmt: skip
LABELS = ("label_text", "label_name", "class_name", "gold_label", "label", "labels", "class", "sentiment", "intent", "emotion",
          "classification", "stance", "polarity", "verdict", "annotation")  # fmt: skip
TOPICS = ("category", "topic", "stars", "rating", "tag")  # beside a long text these are often only about it
SHORT_TEXTS = ("sentence", "review", "utterance", "tweet", "comment", "headline", "email", "message", "post", "review_text", "question")
OPTIONS = (
    *((key,) for key in choices.LISTS),
    *product(choices.ANSWER_LISTS, choices.PLACES),
    *(columns[:2] for columns in choices.COLUMNS),
)
DOCUMENTS = ("text", "content", "page_content", "raw_content", "body")


def _pairs() -> Iterator[Shape]:
    for question, answer in (*product(PROMPTS, chats.ANSWERS), *OTHER_PAIRS):
        yield Shape(NAMES.get(question, "prompt_completion"), (question, answer), pairs.pair(question, answer))
    yield Shape("prompt_completion", ("text", "code"), pairs.code)
    yield Shape("instruction", ("instruction", "instances"), pairs.instances)
    for text, summary in SUMMARIES:
        yield Shape("text_summary", (text, summary), pairs.summary(text, summary))


def _labels() -> Iterator[Shape]:
    for texts, label in product(TWO_TEXTS, LABELS):
        yield Shape("text_label", (*texts, label), pairs.labelled(texts, label))
    for text, label in (*product(TEXTS, LABELS), *product(SHORT_TEXTS, TOPICS)):
        yield Shape("text_label", (text, label), pairs.labelled((text,), label))


def _preferences() -> Iterator[Shape]:
    yield Shape("preference", ("chosen", "rejected"), preferences.chosen)
    yield Shape("preference", ("response_j", "response_k"), preferences.better_and_worse("response_j", "response_k"))
    for first, second in preferences.TWO:
        yield Shape("preference", (first, second), preferences.two_answers(first, second))
    for question in (*preferences.QUESTIONS, *preferences.CHATS):
        yield Shape("preference", (question, "chosen"), preferences.chosen)
    for question, answers in product(preferences.QUESTIONS, preferences.LISTS):
        yield Shape("preference", (question, answers), preferences.ranked(question, answers))


def _table_row(cells: Cells) -> Content:
    """A row of a table under `data`: one of the other shapes if its columns fit, otherwise a line per cell."""
    if "annotations" in cells.spelled.values():  # an empty list of them
        raise UnmappableError("task_without_annotation")
    inner = cells.values["data"]
    if isinstance(inner, dict) and (found := _first(inner, inner)) is not None and found.name != "data":
        cells.use("data")
        cells.left_in_turns.update(found.left_in_turns, (f"data.{key}" for key in found.unused))
        return found.content
    return documents.table_row(cells)


SHAPES: list[Shape] = [  # the first that fits is taken
    Shape("annotation", ("data", "annotations"), annotations.label_studio),
    Shape("annotation", ("fields", "responses"), annotations.argilla),
    Shape("annotation", ("text", "answer"), annotations.prodigy),
    *_preferences(),
    *(Shape("text_summary", (text, "summary"), pairs.summary(text, "summary")) for text in ("dialogue", "dialog")),
    *(Shape("messages" if key == "messages" else "conversations", (key,), chats.listed(key)) for key in CHATS[:7]),
    Shape("chat_export", ("mapping",), chats.chatgpt_export),
    Shape("chat_export", ("chat_messages",), chats.claude_export),
    Shape("reply_tree", ("prompt", "message_tree_id"), chats.reply_tree),
    *(
        Shape("multiple_choice", (question, *options), choices.multiple_choice(question))
        for question, options in product(choices.QUESTIONS, OPTIONS)
    ),
    *_pairs(),
    Shape("translation", ("translation",), pairs.translation),
    *_labels(),
    *(Shape("conversations", (key,), chats.listed(key)) for key in CHATS[7:]),
    *(Shape(key if key == "text" else "content", (key,), documents.titled(key)) for key in DOCUMENTS),
    *(Shape("turn", keys, documents.single_turn) for keys in (("from", "value"), ("speaker", "utterance"), ("role", "value"))),
    Shape("data", ("data",), _table_row),
]


def shaped(value: Mapping[str, Any], columns: Mapping[str, str]) -> Shaped:
    """What a row becomes. columns: which key of the row is the `prompt`, the `answer`, … Errors: UnmappableError."""
    named = _named(value, columns) if columns else {}
    if named:
        rest = {key: part for key, part in value.items() if key not in columns.values()}
        target = {own: key for key, own in columns.items()}
        for row in (named, {**rest, **named}):  # the columns take precedence over the keys
            if (found := _first(row, {**rest, **named})) is not None:
                unused = [key for key in value if target.get(key, key) in found.unused]
                return found._replace(name="columns", unused=unused)
    found = _first(value, value) or _first(value, value, every=True)
    if found is None:
        raise UnmappableError("unknown_shape" if value else "empty_row")
    return found


def _named(value: Mapping[str, Any], columns: Mapping[str, str]) -> dict[str, Any]:
    return {target: value[column] for target, column in columns.items() if not is_empty(value.get(column))}


def _first(keys_of: Mapping[str, Any], value: Mapping[str, Any], every: bool = False) -> Shaped | None:
    """The first shape whose keys are in `keys_of`, built from `value`. every: empty cells count too, and give the reason."""
    cells = Cells(value, every)
    filled = cells.values if keys_of is value else Cells(keys_of, every).values
    for shape in fitting(tuple(filled)):
        try:
            content = shape.build(cells)
        except NoFitError:
            cells = Cells(value, every)  # none of them is used
            continue
        return Shaped(shape.name, content, cells.unused(), cells.left_in_turns)
    return None if every else _unknown_list(value)


def _unknown_list(value: Mapping[str, Any]) -> Shaped | None:
    """A row of no known shape with one list of turns, whatever its key is."""
    if sum(map(is_turn_list, value.values())) != 1:
        return None
    cells = Cells(value)
    content = chats.unknown_list(cells)
    return Shaped("conversations", content, cells.unused(), cells.left_in_turns)


@lru_cache(maxsize=4096)
def fitting(filled: tuple[str, ...]) -> list[Shape]:
    """The shapes whose keys are all filled, in their order."""
    keys = set(filled)
    return [shape for shape in SHAPES if keys.issuperset(shape.keys)]
