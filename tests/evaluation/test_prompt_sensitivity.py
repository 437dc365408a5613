"""The worth of prompts: the right partner for each chat, and no more encoding than is measured."""

import random
import time

import pytest

from mistral_lib.evaluation import prompt_sensitivity
from mistral_lib.model import base_model
from mistral_lib.run.params import Settings
from mistral_lib.tokens import chat_format


def chat(number: int, domain: str, document: str) -> dict:
    messages = [
        {"role": "user", "content": f"What is {number}?"},
        {"role": "assistant", "content": f"It is the number {number} of {domain}."},
    ]
    return {"record_id": f"{number:06}", "domain": domain, "source": f"{domain}:{number}", "source_group": document, "shape": "messages",
            "messages": messages}  # fmt: skip


def plainly(rows: list[dict], row: dict) -> str | None:
    """The definition: in cyclic order of ids within the domain, the first chat of another document."""
    same = sorted((one for one in rows if one["domain"] == row["domain"]), key=lambda one: one["record_id"])
    place = same.index(row)
    return next((one["record_id"] for one in same[place + 1 :] + same[:place] if one["source_group"] != row["source_group"]), None)


def test_each_chat_gets_the_next_of_its_domain_from_another_document() -> None:
    dice = random.Random(1)
    for _ in range(60):
        rows = [chat(n, dice.choice("ab"), dice.choice("xyz")) for n in dice.sample(range(99), dice.randrange(1, 30))]
        expected = {row["record_id"]: found for row in rows if (found := plainly(rows, row))}
        assert {row["record_id"]: partner["record_id"] for row, partner in prompt_sensitivity.other_document_pairs(rows)} == expected
        assert [row["record_id"] for row, _ in prompt_sensitivity.other_document_pairs(rows)] == sorted(expected)


def test_pairing_takes_linear_time_in_a_domain_of_one_large_document() -> None:
    rows, started = [chat(n, "a", "one") for n in range(20_000)], time.perf_counter()
    assert prompt_sensitivity.other_document_pairs(rows) == []
    assert time.perf_counter() - started < 10, "as if every chat were compared with every other, which takes more than a minute"


def test_only_as_many_blocks_are_made_as_are_measured(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [chat(n, "ab"[n % 2], f"document {n % 7}") for n in range(400)]
    tokenizer, encoded, encode = base_model.load_tokenizer(tiny_model), [], chat_format.encode

    def counted(tokenizer: object, records: list) -> list:
        encoded.append(len(records))
        return encode(tokenizer, records)

    monkeypatch.setattr(chat_format, "encode", counted)
    everything = prompt_sensitivity.blocks_with_other_prompts(tokenizer, rows, Settings(max_tokens=128, max_probe_tokens=0))
    made, some = (
        len(encoded),
        prompt_sensitivity.blocks_with_other_prompts(tokenizer, rows, Settings(max_tokens=128, max_probe_tokens=1024)),
    )
    assert len(some) == 8 and some.to_dict() == everything.select(range(8)).to_dict()
    assert made == 400 and len(encoded) - made < 100
