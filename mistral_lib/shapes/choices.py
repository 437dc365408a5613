"""A row with a multiple-choice question: the options belong to the question, and the answer is the letter and text of the right one."""

import re
from collections.abc import Callable
from typing import Any

from mistral_lib.shapes.cells import Cells, Content, NoFitError, UnmappableError, is_empty, parsed_json
from mistral_lib.shapes.chats import chat
from mistral_lib.shapes.contents import text_of, value_text
from mistral_lib.shapes.pairs import asked, side
from mistral_lib.shapes.turns import Turn

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
OPTION = re.compile(r"(?i)(?:option|choice)?[_ ]?[a-z0-9]")  # a key of an object of options
PLACE = re.compile(r"\(?(?:\d{1,2}|[A-Za-z])\)?\.?")
LISTS = ("choices", "options", "endings", "candidates", "mc_options")
COLUMNS = (("a", "b", "c", "d", "e"), ("option_a", "option_b", "option_c", "option_d", "option_e"), ("opa", "opb", "opc", "opd"),
           ("option1", "option2", "option3", "option4"), ("choice1", "choice2", "choice3", "choice4"),
           ("option_1", "option_2", "option_3", "option_4"), ("answer0", "answer1", "answer2", "answer3", "answer4"),
           ("answer_0", "answer_1", "answer_2", "answer_3"), ("answer_a", "answer_b", "answer_c", "answer_d", "answer_e"),
           ("answer1", "answer2", "answer3", "answer4"), ("answer_1", "answer_2", "answer_3", "answer_4"),
           ("answera", "answerb", "answerc", "answerd"))  # fmt: skip
FROM_ONE = "answera"  # of Social IQa, whose labels count from 1
BESIDE = ("premise", "hint")  # what the question is about, if it is not the question itself
QUESTIONS = ("question", "question_stem", "ctx", "sentence", "prompt", "query", "problem", "instruction", "premise")
ANSWERS = ("answerkey", "answer_key", "answer_idx", "answer_index", "correct_option", "correct", "cop", "answer", "label", "correct_answer",
           "output", "response", "completion", "target")  # fmt: skip
ANSWER_LISTS = ("answers", "answer")
PLACES = (*ANSWERS[:7], "label")  # cells that may name one of several `answers`


def _among_answers(cells: Cells) -> dict[str, str]:
    """The options in the cell `answers` (ReClor): a list, beside a cell that names one of them by its place or letter; none otherwise."""
    key = next((name for name in ANSWER_LISTS if isinstance(cells.values.get(name), list)), None)
    given = next((cells.values[name] for name in PLACES if name in cells), None)
    names_one = isinstance(given, int | str) and not isinstance(given, bool) and PLACE.fullmatch(str(given).strip())
    found = _listed(cells.values[key]) if key and names_one else {}
    if found:
        cells.use(key)
    return found


def options_of(cells: Cells) -> dict[str, str] | None:
    """`{letter or number: text}` of the options; None if the row has none."""
    for key in LISTS:
        if key in cells and (found := _listed(cells.values[key])):
            cells.use(key)
            return found
    if found := _among_answers(cells):
        return found
    for keys in COLUMNS:
        present = [key for key in keys if key in cells]
        if len(present) >= 2 and present == list(keys[: len(present)]):
            cells.use(*present)
            return {_name(key, number): value_text(cells.values[key]) for number, key in enumerate(present)}
    return None


def _name(key: str, number: int) -> str:
    return key[-1] if key[-1].isdigit() else LETTERS[number]


def _listed(value: Any) -> dict[str, str]:
    """The options of a cell: a list of texts, {"text": […], "label": […]}, {letter: text}, or a list of {"label", "text"}."""
    if isinstance(value, str):
        value = parsed_json(value)
    if isinstance(value, dict) and isinstance(value.get("text"), list):
        texts, names = value["text"], value.get("label")
    elif isinstance(value, dict) and all(OPTION.fullmatch(str(name)) for name in value):
        texts, names = list(value.values()), list(value)
    elif isinstance(value, list) and all(isinstance(one, dict) for one in value):
        texts, names = [one.get("text") for one in value], [one.get("label") for one in value]
    else:
        texts, names = value, None
    if (
        not isinstance(texts, list)
        or not 2 <= len(texts) <= len(LETTERS)
        or any(is_empty(text) or isinstance(text, dict | list) for text in texts)
    ):
        return {}
    is_named = isinstance(names, list) and len(names) == len(texts) and all(isinstance(name, str) and name for name in names)
    named = dict(zip(names if is_named else LETTERS, map(value_text, texts), strict=False))
    return named if len(named) == len(texts) else {}


def multiple_choice(question_key: str) -> Callable[[Cells], Content]:
    """A builder for a multiple-choice question. Errors: NoFitError if the cell of the options has none; UnmappableError."""

    def build(cells: Cells) -> Content:
        options = options_of(cells)
        if options is None:
            raise NoFitError
        lines = "\n".join(f"{name}. {text}" for name, text in options.items())
        question = side("user", cells.take(question_key))
        beside = [value_text(cells.take(key)) for key in BESIDE if key in cells and key not in cells.used]
        question = asked(cells, question, *beside, lines)
        key = next((name for name in ANSWERS if name in cells and name not in cells.used), None)
        if key is None:
            raise UnmappableError("no_answer_given")
        given = cells.take(key)
        if FROM_ONE in cells and str(given).strip().isdecimal():
            given = int(given) - 1
        answer = _right(given, options, counted=key == "label")
        if cells.values.get("answer") in options.values():
            cells.use("answer")  # beside answer_idx: the same option as text
        return chat(cells, [*question, Turn("assistant", answer)])

    return build


def _right(given: Any, options: dict[str, str], counted: bool) -> str:
    """The right option as it is listed; a text that is no option is kept as the answer. counted: a number counts from 0, although it
    is the name of an option too. Errors: UnmappableError."""
    if isinstance(given, list) and len(given) == 1:
        given = given[0]
    if isinstance(given, float) and given.is_integer():
        given = int(given)
    word = str(given).strip() if isinstance(given, int | str) else text_of(given)
    if isinstance(given, bool):
        raise UnmappableError("answer_is_no_option")
    from_one = next(iter(options)) == "1" and not counted  # the options are named by their numbers
    by_number = (isinstance(given, int) and not from_one) or (counted and word.isdecimal())
    name = None if by_number else _named(word, options)
    if name is None and word.lstrip("-").isdecimal():
        if from_one or not 0 <= int(word) < len(options):
            raise UnmappableError("label_is_missing" if word == "-1" else "answer_is_no_option")
        name = list(options)[int(word)]  # as in the data sets of the hub
    if name is None and len(word) == 1 and word.isalpha():
        raise UnmappableError("answer_is_no_option")
    return word if name is None else f"{name}. {options[name]}"


def _named(word: str, options: dict[str, str]) -> str | None:
    """The name of the option that a word is, or whose text it is."""
    names = {name.upper(): name for name in options}
    same = (name for name, text in options.items() if text.strip() == word)
    return names.get(word.upper().strip("().: ")) or next(same, None)
