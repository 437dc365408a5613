"""Every row shape of real corpora becomes a record without configuration, and every change of its text is reported."""

import json
import re
from datetime import date

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib.corpus.records import Record, UnmappableError, file_domain, map_row, record_of, text_id
from mistral_lib.formats.rows import Row
from mistral_lib.run.settings import Settings
from mistral_lib.shapes import cells as messages
from mistral_lib.shapes.row_shapes import COLUMNS

ASK, REPLY = "What is 2 + 2?", "It is 4."
CHAT = [{"role": "user", "content": ASK}, {"role": "assistant", "content": REPLY}]


def chat(*turns: str) -> list[dict[str, str]]:
    """Messages from strings such as `u:text`."""
    names = {"s": "system", "u": "user", "a": "assistant", "t": "tool"}
    return [{"role": names[turn[0]], "content": turn[2:]} for turn in turns]


def mapped(value, **options) -> Record:
    return map_row(value, "corpus.jsonl:7", **options)


PLAIN_CHATS = {
    "messages": [
        {"messages": CHAT},
        {"messages": [{"role": "Human ", "content": ASK}, {"role": "MODEL", "content": [{"type": "text", "text": REPLY}]}]},
        {"messages": [{"from": "human", "value": ASK}, {"from": "gpt", "value": REPLY}]},
    ],
    "conversations": [
        {"conversations": [{"from": "human", "value": ASK}, {"from": "gpt", "value": REPLY}]},
        {"conversations": CHAT},
        {"conversation": [{"role": "prompter", "content": ASK}, {"role": "bot", "content": REPLY}]},
    ],
    "prompt_completion": [
        {"prompt": ASK, "completion": REPLY},
        {"prompt": [{"role": "user", "content": ASK}], "completion": [{"role": "assistant", "content": REPLY}]},
        {"prompt": ASK, "response": REPLY},
    ],
    "instruction": [{"instruction": ASK, "input": "", "output": REPLY}, {"instruction": ASK, "input": None, "history": [], "output": REPLY},
                    {"instruction": ASK, "context": "", "response": REPLY}],
    "question_answer": [{"question": ASK, "answer": REPLY}],
    "data": [{"data": {"question": ASK, "answer": REPLY}}],
}  # fmt: skip


@pytest.mark.parametrize(("shape", "row"), [(shape, row) for shape, rows in PLAIN_CHATS.items() for row in rows])
def test_every_way_to_write_a_chat_gives_the_same_record(shape, row):
    record = mapped({**row, "page": 3})
    assert (record.shape, record.messages, record.text, record.repairs) == (shape, CHAT, None, ())
    assert record.metadata == {"page": 3}
    assert record.record_id == mapped({"messages": CHAT}).record_id
    assert (record.answer, record.prompt) == (REPLY, CHAT[:1])


@pytest.mark.parametrize(
    ("row", "shape", "text"),
    [
        ({"text": "\n\n  a document \n"}, "text", "  a document"),
        ({"content": "a document", "title": "Its title", "url": "x"}, "content", "Its title\n\na document"),
        ({"content": "a document", "title": None}, "content", "a document"),
        ({"data": {"name": "Ada", "born": 1815, "died": None, "tags": ["x"]}}, "data", 'name: Ada\nborn: 1815\ntags: ["x"]'),
        ({"data": {"text": "a document"}}, "data", "a document"),
    ],
)
def test_documents(row, shape, text):
    record = mapped(row)
    assert (record.shape, record.text, record.messages, record.answer, record.prompt) == (shape, text, None, text, [])


