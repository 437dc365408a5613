"""What is advised for rows of no known shape."""

import ast

import pytest

from mistral_lib.corpus.unmapped_rows import suggested_columns


@pytest.mark.parametrize(
    ("characters", "prompt", "answer"),
    [
        ({"ask": 40, "reply": 90, "id": 36}, "ask", "reply"),
        ({"uuid": 36, "q": 12, "a": 30}, "q", "a"),
        ({"createdId": 99, "ask": 8, "reply": 9, "fetched_at": 25, "page url": 80}, "ask", "reply"),
        ({'a "b"': 20, "c": 10}, 'a "b"', "c"),
    ],
)
def test_the_two_longest_texts_are_advised_in_their_order_and_no_id_date_or_link(characters: dict, prompt: str, answer: str) -> None:
    pair, document = suggested_columns(characters).split(" or ")
    assert ast.literal_eval(pair.removeprefix("columns = ")) == {"prompt": prompt, "answer": answer}
    assert ast.literal_eval(document.removeprefix("columns = ")) == {"text": max((prompt, answer), key=characters.get)}


def test_if_only_ids_are_there_they_are_advised_and_nothing_for_nothing() -> None:
    assert suggested_columns({"uuid": 36, "note": 0}) == 'columns = {"text": "uuid"}' and suggested_columns({"note": 0}) == ""
