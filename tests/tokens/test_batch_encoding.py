"""Batches of records as flat arrays: the ids and labels that each record has alone, whatever stands next to it."""

import pytest

from mistral_lib.corpus.records import Record
from mistral_lib.model import base_model, demo_model, mistral_tokenizer
from mistral_lib.tokens import chat_format
from mistral_lib.tokens.batch_encoding import encode_batches

TEXTS = ["", " ", "a", "  two  blanks  ", "\n\n x\t\r\n", "it's we'll I'm 'tis", "naïve Zürich 東京 😀👩‍👩‍👧 \u200b\u00a0 ﬁ①", "1a2b 33 ½ Ⅷ",
         "<|im_start|>user\n</s>", "\x01\x02", "\x01", "\x02\x01 2\x02", "\x04 a byte that the vocabulary lacks", "x" * 700, "=" * 99, "\x00"]  # fmt: skip


def chats_and_documents() -> list[Record]:
    def chat(*turns: tuple[str, str]) -> Record:
        return Record("d", "f:1", "g", "messages", messages=[{"role": role, "content": text} for role, text in turns])

    words = [text for text in TEXTS if text.strip()]
    plain = [chat(("user", text), ("assistant", other)) for text, other in zip(words, reversed(words), strict=True)]
    more = [chat(("system", text), ("user", "q"), ("assistant", "a"), ("user", text), ("assistant", f"\n {text} ")) for text in words]
    return [*plain, *more, *(Record("d", "f:1", "g", "text", text=text) for text in words), chat(("assistant", "a"), ("assistant", "b"))]


@pytest.mark.parametrize("name", ["smollm2", "mistral"])
def test_batches_are_what_encode_makes_of_each_record(name):
    tokenizer = mistral_tokenizer.load() if name == "mistral" else base_model.load_tokenizer(demo_model.NAME)
    records = chats_and_documents()
    batches = [records[start : start + 7] for start in range(0, len(records), 7)] + [[]]
    found = encode_batches(tokenizer, iter(batches))
    expected = chat_format.encode(tokenizer, records)
    together = [(batch, place) for batch in found for place in range(len(batch.records))]
    assert len(together) == len(expected)
    for (batch, place), one in zip(together, expected, strict=True):
        ids, graded = batch.stretch(place, place + 1)
        assert ids.tolist() == one.input_ids
        assert [
            token if is_graded else chat_format.IGNORED for token, is_graded in zip(ids.tolist(), graded.tolist(), strict=True)
        ] == one.labels
        assert batch.supervised[place] == one.supervised and batch.problems.get(place, "") == one.problem
