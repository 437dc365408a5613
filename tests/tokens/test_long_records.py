"""Long records in windows: no graded token is lost or repeated, prompts are never graded, cuts are between turns, paragraphs or words."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib.corpus.records import Record
from mistral_lib.model import base_model, demo_model, mistral_tokenizer
from mistral_lib.tokens import chat_format, long_records
from mistral_lib.tokens.chat_format import IGNORED

TOKENIZERS = {"mistral": mistral_tokenizer.load, "smollm2": lambda: base_model.load_tokenizer(demo_model.NAME)}


def record(messages=None, text=None) -> Record:
    return Record("domain", "file:1", "group", "messages", messages=messages, text=text)


def chat(*contents: str, system: str = "") -> Record:
    turns = [{"role": ("user", "assistant")[place % 2], "content": text} for place, text in enumerate(contents)]
    return record(([{"role": "system", "content": system}] if system else []) + turns)


def fit(tokenizer, one: Record, max_tokens: int, way: str = "split"):
    whole = chat_format.encode(tokenizer, [one])[0]
    return whole, long_records.fit(tokenizer, one, whole, max_tokens, way)


def graded(encoded) -> list[int]:
    return [label for label in encoded.labels if label != IGNORED]


@pytest.fixture(params=list(TOKENIZERS))
def tokenizer(request):
    return TOKENIZERS[request.param]()


PARAGRAPHS = "\n\n".join(f"Paragraph {n} goes on.\nIts second line holds more words and 😀." for n in range(20))
words = st.lists(st.sampled_from(["word", " ", "\n", "\n\n", "x = 1", "😀", "東京", "\n    ", "</s>", ". "]), min_size=1, max_size=120)
texts = words.map("".join).map(str.strip).filter(bool)


@settings(max_examples=60)
@given(st.sampled_from(list(TOKENIZERS)), st.lists(texts, min_size=1, max_size=5), st.booleans(), st.integers(72, 200))
def test_the_windows_grade_the_same_tokens_as_the_complete_record(name, contents, with_system, max_tokens):
    tokenizer = TOKENIZERS[name]()
    if len(contents) == 1:
        one = record(text=contents[0])
    else:
        one = chat(*contents[: len(contents) // 2 * 2], system="Be brief." if with_system else "")
    whole, fitted = fit(tokenizer, one, max_tokens)
    assert [token for window in fitted.windows for token in graded(window)] == graded(whole)
    assert all(len(window.input_ids) <= max_tokens for window in fitted.windows)
    assert all(window.labels[0] == IGNORED and len(window.labels) == len(window.input_ids) for window in fitted.windows)
    assert all(label in (IGNORED, token) for window in fitted.windows for token, label in zip(window.input_ids, window.labels, strict=True))
    assert fitted == fit(tokenizer, one, max_tokens)[1]


def test_a_record_that_fits_is_unchanged(tokenizer):
    whole, fitted = fit(tokenizer, chat("a", "b"), 512)
    assert fitted == long_records.Fitted([whole])


def test_documents_are_cut_at_paragraph_ends(tokenizer):
    _, fitted = fit(tokenizer, record(text=PARAGRAPHS), 128)
    assert len(fitted.windows) > 2
    for window in fitted.windows[:-1]:
        assert tokenizer.decode(window.input_ids).endswith("\n\n")
    assert fitted.tokens_lost == 0


def test_documents_without_paragraphs_are_cut_at_line_ends_and_else_between_words(tokenizer):
    _, lines = fit(tokenizer, record(text=PARAGRAPHS.replace("\n\n", "\n")), 64)
    assert all(tokenizer.decode(window.input_ids).endswith("\n") for window in lines.windows[:-1])
    _, one_line = fit(tokenizer, record(text=PARAGRAPHS.replace("\n", " ")), 64)
    text = PARAGRAPHS.replace("\n", " ")
    place = 0
    for window in one_line.windows[:-1]:
        place += len(tokenizer.decode(graded(window)).strip()) + (place > 0)
        assert len(window.input_ids) > 24
    assert one_line.tokens_lost == 0
    assert text[place - 1] != " "


def test_each_window_of_a_long_answer_begins_with_the_prompt_and_only_the_last_ends(tokenizer):
    one = chat("Tell me all.", PARAGRAPHS, system="Be thorough.")
    _, fitted = fit(tokenizer, one, 128)
    prompt = chat_format.prompt_ids(tokenizer, one.messages[:-1])
    assert len(fitted.windows) > 2
    for window in fitted.windows:
        assert window.input_ids[: len(prompt)] == prompt
        assert set(window.labels[: len(prompt)]) == {IGNORED}
    ends = [tokenizer.eos_token_id in graded(window) for window in fitted.windows]
    assert ends == [False] * (len(ends) - 1) + [True]
    assert min(len(graded(window)) for window in fitted.windows) >= (128 - len(prompt)) // 4


def test_a_prompt_above_half_a_window_keeps_its_end_and_the_loss_is_counted(tokenizer):
    one = chat("Read this: " + PARAGRAPHS, "Short. " * 50)
    whole, fitted = fit(tokenizer, one, 128)
    prompt = chat_format.prompt_ids(tokenizer, one.messages[:-1])
    for window in fitted.windows:
        context = window.labels.index(next(label for label in window.labels if label != IGNORED))
        assert context == 64
        assert window.input_ids[context - 10 : context] == prompt[-10:]
    assert fitted.tokens_lost == len(prompt) - 64
    assert [token for window in fitted.windows for token in graded(window)] == graded(whole), "nothing of the answer is lost"


def test_chats_of_many_turns_are_cut_between_turns_first(tokenizer):
    contents = [text for n in range(12) for text in (f"Question {n}?", f"Answer {n} in some more words.")]
    one = chat(*contents, system="Be brief.")
    _, fitted = fit(tokenizer, one, 128)
    assert len(fitted.windows) > 1
    for window in fitted.windows:
        text = tokenizer.decode(window.input_ids)
        assert text.count("Question") == text.count("Answer") >= (1 if window is fitted.windows[-1] else 2)
        assert text.count("Be brief.") == 1
    assert fitted.tokens_lost == 0


def test_truncate_and_reject_count_what_is_lost(tokenizer):
    one = chat("Tell me all.", PARAGRAPHS)
    whole, cut = fit(tokenizer, one, 128, "truncate")
    assert cut.windows == [chat_format.Encoded(whole.input_ids[:128], whole.labels[:128])]
    assert cut.tokens_lost == len(whole.input_ids) - 128
    _, refused = fit(tokenizer, one, 128, "reject")
    assert refused == long_records.Fitted([], len(whole.input_ids), "longer_than_max_tokens")
    _, nothing = fit(tokenizer, chat(PARAGRAPHS, "Yes."), 128, "truncate")
    assert nothing.refusal == "no_supervised_token_within_max_tokens"


def test_unknown_ways_and_windows_without_room_are_errors(tokenizer):
    with pytest.raises(ValueError, match="expected one of split, truncate, reject"):
        fit(tokenizer, chat("a", "b"), 128, "chop")
    with pytest.raises(ValueError, match="at least 16"):
        fit(tokenizer, chat("a", PARAGRAPHS), 8)


def test_the_last_window_is_never_only_an_end_token(tokenizer):
    prompt = len(chat_format.prompt_ids(tokenizer, [{"role": "user", "content": "q"}]))
    for count in range(55, 75):
        _, fitted = fit(tokenizer, chat("q", " ".join(["word"] * count)), prompt + 60)
        assert len(graded(fitted.windows[-1])) >= 15