def test_instructions_with_all_their_parts():
    row = {"instruction": "Add.", "input": "2 and 2", "output": "4", "system": "You count.", "history": [["1 and 1", "2"]]}
    assert mapped(row).messages == chat("s:You count.", "u:1 and 1", "a:2", "u:Add.\n\n2 and 2", "a:4")
    assert mapped({"question": "Who?", "answer": "Ada.", "context": "Ada wrote it."}).messages == chat("u:Who?\n\nAda wrote it.", "a:Ada.")


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": ASK, "chosen": REPLY, "rejected": "5"},
        {"chosen": CHAT, "rejected": chat("u:x", "a:y")},
        {"prompt": [CHAT[0]], "chosen": [CHAT[1]], "rejected": [{"role": "assistant", "content": "5"}]},
        {"chosen": f"\n\nHuman: {ASK}\n\nAssistant: {REPLY}", "rejected": "\n\nHuman: x\n\nAssistant: y"},
        {"question": ASK, "chosen": REPLY, "rejected": "5"},
        {"instruction": ASK, "chosen": REPLY, "rejected": "5"},
        {"prompt": None, "question": "", "instruction": ASK, "chosen": CHAT, "rejected": "5"},
        {"prompt": "", "chosen": CHAT, "rejected": "5"},
        {"chosen": f"Human: {ASK}\n\nAssistant: {REPLY}", "rejected": "y"},
        {"prompt": ASK, "chosen": CHAT, "rejected": CHAT, "messages": CHAT},
    ],
)
def test_the_chosen_answer_of_a_preference_is_used_and_reported(row):
    record = mapped(row)
    assert (record.shape, record.messages, record.repairs) == ("preference", CHAT, ("chosen_of_preference",))
    assert "rejected" not in record.metadata


@pytest.mark.parametrize(
    ("given", "expected", "repairs"),
    [
        (chat("s:be kind", "u:a", "a:b"), chat("s:be kind", "u:a", "a:b"), ()),
        (chat("s: ", "u:a", "a:b"), chat("u:a", "a:b"), ()),
        (chat("s:x", "s:y", "u:a", "a:b"), chat("s:x\n\ny", "u:a", "a:b"), ("merged_same_role",)),
        (chat("u:a", "u:b", "a:c", "a:d"), chat("u:a\n\nb", "a:c\n\nd"), ("merged_same_role",)),
        (chat("u:a", "a:b", "u:c"), chat("u:a", "a:b"), ("cut_after_last_answer",)),
        (chat("u:a", "a:b", "u:", "u:"), chat("u:a", "a:b"), ("cut_after_last_answer",)),
        (chat("a:hello", "u:a", "a:b"), chat("u:a", "a:b"), ("dropped_leading_answer",)),
        (chat("u:a", "a:b", "s:now in French", "u:c", "a:d"), chat("u:a", "a:b", "u:now in French\n\nc", "a:d"),
         ("later_system_as_user", "merged_same_role")),
        (chat("u:a", "a:b", "t:42", "a:c"), chat("u:a", "a:b", "u:42", "a:c"), ("tool_output_as_user",)),
    ],
)  # fmt: skip
def test_conversations_are_made_regular_and_each_repair_is_named(given, expected, repairs):
    record = mapped({"messages": given})
    assert (record.messages, record.repairs) == (expected, repairs)


CODE = "    return 1\n\n    # end"


@pytest.mark.parametrize(
    "row",
    [
        {"prompt": "def f():", "completion": CODE},
        {"prompt": "def f():\n", "completion": f"\n\n{CODE}\n  \n"},
        {"messages": chat("u:def f():", f"a:{CODE} ")},
        {"text": f"\n{CODE}\n"},
        {"data": {"text": CODE}},
    ],
)
def test_the_first_line_keeps_its_indentation(row):
    assert (mapped(row).answer, mapped(row).repairs) == (CODE, ())


@pytest.mark.parametrize(
    ("answer", "expected", "repairs"),
    [
        (" It is 4.\n", "It is 4.", ("leading_blank_removed",)),
        (" It is 4.\nAs ever.", "It is 4.\nAs ever.", ("leading_blank_removed",)),
        (" * one\n * two", " * one\n * two", ()),
        ("\tpass", "\tpass", ()),
    ],
)
def test_one_blank_before_an_answer_is_removed_and_reported(answer, expected, repairs):
    assert (mapped({"prompt": ASK, "completion": answer}).answer, mapped({"prompt": ASK, "completion": answer}).repairs) == (
        expected,
        repairs,
    )


