"""The worth of prompts: the right partner for each chat, and no more encoding than is measured."""

import copy
import random
import time

import numpy as np
import pytest

from mistral_lib.evaluation import paired_difference, prompt_sensitivity
from mistral_lib.model import base_model
from mistral_lib.model.likelihood import RecordLoss
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
    rows = [chat(n, "ab"[n % 2], f"document {n % 7}") for n in range(160)]
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
    assert made == 160 and len(encoded) - made < 100


def contents(tokenizer: object, rows: list[dict], **limits: int) -> list[tuple[list[str], str, list[str]]]:
    """(record ids, text, domains) of each block."""
    blocks = prompt_sensitivity.blocks_with_other_prompts(tokenizer, rows, Settings(max_probe_tokens=0, **limits))
    return [(block["record_ids"], tokenizer.decode(block["input_ids"]), block["domains"]) for block in blocks or []]


def test_a_record_has_the_prompt_of_its_partner_and_its_own_answer(tiny_model: str) -> None:
    rows = [chat(1, "a", "one"), chat(2, "a", "two"), chat(3, "b", "three"), chat(4, "b", "four")]
    rows[1]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    found = contents(base_model.load_tokenizer(tiny_model), rows, max_tokens=128)
    text = "".join(one for _, one, _ in found)
    for asked, answered in (("What is 2?", "It is the number 1 of a."), ("What is 1?", "It is the number 2 of a."),
                            ("What is 4?", "It is the number 3 of b."), ("What is 3?", "It is the number 4 of b.")):  # fmt: skip
        assert text.count(asked) == text.count(answered) == 1
        assert text.index(asked) < text.index(answered)
        assert "What is" not in text[text.index(asked) + len(asked) : text.index(answered)]
    assert text.index("Be brief.") < text.index("What is 2?") and text.count("Be brief.") == 1, "the system text belongs to the prompt"
    assert sorted(one for ids, _, _ in found for one in ids) == ["000001", "000002", "000003", "000004"]
    assert sorted(one for _, _, names in found for one in names) == ["a", "a", "b", "b"]
    assert contents(base_model.load_tokenizer(tiny_model), rows[:1], max_tokens=128) == []
    assert prompt_sensitivity.blocks_with_other_prompts(base_model.load_tokenizer(tiny_model), rows[:1], Settings()) is None
    rows[1]["messages"] += chat(9, "a", "")["messages"]  # its prompt has an answer in it, which would count as supervised
    assert sorted(one for ids, _, _ in contents(base_model.load_tokenizer(tiny_model), rows, max_tokens=128) for one in ids) == [
        "000003",
        "000004",
    ]


def test_only_chats_that_fit_with_either_prompt_are_measured(tiny_model: str) -> None:
    tokenizer, rows = base_model.load_tokenizer(tiny_model), [chat(1, "a", "one"), chat(2, "a", "two")]
    rows[0]["messages"][0]["content"] += " word" * 60
    own, other = chat_format.encode(tokenizer, [prompt_sensitivity._record(row, row) for row in rows])
    longer = len(own.input_ids)
    assert longer > len(other.input_ids) + 40
    assert len(contents(tokenizer, rows, max_tokens=longer)) == 2, "the longer prompt exactly fits, before either answer"
    assert contents(tokenizer, rows, max_tokens=longer - 1) == [], "one chat is too long itself, the other with its partner's prompt"


def test_a_chat_that_the_template_cannot_write_is_left_out_with_either_prompt(tiny_model: str) -> None:
    tokenizer = copy.copy(base_model.load_tokenizer(tiny_model))
    tokenizer.chat_template = tokenizer.chat_template.replace("message['content']", "message['content'].split('!')[0]")
    rows = [chat(1, "a", "one"), chat(2, "a", "two"), chat(3, "a", "three")]
    assert sorted(one for ids, _, _ in contents(tokenizer, rows, max_tokens=128) for one in ids) == ["000001", "000002", "000003"]
    rows[0]["messages"][0]["content"] += " Now! Please."  # record 1 itself, and record 3, whose partner it is
    assert sorted(one for ids, _, _ in contents(tokenizer, rows, max_tokens=128) for one in ids) == ["000002"]


def test_the_worth_of_a_prompt_is_what_the_right_one_saves_per_token() -> None:
    def losses(*nats: float, names: str = "abc") -> list[RecordLoss]:
        return [RecordLoss(name, "x", value, tokens) for name, value, tokens in zip(names, nats, (2, 4, 4), strict=True)]

    own = {"base": losses(4, 8, 6)[::-1], "adapter": losses(2, 3, 5)}  # in another order: paired by record
    other = {"base": losses(6, 9, 9, names="abd"), "adapter": losses(8, 7, 9, names="abd")}  # d has no loss after its own prompt
    found = prompt_sensitivity.prompt_worth(own, other, {"a": "one", "b": "two"}, seed=0)
    assert found == {"base": pytest.approx((2 + 1) / 6), "adapter": pytest.approx((6 + 4) / 6), "records": 2,
                     "difference": pytest.approx((4 + 3) / 6), "low": None, "high": None}  # fmt: skip


def test_the_worth_has_the_interval_of_its_change_by_document() -> None:
    rng = np.random.default_rng(0)
    names, tokens = [f"r{n}" for n in range(24)], rng.integers(5, 30, 24)
    documents = {name: f"document {n // 2}" for n, name in enumerate(names)}
    after = {who: rng.uniform(1, 3, (2, 24)) * tokens for who in ("base", "adapter")}  # (right prompt, other prompt)
    own, other = ({who: [RecordLoss(n, "x", float(v), int(t)) for n, v, t in zip(names, after[who][k], tokens, strict=True)] for who in after}
                  for k in (0, 1))  # fmt: skip
    found = prompt_sensitivity.prompt_worth(own, other, documents, seed=3)
    change = (after["adapter"][1] - after["adapter"][0]) - (after["base"][1] - after["base"][0])
    expected = paired_difference.ratio(change.reshape(12, 2).sum(1), tokens.reshape(12, 2).sum(1).astype(float), 3)
    assert [len({documents[n] for n in names}), expected.documents] == [12, 12]
    assert (found["difference"], found["records"]) == (pytest.approx(expected.value), 24)
    order = np.argsort([documents[n] for n in names[::2]])  # documents are summed in the order of their names
    again = paired_difference.ratio(change.reshape(12, 2).sum(1)[order], tokens.reshape(12, 2).sum(1)[order].astype(float), 3)
    assert (found["low"], found["high"]) == (pytest.approx(again.low), pytest.approx(again.high))
