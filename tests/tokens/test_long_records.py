"""Long records in windows: no graded token is lost or repeated, prompts are never graded, cuts are between turns, paragraphs or words."""

import copy

import numpy as np
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
    for window in one_line.windows[1:]:
        first = next(token for token, label in zip(window.input_ids, window.labels, strict=True) if label != IGNORED)
        assert tokenizer.convert_ids_to_tokens(first)[0] in "▁Ġ", "a window begins with the blank before a word"
    assert all(len(window.input_ids) > 24 for window in one_line.windows[:-1]) and len(one_line.windows) > 5
    assert one_line.tokens_lost == 0


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


class Vocabulary:
    """A tokenizer of a few words, whose cuts can be worked out by hand."""

    bos_token_id = 0
    tokens = ("<s>", "a", "▁b", "<0x0A>", "c<0x0A>", "Ġd", "Ċ", "ĊĊ", "ĉ", None, "", "</s>")

    def __len__(self) -> int:
        return len(self.tokens)

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        return [self.tokens[number] for number in ids]

    def ids(self, text: str) -> np.ndarray:
        return np.array([self.tokens.index(token) for token in text.split()], np.int32)


BOOK = Vocabulary()
ANY, WORD, LINE, PARAGRAPH = range(4)


@pytest.mark.parametrize(
    ("text", "places"),
    [
        ("a ▁b <0x0A> a <0x0A> <0x0A> a Ġd a", [WORD, ANY, LINE, ANY, ANY, PARAGRAPH, WORD, ANY, ANY]),
        ("c<0x0A> Ċ a", [ANY, PARAGRAPH, ANY]),
        ("c<0x0A> a c<0x0A> a", [LINE, ANY, LINE, ANY]),
        ("a ĊĊ a", [ANY, PARAGRAPH, ANY]),
        ("Ċ ĉ Ċ a", [LINE, ANY, PARAGRAPH, ANY]),
        ("a ĉ a Ċ a Ċ", [WORD, ANY, ANY, LINE, ANY, LINE]),
        ("ĊĊ Ċ", [ANY, PARAGRAPH]),
        ("a Ċ c<0x0A> a", [ANY, LINE, LINE, ANY]),
    ],
)
def test_how_good_a_cut_after_each_token_is(text: str, places: list[int]) -> None:
    assert long_records._places(BOOK, BOOK.ids(text)).tolist() == places


@pytest.mark.parametrize(
    ("text", "room", "cuts"),
    [
        ("a " * 8, 8, [(0, 8)]),
        ("a " * 9, 8, [(0, 7), (7, 9)]),  # the last window has at least a quarter of the room
        ("a " * 20, 8, [(0, 8), (8, 16), (16, 20)]),
        ("a " * 14, 12, [(0, 11), (11, 14)]),
        ("a " * 5 + "Ċ " + "▁b " + "a " * 8, 8, [(0, 6), (6, 13), (13, 15)]),
        ("a " * 4 + "Ċ " + "a " * 10, 8, [(0, 5), (5, 13), (13, 15)]),  # the first place of the second half
        ("a " * 3 + "ĊĊ " + "a " * 11, 8, [(0, 8), (8, 15)]),  # a place of the first half is not used
        ("a " * 4 + "Ċ a Ċ " + "a " * 8, 8, [(0, 7), (7, 15)]),  # the latest of the best
        ("a " * 4 + "ĊĊ a Ċ " + "a " * 8, 8, [(0, 5), (5, 13), (13, 15)]),  # a paragraph before a line
    ],
)
def test_cuts_worked_out_by_hand(text: str, room: int, cuts: list[tuple[int, int]]) -> None:
    assert list(long_records._cuts(BOOK, BOOK.ids(text), room)) == cuts


@pytest.mark.parametrize(
    ("lengths", "groups"),
    [([5, 5, 5], [(0, 2), (2, 3)]), ([5, 6, 4], [(0, 1), (1, 3)]), ([12, 3], [(0, 1), (1, 2)]), ([3, 12, 3], [(0, 1), (1, 2), (2, 3)]),
     ([9, 9, 2], [(0, 1), (1, 2), (2, 3)]), ([3, 3, 3], [(0, 3)]), ([1, 9, 1], [(0, 2), (2, 3)])],
)  # fmt: skip
def test_as_many_turns_as_fit_are_in_a_group(lengths: list[int], groups: list[tuple[int, int]]) -> None:
    assert long_records._groups(lengths, 10) == groups


def answer_windows(prompt: str, answer: str, tail: str, max_tokens: int) -> tuple[list[tuple[str, str]], int]:
    """((all tokens, the graded ones) of each window, tokens lost) of one answer after a prompt."""
    ids = BOOK.ids(f"{prompt} {answer} {tail}")
    graded = np.zeros(len(ids), bool)
    graded[len(prompt.split()) : len(prompt.split()) + len(answer.split())] = True
    found = long_records._one_answer(BOOK, (ids, graded), max_tokens)

    def words(tokens: np.ndarray) -> str:
        return " ".join(BOOK.convert_ids_to_tokens(tokens.tolist()))

    return [(words(ids), words(ids[graded])) for ids, graded in found.windows], found.tokens_lost


A = " ".join(["a"] * 8)