def test_tools_calls_and_results_are_kept():
    call = {"id": "1", "type": "function", "function": {"name": "add", "arguments": '{"a": 2, "b": 2}'}}
    openai = [CHAT[0], {"role": "assistant", "content": None, "tool_calls": [call, call]}, {"role": "tool", "content": "4"}, CHAT[1]]
    line = '{"name":"add","arguments":{"a":2,"b":2}}'
    record = mapped({"messages": openai, "tools": [{"name": "add"}]})
    parsed = {**call, "function": {"name": "add", "arguments": {"a": 2, "b": 2}}}
    asked, answered = record.messages[:2]
    assert (asked, answered) == (CHAT[0], {"role": "assistant", "content": "", "tool_calls": [parsed, parsed]})
    assert record.messages[2:] == [{"role": "tool", "content": "4", "tool_call_id": "1"}, CHAT[1]]
    assert record.tools == [{"type": "function", "function": {"name": "add", "description": "", "parameters": {}}}]
    assert (record.repairs, record.metadata) == ((), {}) and record.record_id != mapped({"messages": openai}).record_id
    sharegpt = [("human", ASK), ("function_call", line), ("observation", "4"), ("gpt", REPLY)]
    record = mapped({"conversations": [{"from": who, "value": text} for who, text in sharegpt]})
    (call,) = record.messages[1]["tool_calls"]
    assert call["function"] == {"name": "add", "arguments": {"a": 2, "b": 2}} and re.fullmatch("[0-9A-Za-z]{9}", call["id"])
    assert record.messages[2:] == [{"role": "tool", "content": "4", "tool_call_id": call["id"]}, CHAT[1]] and record.repairs == ()
    old = {"role": "assistant", "content": "Let me see.", "function_call": {"name": "add", "arguments": "no JSON"}}
    assert mapped({"messages": [CHAT[0], old]}).answer == 'Let me see.\n\n{"name":"add","arguments":"no JSON"}'


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}, "three"]
    assert mapped({"messages": [{"role": "user", "content": parts}, CHAT[1]]}).messages[0]["content"] == "one\ntwo\nthree"


SECRET = "hunter2-do-not-print"


def deep(value, levels: int = 300) -> list:
    """The value in so many lists that a JSON reader accepts it and a JSON writer does not."""
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (["a", "list"], "not_an_object"),
        (None, "not_an_object"),
        ({}, "empty_row"),
        ({SECRET: SECRET}, "unknown_shape"),
        ({"text": "  "}, "empty_text"),
        ({"text": 5}, "text_is_not_a_string"),
        ({"prompt": SECRET, "completion": ""}, "empty_message"),
        ({"prompt": "", "completion": SECRET}, "empty_message"),
        ({"messages": SECRET}, "messages_are_not_a_list_of_objects"),
        ({"messages": [SECRET]}, "turns_without_a_role"),
        ({"messages": f"[{{'role': 'user', 'content': '{SECRET}'}}]"}, "messages_are_python_text"),
        ({"messages": []}, "no_answer_at_the_end"),
        ({"messages": chat(f"u:{SECRET}")}, "no_answer_at_the_end"),
        ({"messages": chat("a:hello")}, "no_question"),
        ({"messages": chat("s:x", "a:hello")}, "no_question"),
        ({"messages": chat("u:", "a:hello")}, "empty_message"),
        ({"messages": [{"role": SECRET, "content": "a"}]}, "unknown_role"),
        ({"messages": [{"content": "a"}]}, "turn_without_a_role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": SECRET}]}, CHAT[1]]}, "content_part_is_image"),
        (
            {
                "messages": [
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": SECRET}]},
                    CHAT[1],
                ]
            },
            "content_part_is_image",
        ),
        ({"messages": [{"role": "user", "content": ["a", {"type": "text"}]}, CHAT[1]]}, "content_part_is_unknown"),
        ({"messages": [{"role": "user", "content": None}, CHAT[1]]}, "text_is_not_a_string"),
        ({"messages": [CHAT[0], {"role": "assistant"}]}, "text_is_not_a_string"),
        ({"messages": [{"role": 5, "content": "a"}, CHAT[1]]}, "unknown_role"),
        ({"messages": [CHAT[0], 5]}, "messages_are_not_a_list_of_objects"),
        ({"messages": chat("a:hello", f"u:{SECRET}")}, "no_answer_at_the_end"),
        ({"messages": chat(f"u:{SECRET}", "a:b", "u:", "a:c")}, "empty_message"),
        ({"messages": [CHAT[0], {"role": "assistant", "tool_calls": [5]}]}, "tool_calls_are_not_a_list_of_objects"),
        ({"messages": [CHAT[0], {"role": "assistant", "tool_calls": [{"function": 5}]}]}, "tool_call_without_a_name"),
        ({"messages": [CHAT[0], {"role": "assistant", "tool_calls": [{"function": {"name": 5}}]}]}, "tool_call_without_a_name"),
        ({"instruction": "a", "output": "b", "history": [["x", "y", "z"]]}, "history_is_not_pairs"),
        ({"instruction": "a", "output": "b", "history": [["x", "y"], "ab"]}, "history_is_not_pairs"),
        ({"prompt": [], "completion": "b"}, "empty_message"),
        ({"chosen": [CHAT[1]], "rejected": "b"}, "no_question"),
        ({"data": {"name": "", "born": None}}, "empty_text"),
        ({"messages": [CHAT[0], {"role": "assistant", "content": None, "tool_calls": 5}]}, "tool_calls_are_not_a_list_of_objects"),
        ({"messages": [CHAT[0], {"role": "assistant", "tool_calls": [{"function": {}}]}]}, "tool_call_without_a_name"),
        ({"instruction": "a", "output": "b", "history": 5}, "history_is_not_pairs"),
        ({"instruction": "a", "output": "b", "history": [["x"]]}, "history_is_not_pairs"),
        ({"chosen": "a", "rejected": "b"}, "preference_without_prompt"),
        ({"instruction": "Sum it up", "input": deep(SECRET), "output": "b"}, "nested_too_deep"),
        ({"question": "a", "answer": "b", "context": deep(SECRET)}, "nested_too_deep"),
        ({"data": {"cell": deep(SECRET)}}, "nested_too_deep"),
        (
            {"messages": [CHAT[0], {"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": deep(SECRET)}}]}]},
            "nested_too_deep",
        ),
        ({"data": SECRET, "color": "red"}, "unknown_shape"),
        ({"role": "user", "content": SECRET}, "single_turn_of_a_conversation"),
        ({"data": {}}, "empty_text"),
    ],
)
def test_a_row_that_cannot_be_mapped_has_a_reason_without_its_content(row, reason):
    with pytest.raises(UnmappableError) as error:
        mapped(row)
    assert str(error.value) == reason and SECRET not in str(error.value)


