"""Greedy answers of base and adapter to a fixed, stratified sample of test prompts, in batches."""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import groupby, islice, zip_longest
from pathlib import Path
from typing import Any

import orjson

from mistral_lib.evaluation.measurements import Measurements
from mistral_lib.run.progress import say
from mistral_lib.run.settings import ANSWERED_AT_ONCE as AT_ONCE
from mistral_lib.run.settings import LONGEST_PROMPT
from mistral_lib.shapes.conversation import words_of
from mistral_lib.tokens import chat_format

REPORT_EVERY = 60  # seconds


def read_records(data: Path, split: str) -> list[dict[str, Any]]:
    """The mapped records of a split, from records.parquet, messages and tools parsed."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "records.parquet", filters=[("split", "==", split)]).to_pylist()
    return [{**row, **{name: orjson.loads(row[name]) if row.get(name) else None for name in ("messages", "tools")}} for row in rows]


def choose_samples(tokenizer: Any, rows: list[dict[str, Any]], count: int, max_new_tokens: int) -> list[dict[str, Any]]:
    """The first chat of each domain by record id, then the second of each, and so on: fixed, stratified, independent of results.

    Only prompts of at most LONGEST_PROMPT tokens, and references that end within `max_new_tokens`, so that answers can stop in time.
    """
    ordered = sorted(rows, key=lambda row: (row["domain"], row["record_id"]))
    by_domain = [list(same) for _, same in groupby(ordered, lambda row: row["domain"])]
    return list(islice(round_robin(*((row for row in same if _suits(tokenizer, row, max_new_tokens)) for same in by_domain)), count))


def round_robin(*queues: Iterable[Any]) -> Iterator[Any]:
    """The first of each queue, then the second of each, and so on, so that any prefix is a fair sample."""
    for turn in zip_longest(*queues):
        yield from (one for one in turn if one is not None)


def _suits(tokenizer: Any, row: dict[str, Any], max_new_tokens: int) -> bool:
    if not row["messages"]:
        return False
    reference = tokenizer(words_of(row["messages"][-1]), add_special_tokens=False).input_ids
    return len(reference) < max_new_tokens and len(_prompt_ids(tokenizer, row)) <= LONGEST_PROMPT


def _prompt_ids(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    return chat_format.prompt_ids(tokenizer, row["messages"][:-1], row.get("tools"))


def samples(
    measured: Measurements,
    model: Callable[[], Any],
    tokenizer: Any,
    chosen: Sequence[Mapping[str, Any]],
    max_new_tokens: int,
    name: str = "answers",
) -> list[dict[str, Any]]:
    """The chosen prompts with reference and both answers; `base_stopped` and `adapter_stopped`: whether each ended with the end token.

    name: of the measurements.
    """

    def answer(batch: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
        prompts = [_prompt_ids(tokenizer, row) for row in batch]
        with model().disable_adapter():
            base = generate(model(), tokenizer, prompts, max_new_tokens)
        return {"base": base, "adapter": generate(model(), tokenizer, prompts, max_new_tokens)}

    lengths = {row["record_id"]: len(_prompt_ids(tokenizer, row)) for row in chosen}
    by_length = sorted(chosen, key=lambda row: lengths[row["record_id"]])  # little padding
    by_size = batches(by_length, [lengths[row["record_id"]] for row in by_length])
    found = measured.each(name, by_size, answer, f"{name.replace('_', ' ')}, base and adapter")
    pairs = [pair for batch in found for pair in zip(batch["base"], batch["adapter"], strict=True)]
    answers = {row["record_id"]: pair for row, pair in zip(by_length, pairs, strict=True)}
    return [
        {"record_id": row["record_id"], "domain": row["domain"], "prompt": row["messages"][:-1], "reference": words_of(row["messages"][-1]),
         "base": one["text"], "base_stopped": one["stopped"], "adapter": two["text"], "adapter_stopped": two["stopped"]}
        for row, (one, two) in ((row, answers[row["record_id"]]) for row in chosen)
    ]  # fmt: skip


def batches(rows: Sequence[Any], lengths: Sequence[int]) -> list[Sequence[Any]]:
    """At most AT_ONCE rows a batch, fewer if their prompts are longer than LONGEST_PROMPT. lengths: tokens, ascending."""
    found, start = [], 0
    while start < len(rows):
        end = start + 1
        while end < min(len(rows), start + AT_ONCE) and (end + 1 - start) * lengths[end] <= AT_ONCE * LONGEST_PROMPT:
            end += 1
        found.append(rows[start:end])
        start = end
    return found


def generate(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int) -> list[dict[str, Any]]:
    """Greedy answers to a batch of prompts, padded on the left: `ids` up to the end token, which is included; `text` without special
    tokens; `stopped`: whether it ended with the end token."""
    import torch
    from transformers import StoppingCriteriaList

    width, device = max(map(len, prompts)), next(model.parameters()).device
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    model.eval()
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids, attention_mask=mask, max_new_tokens=max_new_tokens, do_sample=False, use_cache=True,
            eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
            stopping_criteria=StoppingCriteriaList([Reporter(width, max_new_tokens)]),
        )  # fmt: skip
    return [_answer(tokenizer, row) for row in out[:, width:].tolist()]


class Reporter:
    """A criterion of generate() that never stops it, and says every minute how far a batch is: on a CPU a batch takes minutes."""

    def __init__(self, prompt_tokens: int, most: int):
        self.prompt_tokens, self.most, self.said = prompt_tokens, most, time.monotonic()

    def __call__(self, input_ids: Any, scores: Any, **_: Any) -> Any:
        import torch

        if time.monotonic() - self.said > REPORT_EVERY:
            self.said = time.monotonic()
            say(f"answers: {input_ids.shape[1] - self.prompt_tokens} of at most {self.most} tokens of {len(input_ids)} answers are written")
        return torch.zeros(len(input_ids), dtype=torch.bool, device=input_ids.device)


def _answer(tokenizer: Any, ids: list[int]) -> dict[str, Any]:
    stopped = tokenizer.eos_token_id in ids
    ids = ids[: ids.index(tokenizer.eos_token_id) + 1] if stopped else ids
    return {"ids": ids, "text": tokenizer.decode(ids, skip_special_tokens=True).strip(), "stopped": stopped}
