"""A row with several answers of which one is preferred: that one is taken, the others are left out, with a repair code."""

from typing import Any

from mistral_lib.shapes.cells import Cells, Content, NoFitError, UnmappableError, first_of, is_empty
from mistral_lib.shapes.chats import chat, human_assistant
from mistral_lib.shapes.contents import text_of
from mistral_lib.shapes.pairs import asked, history, side
from mistral_lib.shapes.turns import Turn, is_turn_list, turns, written_turns

REPAIR = "chosen_of_preference"
QUESTIONS = ("prompt", "question", "instruction", "query", "input", "context", "text")
CHATS = ("conversations", "messages", "conversation", "context_messages")
# Keys of two answers, the first and the second
TWO = (("response_a", "response_b"), ("response_1", "response_2"), ("response1", "response2"), ("response_0", "response_1"),
       ("answer_a", "answer_b"), ("answer1", "answer2"), ("completion_a", "completion_b"), ("output_1", "output_2"),
       ("answer_0", "answer_1"), ("completion_1", "completion_2"), ("output_a", "output_b"))  # fmt: skip
VERDICTS = ("preference", "preferred", "winner", "better_response_id", "overall_preference", "choice", "chosen", "label")
LISTS = ("responses", "completions", "generations", "candidates", "answers", "outputs", "output")
RANKS = ("ranks", "rank", "ranking")  # the smallest is best
SCORES = ("scores", "score", "rewards", "ratings", "overall_scores")  # the largest is best
OWN_SCORES = ("overall_score", "score", "rating", "reward", "pm_score")
OWN_RANKS = ("rank", "ranking")
COUNTED = ("label", "choice", "chosen")  # whose 1 may be the first answer, or the second counted from 0


def chosen(cells: Cells) -> Content:
    """A chosen answer; the rejected one is left out. Errors: NoFitError if the cell only rates the answer beside it."""
    if isinstance(cells.values["chosen"], bool | int | float):
        raise NoFitError
    return _preferred(cells, _chosen_value(cells.take("chosen")), "rejected")


def _chosen_value(value: Any) -> Any:
    value = written_turns(value) or value
    return [value] if isinstance(value, dict) and is_turn_list([value]) else value


def _preferred(cells: Cells, answer: Any, *left_out: str) -> Content:
    cells.use(*left_out)
    if isinstance(answer, list) and is_turn_list(answer):
        answered = turns(answer, cells.left_in_turns)
        if any(turn.role == "user" for turn in answered):  # a complete conversation
            cells.use(*QUESTIONS, *CHATS)
            return chat(cells, answered, REPAIR)
    else:
        answered = []
    question = _question(cells)
    if question:
        return chat(cells, [*history(cells), *question, *(answered or side("assistant", answer))], REPAIR)
    spoken = answered or human_assistant(text_of(answer))
    if not spoken:
        raise UnmappableError("preference_without_prompt")
    return chat(cells, spoken, REPAIR)


def _question(cells: Cells) -> list[Turn]:
    for key in CHATS:
        if key in cells:
            return turns(cells.take(key), cells.left_in_turns)
    key = next((name for name in QUESTIONS if name in cells), None)
    return [] if key is None else asked(cells, side("user", cells.take(key)))


def better_and_worse(better: str, worse: str) -> Any:
    """A builder for two answers whose keys say which is better."""
    return lambda cells: _preferred(cells, cells.take(better), worse)


def two_answers(first: str, second: str) -> Any:
    """A builder for two answers and a cell that says which is better. Errors: UnmappableError if none does, or for a tie; NoFitError if
    there is a third one, which makes them the options of a question."""
    others = (f"{first[:-1]}{'c' if first[-1] == 'a' else int(first[-1]) + 2}", f"{first[:-1]}0")

    def build(cells: Cells) -> Content:
        if any(other in cells for other in others if other != first):
            if first.startswith("answer"):
                raise NoFitError
            raise UnmappableError("several_answers_without_a_rank")
        key = next((name for name in VERDICTS if name in cells), None)
        if key is None:
            raise UnmappableError("several_answers_without_a_rank")
        better = _better(key, cells.take(key), first, second)
        return _preferred(cells, cells.take(better), first, second)

    return build


def _better(key: str, verdict: Any, first: str, second: str) -> str:
    """The key of the better answer. Errors: UnmappableError."""
    word = str(verdict).strip().lower()
    if key == "overall_preference" and isinstance(verdict, int | float):  # HelpSteer: below 0 the first is better
        if verdict == 0:
            raise UnmappableError("preference_is_a_tie")
        return first if verdict < 0 else second
    names = {first: first, second: second, first[-1]: first, second[-1]: second, "first": first, "second": second, "a": first, "b": second,
             f"model_{first[-1]}": first, f"model_{second[-1]}": second, "model_a": first, "model_b": second}  # fmt: skip
    if word == "1" and key in COUNTED and first[-1] == "1":
        raise UnmappableError("preference_does_not_say_which")
    if word in names:
        return names[word]
    if word in ("0", "1", "2") and {first[-1], second[-1]} == {"a", "b"}:
        raise UnmappableError("preference_does_not_say_which")  # counted from 0 or from 1?
    raise UnmappableError("preference_is_a_tie" if "tie" in word or word == "both" else "preference_does_not_say_which")


def ranked(question_key: str, list_key: str) -> Any:
    """A builder for a list of answers with their ranks or scores. Errors: NoFitError if there are none."""

    def build(cells: Cells) -> Content:
        answers = cells.take(list_key)
        if not isinstance(answers, list) or len(answers) < 2:
            raise NoFitError
        if isinstance(labels := cells.values.get("labels"), list) and len(labels) == len(answers):  # steps, or several that are right
            raise UnmappableError("several_answers_without_a_rank")
        best = _best(cells, answers)
        return _preferred(cells, _answer(answers[best]))

    return build


def _best(cells: Cells, answers: list[Any]) -> int:
    """The place of the answer with the smallest rank or the largest score."""
    for keys, sign in ((RANKS, -1), (SCORES, 1)):
        for key in keys:
            values = cells.values.get(key)
            if isinstance(values, list) and len(values) == len(answers) and all(isinstance(one, int | float) for one in values):
                cells.use(key)
                return max(range(len(values)), key=lambda place: sign * values[place])
    for keys, sign in ((OWN_RANKS, -1), (OWN_SCORES, 1)):
        own = [first_of(one, keys) if isinstance(one, dict) else None for one in answers]
        if all(isinstance(value, int | float) for value in own):
            return max(range(len(own)), key=lambda place: sign * own[place])
    raise NoFitError


def _answer(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    text = next(
        (value[key] for key in ("response", "text", "completion", "content", "output", "answer") if not is_empty(value.get(key))), None
    )
    if text is None:
        raise UnmappableError("no_answer_given")
    return text