def test_columns_assign_keys_with_unknown_names():
    record = mapped({"ask": ASK, "reply": REPLY, "page": 3}, columns={"prompt": "ask", "answer": "reply"})
    assert (record.shape, record.messages, record.metadata) == ("columns", CHAT, {"page": 3})
    assert mapped({"body": "a document", "page": 3}, columns={"text": "body"}).text == "a document"
    assert mapped({"talk": CHAT}, columns={"messages": "talk"}).messages == CHAT
    assert mapped({"prompt": ASK, "reply": REPLY}, columns={"answer": "reply"}).messages == CHAT
    with_system = mapped({"ask": ASK, "reply": REPLY, "tone": "Be kind."}, columns={"prompt": "ask", "answer": "reply", "system": "tone"})
    assert with_system.messages == [{"role": "system", "content": "Be kind."}, *CHAT]


def test_columns_take_precedence_over_keys_and_recognized_shapes_still_work():
    columns = {"prompt": "ask", "answer": "reply"}
    assert mapped({"ask": ASK, "reply": REPLY, "text": "also here"}, columns=columns).messages == CHAT
    assert mapped({"text": "a document"}, columns=columns).shape == "text"
    with pytest.raises(UnmappableError, match="unknown_shape"):
        mapped({"ask": ASK}, columns=columns)
    assert {"prompt", "answer", "text", "messages"} <= set(COLUMNS)


def test_domain_group_and_note():
    record = mapped({"text": "a", "domain": "law", "module": 0}, group_key="module")
    assert (record.domain, record.source_group, record.metadata) == ("law", "0", {})
    assert mapped({"text": "a", "metadata": {"domain": "law"}}).domain == "law"
    assert mapped({"text": "a", "domain": ["law"], "module": {}}, group_key="module").domain == "corpus"
    assert mapped({"text": "a"}).source_group == "corpus.jsonl:7"
    assert mapped({"text": "a", "document": "d.pdf"}).source_group == "d.pdf"
    assert mapped({"messages": chat("u:a", "a:b", "u:c")}, note="salvaged").repairs == ("salvaged", "cut_after_last_answer")
    assert [file_domain(s) for s in ("x/law.jsonl:3", "law.zip!a/b.pdf#2", "law.tar.gz!a.jsonl:1")] == ["law"] * 3
    assert [file_domain(s) for s in ("notes/a.md", "x/notes/b.txt.gz", "notes.zip!c.txt", "notes.pdf#2")] == ["notes"] * 4
    assert [file_domain(f"{name}:7") for name in ("gpt3.5_code.jsonl", "gpt3.5_law.jsonl.gz", "C# tips.jsonl", "x/A.B.TSV.BZ2")] == [
        "gpt3.5_code", "gpt3.5_law", "C# tips", "A.B"]  # fmt: skip
    assert [file_domain(s) for s in ("v1.2.zip!a.jsonl:1", "v1.2.tgz!b/c.md", "law.pdf#3-5", "law.pdf#3.2", "a.b.json")] == [
        "v1.2", "v1.2", "law", "law", "a.b"]  # fmt: skip
    assert [file_domain(s) for s in ("a.b.jsonl:2.1", "a.b.json.1:2", "a.b.json.3", "a.b.json:4", "a.b.jsonl.bz2:5")] == ["a.b"] * 5
    assert file_domain("a.txt") == file_domain("B.MD") == "texts", "a text file is one record, so its name would be a domain of one record"


