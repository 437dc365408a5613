"""Which key names a row's source document: the one that the parameters name, or a usual one in any spelling."""

import pytest

from mistral_lib.corpus import document_keys
from mistral_lib.corpus.document_keys import LONG_TEXT, LONG_TEXT_WORDS, USUAL, source_document
from mistral_lib.corpus.records import map_row, record_of
from mistral_lib.formats.rows import Row
from mistral_lib.run.settings import Settings


@pytest.mark.parametrize("key", USUAL)
def test_every_usual_key_is_found_in_any_spelling(key: str) -> None:
    for spelling in (key, key.upper(), key.replace("_", " ").title(), key.replace("_", "-"), key.title().replace("_", "")):
        assert source_document([{"text": "a", spelling: "one"}]) == (key, "one"), spelling
        assert source_document([{"text": "a"}, {spelling: 7}]) == (key, "7"), "in the metadata"


def test_the_first_usual_key_with_a_name_counts() -> None:
    row = {"url": "u", "Ticket ID": "t", "thread_id": "", "document": None, "case_id": True, "session_id": ["s"]}
    assert source_document([row]) == ("ticket_id", "t")
    assert source_document([{"url": "u"}, {"documentId": 0}]) == ("document_id", "0")
    assert source_document([{"source": "web", "category": "a", "id": 3, "module": "m"}]) == ("", ""), "names of collections and of rows"


def test_a_named_key_is_taken_as_it_is_written_and_no_usual_one_is_searched() -> None:
    row = {"Module": "x", "module": "m", "ticket_id": 5}
    assert source_document([row], "module") == ("module", "m")
    assert source_document([{"Module": "x", "ticket_id": 5}], "module") == ("", "")
    assert source_document([{"document": "a.pdf", "ticket_id": 5}], "module") == ("document", "a.pdf"), "a page of a PDF knows its file"
    assert source_document([{"document": "a.pdf"}, {"module": "m"}], "module") == ("module", "m")


def test_a_record_knows_its_document_and_the_key_that_names_it() -> None:
    record = map_row({"prompt": "a", "completion": "b", "conversationId": "c1"}, "x.jsonl:1")
    assert (record.source_group, record.document_key) == ("c1", "conversation_id")
    alone = record_of(Row("x.jsonl:2", {"text": "a"}), Settings())
    assert (alone.source_group, alone.document_key) == ("x.jsonl:2", "")
    named = record_of(Row("x.jsonl:3", {"text": "a", "page": 3, "url": "u"}), Settings(group_key="page"))
    assert (named.source_group, named.document_key) == ("3", "page") and named.document_key in document_keys.searched("page")


def test_a_long_text_in_a_prompt_of_several_lines_is_the_document_of_its_questions() -> None:
    passage = " ".join(f"word{n}" for n in range(LONG_TEXT_WORDS))
    rows = [{"context": passage, "question": f"Which one is {n}?", "answer": "that"} for n in range(2)]
    rows.append({"messages": [{"role": "user", "content": f"Who is it?\n{passage}"}, {"role": "assistant", "content": "Anna"}]})
    records = [map_row(row, f"a.jsonl:{n}") for n, row in enumerate(rows)]
    assert {record.document_key for record in records} == {LONG_TEXT} and len({record.source_group for record in records}) == 1
    assert map_row({**rows[0], "doc_id": 7}, "a.jsonl:1").document_key == "doc_id"
    alone = [map_row({"prompt": prompt, "completion": "that"}, "a.jsonl:1") for prompt in (passage, "What is it?\nTell me.")]
    assert [record.source_group for record in alone] == ["a.jsonl:1"] * 2 and not any(record.document_key for record in alone)
