"""A row of an annotation tool: a task, and what a person wrote or chose. Sources: the JSON exports of Label Studio, Argilla and Prodigy."""

from collections.abc import Mapping
from typing import Any

from mistral_lib.shapes.cells import Cells, Content, NoFitError, UnmappableError, as_json, is_empty
from mistral_lib.shapes.chats import chat
from mistral_lib.shapes.contents import value_text
from mistral_lib.shapes.grading import rating
from mistral_lib.shapes.pairs import side
from mistral_lib.shapes.turns import Turn

REPAIR = "answer_by_annotation"
DECISIONS = ("accept", "reject", "ignore")  # of Prodigy
QUESTIONS = ("prompt", "question", "instruction", "text", "input", "sentence", "content", "query")
ANSWERS = ("response", "answer", "output", "completion", "target")


def label_studio(cells: Cells) -> Content:
    """A task under `data` and its first annotation that was not canceled."""
    given = cells.take("annotations")
    done = (
        [one for one in given if isinstance(one, dict) and not one.get("was_cancelled") and one.get("result")]
        if isinstance(given, list)
        else []
    )
    if not done:
        raise UnmappableError("task_without_annotation")
    results = [one for one in done[0]["result"] if isinstance(one, dict) and isinstance(one.get("value"), dict)]
    chosen = all("choices" in one["value"] for one in results)
    answer = "\n".join(filter(None, (_result_text(one["value"]) for one in results)))
    return _annotated(cells, cells.take("data"), answer, rates=chosen)


def argilla(cells: Cells) -> Content:
    """The fields of a record, and the values of its first response."""
    given = cells.take("responses")
    first = (
        next((one for one in given if isinstance(one, dict) and isinstance(one.get("values"), dict)), None)
        if isinstance(given, list)
        else None
    )
    if first is None:
        raise UnmappableError("task_without_annotation")
    values = [one.get("value") if isinstance(one, dict) else one for one in first["values"].values()]
    texts = [value_text(one) for one in values if not is_empty(one)]
    is_rating = all(not isinstance(one, str) for one in values) or (len(texts) == 1 and rating(texts[0]) is not None)
    return _annotated(cells, cells.take("fields"), "\n".join(texts), rates=is_rating)


def prodigy(cells: Cells) -> Content:
    """A text, and its label or the options that were chosen, if the person accepted them. Errors: NoFitError for another row."""
    decision = cells.values["answer"]
    if decision not in DECISIONS or not any(key in cells for key in ("label", "accept", "options", "spans", "_task_hash")):
        raise NoFitError
    cells.use("answer", "_input_hash", "_task_hash")
    if decision == "reject":
        raise UnmappableError("answer_is_rated_bad")
    label = cells.take("accept", "label")
    if decision == "ignore" or label is None:
        raise UnmappableError("task_without_annotation")
    options = cells.take("options")
    named = {one.get("id"): one.get("text") for one in options if isinstance(one, dict)} if isinstance(options, list) else {}
    words = [
        value_text(named.get(one) or one if isinstance(one, str | int) else one) for one in (label if isinstance(label, list) else [label])
    ]
    return chat(cells, [*side("user", cells.take("text")), Turn("assistant", ", ".join(words))], REPAIR)


def _annotated(cells: Cells, task: Any, annotation: str, rates: bool) -> Content:
    """The task with what the person wrote as its answer. rates: a task that has an answer already is only rated by the annotation."""
    if not isinstance(task, dict):
        raise UnmappableError("data_is_not_an_object")
    question, answer = (next((task[key] for key in keys if not is_empty(task.get(key))), None) for keys in (QUESTIONS, ANSWERS))
    if question is None:
        texts = [text for text in task.values() if isinstance(text, str) and text.strip()]
        question = texts[0] if len(texts) == 1 else None
    if question is None:
        raise UnmappableError("task_without_a_known_text")
    if rates and answer is not None:
        if rating(annotation) is not True:
            raise UnmappableError("answer_is_rated_bad" if rating(annotation) is False else "answer_is_rated_unclearly")
        return chat(cells, [*side("user", question), *side("assistant", answer)])
    if not annotation:
        raise UnmappableError("task_without_annotation")
    return chat(cells, [*side("user", question), Turn("assistant", annotation)], REPAIR)


def _result_text(value: Mapping[str, Any]) -> str:
    """What one annotation says: a text, choices, a rating, or the labels of a span."""
    for key in ("text", "choices", "rating", "number", "taxonomy"):
        if key in value and not any(name in value for name in ("labels", "hypertextlabels")):
            found = value[key]
            return (("\n" if key == "text" else ", ").join(map(value_text, found))) if isinstance(found, list) else value_text(found)
    labels = value.get("labels") or value.get("hypertextlabels")
    if isinstance(labels, list) and isinstance(value.get("text"), str):
        return f"{', '.join(map(value_text, labels))}: {value['text']}"
    return as_json(value)