def test_a_row_becomes_a_record_by_the_parameters_of_its_run():
    run = Settings(domain_key="field", group_key="url", columns={"prompt": "ask", "answer": "reply"})
    row = Row("a.jsonl:3", {"ask": ASK, "reply": REPLY, "field": "law", "url": "u"}, note="salvaged")
    record = record_of(row, run)
    assert (record.domain, record.source_group, record.shape, record.repairs) == ("law", "u", "columns", ("salvaged",))
    with pytest.raises(UnmappableError, match=r"^truncated_line$"):
        record_of(Row("a.jsonl:4", None, "truncated_line"), run)


def test_a_row_is_never_changed():
    row = {"messages": chat("u:a", "u:b", "a:c", "u:d"), "data": {"x": [1]}}
    before = json.dumps(row)
    mapped(row, columns={"prompt": "ask"})
    assert json.dumps(row) == before


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
KEYS = ["text", "prompt", "completion", "response", "instruction", "input", "output", "history", "system", "context", "question", "answer", "messages", "conversations", "content", "title", "data", "chosen", "rejected", "domain", "module", "document", "metadata", "ask", "reply"]  # fmt: skip
TURN = st.fixed_dictionaries(
    {}, optional={"role": st.sampled_from(["user", "assistant", "system", "tool", "gpt", "?"]) | JSON, "from": JSON, "content": st.text() | JSON,
                  "value": JSON, "tool_calls": JSON | st.lists(st.fixed_dictionaries({"function": JSON | st.fixed_dictionaries({"name": st.text()})}))}
)  # fmt: skip
ROW = st.dictionaries(st.sampled_from(KEYS), JSON | st.lists(TURN, max_size=4) | st.text(), max_size=5)


@settings(max_examples=250)
@given(JSON | ROW, st.sampled_from([None, {"prompt": "ask", "answer": "reply"}, {"text": "ask"}, {"messages": "ask"}]))
def test_any_json_value_is_a_record_or_unmappable(value, columns):
    try:
        record = mapped(value, columns=columns)
    except UnmappableError as reason:
        assert str(reason).replace("_", "").isalpha()
        return
    assert (record.messages is None) != (record.text is None)
    assert record.answer.strip() and len(record.record_id) == 16 and isinstance(record.source_group, str) and record.domain
    roles = [message["role"] for message in record.messages or []]
    talk = "".join(role[0] for role in roles[roles[:1] == ["system"] :])
    assert re.fullmatch("(u(at+)*at*)*", talk) and talk[-1:] in ("a", "")  # t: a result of a tool
    assert all(message["content"].strip() or "tool_calls" in message or message["role"] == "tool" for message in record.messages or [])


TALK = st.lists(st.tuples(st.sampled_from("suat"), st.text("abc", min_size=1, max_size=5)), max_size=8)


@settings(max_examples=300)
@given(TALK)
def test_no_text_of_a_conversation_is_dropped_without_a_repair_code(talk):
    messages = chat(*(f"{who}:{text}" for who, text in talk))
    try:
        record = mapped({"messages": messages})
    except UnmappableError:
        return
    kept = sorted(part for message in record.messages for part in message["content"].split("\n\n"))
    lossy = {"cut_after_last_answer", "dropped_leading_answer"} & set(record.repairs)
    given_parts = sorted(text for _, text in talk)
    assert kept == given_parts if not lossy else len(kept) < len(given_parts)
    if [m["role"] for m in messages] != [m["role"] for m in record.messages]:
        assert record.repairs


def test_text_id_takes_any_string():
    assert text_id("half \ud83d") != text_id("half ?")
    assert all(re.fullmatch("[0-9a-f]{16}", text_id(text)) for text in ("", "a", "half \ud83d", "é" * 10_000))


