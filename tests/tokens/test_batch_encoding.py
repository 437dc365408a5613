"""Batches of records as flat arrays: ids and graded tokens against mistral-common, and against the tokenizer's own chat template."""

import numpy as np
from mistral_common.protocol.instruct.messages import AssistantMessage, SystemMessage, UserMessage
from mistral_common.protocol.instruct.request import ChatCompletionRequest
from mistral_common.protocol.instruct.validator import ValidationMode
from mistral_common.tokens.tokenizers.mistral import MistralTokenizer

from mistral_lib.corpus.records import Record
from mistral_lib.model import base_model, demo_model, mistral_tokenizer
from mistral_lib.tokens.batch_encoding import encode_batches

KINDS = {"system": SystemMessage, "user": UserMessage, "assistant": AssistantMessage}
TEXTS = ["", " ", "a", "  two  blanks  ", "\n\n x\t\r\n", "it's we'll I'm 'tis", "naïve Zürich 東京 😀👩‍👩‍👧 \u200b\u00a0 ﬁ①", "1a2b 33 ½ Ⅷ",
         "<|im_start|>user\n</s>", "\x01\x02", "\x01", "\x02\x01 2\x02", "\x04 a byte that the vocabulary lacks", "x" * 700, "=" * 99, "\x00"]  # fmt: skip


def chats_and_documents() -> list[Record]:
    def chat(*turns: tuple[str, str]) -> Record:
        return Record("d", "f:1", "g", "messages", messages=[{"role": role, "content": text} for role, text in turns])

    words = [text for text in TEXTS if text.strip()]
    plain = [chat(("user", text), ("assistant", other)) for text, other in zip(words, reversed(words), strict=True)]
    more = [chat(("system", text), ("user", "q"), ("assistant", "a"), ("user", text), ("assistant", f"\n {text} ")) for text in words]
    return [*plain, *more, *(Record("d", "f:1", "g", "text", text=text) for text in words), chat(("assistant", "a"), ("assistant", "b"))]


def in_batches(tokenizer, records: list[Record]) -> list[tuple[list[int], list[list[int]], str]]:
    """For each record its ids, its stretches of graded ids and its problem, encoded in small batches, the last of them empty."""
    batches = [records[start : start + 7] for start in range(0, len(records), 7)] + [[]]
    found = []
    for batch in encode_batches(tokenizer, iter(batches)):
        for place in range(len(batch.records)):
            ids, graded = batch.span(place, place + 1)
            cuts = np.flatnonzero(np.diff(graded)) + 1
            stretches = [one.tolist() for one, own in zip(np.split(ids, cuts), np.split(graded, cuts), strict=True) if own.any()]
            assert batch.supervised[place] == sum(map(len, stretches))
            found.append((ids.tolist(), stretches, batch.problems.get(place, "")))
    return found


def test_batches_equal_the_encoding_of_mistral_common():
    true = MistralTokenizer.from_file(str(mistral_tokenizer.vocabulary_file()), mode=ValidationMode.finetuning)
    plain = true.instruct_tokenizer.tokenizer
    records = chats_and_documents()
    for one, (ids, stretches, problem) in zip(records, in_batches(mistral_tokenizer.load(), records), strict=True):
        if one.messages is None:
            expected = plain.encode(one.text, bos=True, eos=True)
            assert (ids, stretches, problem) == (expected, [expected[1:]], "")
        elif one.messages[0]["role"] == "assistant":
            assert ids == stretches == [] and "must take turns" in problem
        else:
            request = ChatCompletionRequest(messages=[KINDS[m["role"]](content=m["content"]) for m in one.messages])
            answers = [m["content"].rstrip(" ") for m in one.messages if m["role"] == "assistant"]
            assert ids == true.encode_chat_completion(request).tokens and problem == ""
            assert stretches == [plain.encode(answer, bos=False, eos=True) for answer in answers]


def test_batches_equal_the_encoding_of_the_template_and_the_tokenizer():
    tokenizer = base_model.load_tokenizer(demo_model.NAME)
    records = chats_and_documents()
    for one, (ids, stretches, problem) in zip(records, in_batches(tokenizer, records), strict=True):
        answers = [m["content"] for m in one.messages or [] if m["role"] == "assistant"]
        text = tokenizer.apply_chat_template(one.messages, tokenize=False) if one.messages else one.text + tokenizer.eos_token
        if "<|im_start|>user" not in str(one):  # a control string in a text: the tokenizer would read it as a control token
            assert ids == tokenizer(text, add_special_tokens=False).input_ids
        assert problem == "" and all(stretch[-1] == tokenizer.eos_token_id for stretch in stretches)
        if one.messages:
            expected = [answer.replace("\x04", "").strip() for answer in answers]  # a byte that this vocabulary cannot write
            assert [tokenizer.decode(stretch[:-1]).strip() for stretch in stretches] == expected
        else:
            assert stretches == [ids[1:]]