@pytest.mark.parametrize(
    ("prompt", "answer", "tail", "max_tokens", "windows", "lost"),
    [
        ("<s> Ġd Ġd", f"{A} a </s>", "Ċ", 12, [(f"<s> Ġd Ġd {A[:15]}", A[:15]), ("<s> Ġd Ġd a </s> Ċ", "a </s>")], 0),
        ("<s> Ġd Ġd Ġd", f"{A[:13]} </s>", "Ċ", 12, [(f"<s> Ġd Ġd Ġd {A[:13]} </s>", f"{A[:13]} </s>")], 1),  # 4 + 8 + 1: no room
        ("<s> Ġd Ġd Ġd", f"{A[:11]} </s>", "Ċ", 12, [(f"<s> Ġd Ġd Ġd {A[:11]} </s> Ċ", f"{A[:11]} </s>")], 0),  # 4 + 7 + 1: it fits
        ("<s> Ġd", "a </s>", "Ċ Ċ", 12, [("<s> Ġd a </s> Ċ Ċ", "a </s>")], 0),
        ("<s> Ġd Ġd", f"{A} a {A} a a </s>", "Ċ", 12, [(f"<s> Ġd Ġd {A} a", f"{A} a"), (f"<s> Ġd Ġd {A} a", f"{A} a"), ("<s> Ġd Ġd a </s> Ċ", "a </s>")], 0),
        ("<s> ▁b Ġd Ġd Ġd Ġd", "a </s>", "", 12, [("<s> ▁b Ġd Ġd Ġd Ġd a </s>", "a </s>")], 0),  # half a window, which is kept
        ("<s> ▁b ▁b Ġd Ġd Ġd Ġd Ġd", "a </s>", "", 12, [("<s> Ġd Ġd Ġd Ġd Ġd a </s>", "a </s>")], 2),  # its end is kept
        ("▁b ▁b ▁b Ġd Ġd Ġd Ġd Ġd", "a </s>", "", 12, [("▁b Ġd Ġd Ġd Ġd Ġd a </s>", "a </s>")], 2),  # no start token to keep
        ("<s> ▁b ▁b Ġd Ġd Ġd Ġd", "a </s>", "", 13, [("<s> ▁b Ġd Ġd Ġd Ġd a </s>", "a </s>")], 1),
    ],
)  # fmt: skip
def test_windows_of_one_answer_worked_out_by_hand(
    prompt: str, answer: str, tail: str, max_tokens: int, windows: list[tuple[str, str]], lost: int
) -> None:
    assert answer_windows(prompt, answer, tail, max_tokens) == (windows, lost)


def test_windows_of_a_document_begin_with_the_start_token_or_the_token_before() -> None:
    document = "▁b a a a Ċ Ġd a a a </s>"
    assert answer_windows("<s>", document, "", 8) == ([("<s> ▁b a a a Ċ", "▁b a a a Ċ"), ("<s> Ġd a a a </s>", "Ġd a a a </s>")], 0)
    assert answer_windows("▁b", document[3:], "", 8) == ([("▁b a a a Ċ", "a a a Ċ"), ("Ċ Ġd a a a </s>", "Ġd a a a </s>")], 0)


def test_a_record_of_exactly_max_tokens_is_unchanged_in_every_way_and_one_token_more_is_not(tokenizer):
    one = chat("Tell me all.", PARAGRAPHS)
    length = len(fit(tokenizer, one, 4096)[0].input_ids)
    for way in long_records.WAYS:
        whole, fitted = fit(tokenizer, one, length, way)
        assert fitted == long_records.Fitted([whole])
        assert fit(tokenizer, one, length - 1, way)[1] != long_records.Fitted([whole])
    assert fit(tokenizer, one, length - 1, "truncate")[1].tokens_lost == 1


def test_turns_of_exactly_max_tokens_are_one_window(tokenizer):
    turn = ["Why is it so?", "It is so because it was so before, as everybody there knows, and so it will be."]
    alone = chat_format.encode(tokenizer, [chat(*turn)])[0]
    assert fit(tokenizer, chat(*turn, *turn), len(alone.input_ids))[1] == long_records.Fitted([alone, alone])
    assert alone not in fit(tokenizer, chat(*turn, *turn), len(alone.input_ids) - 1)[1].windows


def test_what_the_turns_of_a_chat_lose_is_summed(tokenizer):
    one = chat("Hello.", "Yes.", "Read: " + "word " * 90, "Short.", "And: " + "more " * 90, "Done.", system="Be brief.")
    _, fitted = fit(tokenizer, one, 64)
    prompts = [len(chat_format.prompt_ids(tokenizer, [one.messages[0], one.messages[place]])) for place in (3, 5)]
    assert fitted.tokens_lost == sum(prompts) - 2 * 32 and len(fitted.windows) == 3


def test_a_record_that_cannot_be_encoded_is_refused_with_its_reason_and_all_its_tokens_are_lost() -> None:
    ids = np.arange(20, dtype=np.int32)
    for way in long_records.WAYS:
        assert long_records.cut(BOOK, chat("a", "b"), (ids, ids > 3), "no_supervised_token", 64, way) == (
            long_records.Fitted([], 20, "no_supervised_token"))  # fmt: skip


def test_sixteen_tokens_are_room_enough_and_fifteen_are_not(tokenizer):
    assert len(fit(tokenizer, record(text=PARAGRAPHS), 16)[1].windows) > 10
    with pytest.raises(ValueError, match="max_tokens = 15; expected at least 16"):
        fit(tokenizer, record(text=PARAGRAPHS), 15)
    assert fit(tokenizer, record(text="word"), 15)[1].tokens_lost == 0, "it need not be split"


def test_turns_that_cannot_be_written_alone_are_an_error_that_says_so() -> None:
    tokenizer = copy.copy(base_model.load_tokenizer(demo_model.NAME))
    tokenizer.chat_template = "{% if messages | length < 4 %}{{ raise_exception('too short') }}{% endif %}" + tokenizer.chat_template
    one = chat("Why?", "So.", "And?", "word " * 90)
    encoded = chat_format.Encoded(list(range(100)), list(range(100)))
    with pytest.raises(chat_format.TemplateError, match=r"file:1: its turns cannot be written as separate chats: .*too short"):
        long_records.fit(tokenizer, one, encoded, 64)