def test_a_question_of_messages_or_parts_takes_the_context_at_its_end():
    row = {"question": chat("s:Be kind.", "u:Who?", "a:Ada.", "u:When?"), "answer": "1843.", "context": "She was born in 1815."}
    assert mapped(row).messages == chat("s:Be kind.", "u:Who?", "a:Ada.", "u:When?\n\nShe was born in 1815.", "a:1843.")
    parts = [{"type": "text", "text": "Who?"}, {"text": "And when?"}]
    assert mapped({"prompt": parts, "completion": "Ada."}).messages == chat("u:Who?\nAnd when?", "a:Ada.")
    assert mapped({"instruction": "", "input": "2 and 2", "output": "4"}).messages == chat("u:2 and 2", "a:4")
    assert mapped({"instruction": "Add.", "input": [2, 2], "output": "4"}).messages == chat("u:Add.\n\n[2,2]", "a:4")
    assert mapped({"instruction": "Add.", "input": 0, "context": "", "output": "4"}).messages == chat("u:Add.\n\n0", "a:4")


def test_a_preference_keeps_its_system_text_and_asks_before_an_answer_alone():
    row = {"prompt": ASK, "chosen": REPLY, "rejected": "5", "system": "You count."}
    assert mapped(row).messages == [{"role": "system", "content": "You count."}, *CHAT]
    assert mapped({"prompt": [*CHAT, *CHAT[:1]], "chosen": [CHAT[1]], "rejected": "5"}).messages == CHAT * 2
    longer = "\n\nHuman: a\n\nAssistant: b\n\nHuman:c\n\nAssistant:d"
    assert mapped({"chosen": longer, "rejected": ""}).messages == chat("u:a", "a:b", "u:c", "a:d")


def test_a_title_of_blanks_is_none_and_a_table_in_a_table_is_text():
    assert mapped({"content": "a document", "title": "  "}).text == "a document"
    assert mapped({"content": "a document", "title": 5}).text == "a document"
    assert mapped({"content": "a document", "title": " Its title "}).text == "Its title\n\na document"
    assert mapped({"data": {"data": {"text": "inner"}, "n": 0, "empty": ""}}).text == 'data: {"text":"inner"}\nn: 0'


def test_calls_are_written_with_their_text_and_any_kind_of_arguments():
    def answer(**turn: object) -> str:
        return mapped({"messages": [CHAT[0], {"role": "assistant", **turn}]}).answer

    line = '{"name":"add","arguments":{"a":2}}'
    assert answer(content="\n So: \n", tool_calls=[{"name": "add", "arguments": {"a": 2}}]) == f"So:\n\n{line}"
    assert answer(content="", tool_calls=[{"function": {"name": "add", "arguments": '{"a": 2}'}}]) == line
    assert answer(tool_calls=[], function_call={"name": "add"}) == '{"name":"add","arguments":{}}'
    with_calls = mapped({"messages": [CHAT[0], {"role": "assistant", "content": "Yes.", "tool_calls": None}]})
    assert (with_calls.answer, with_calls.repairs) == ("Yes.", ())
    assert messages.as_json({1: date(2026, 1, 2)}) == '{"1":"2026-01-02"}'


@pytest.mark.parametrize(
    ("answer", "expected"),
    [("  two blanks", "  two blanks"), (" \tpass", " \tpass"), (" x", "x"), (" a\nb\n c", " a\nb\n c"), ("x y", "x y")],
)
def test_only_a_single_leading_blank_is_removed(answer, expected):
    assert mapped({"prompt": ASK, "completion": answer}).answer == expected


def test_columns_without_a_value_leave_the_row_as_it_is():
    assert mapped({"text": "a document", "body": None}, columns={"text": "body"}).shape == "text"
    record = mapped({"ask": ASK, "completion": REPLY, "page": 1}, columns={"prompt": "ask", "title": "page"})
    assert (record.shape, record.messages, record.metadata) == ("columns", CHAT, {"page": 1})
    assert mapped({"prompt": "other", "ask": ASK, "completion": REPLY}, columns={"prompt": "ask"}).messages == CHAT
    assert mapped({"text": "a document"}, columns={"answer": "text"}).shape == "text", "without a prompt the column makes no chat"
    assert mapped({"context": ASK, "reply": REPLY}, columns={"prompt": "context", "answer": "reply"}).messages == CHAT, (
        "it is no context too"
    )
