"""The evaluation stage: base against adapter on the untouched test split, overall and per domain, and a plain verdict.

Both are measured in one load of the model, the adapter switched off and on. The verdict rests on a paired bootstrap
over records; a difference whose interval holds zero is `not enough evidence`.
"""

from pathlib import Path
from typing import Any

import numpy as np
import orjson

from mistral_lib import base_model, chat_format, files, hardware, likelihood, report
from mistral_lib.likelihood import RecordLoss
from mistral_lib.progress import bar
from mistral_lib.run import Run

RESAMPLES = 2000
FEWEST = 5  # records of a domain from which an interval is given
LONGEST_PROMPT = 256  # tokens of a prompt that is answered as a sample


def evaluate(run: Run) -> dict[str, Any]:
    """Do the evaluation stage unless it is done, and return evaluation/result.json.

    Errors: RuntimeError if training is not complete; ValueError if test and training share a record.
    """
    trained = run.require("training", "run notebook 03_train_adapter first")["outputs"]
    data = run.require("data", "run notebook 02_prepare_data first")["outputs"]
    inputs = {
        name: fact["sha256"]
        for name, fact in {**trained, **data}.items()
        if name.startswith(("training/adapter/", "data/test/", "data/records"))
    }
    run.carry_out("evaluation", inputs, lambda folder: write_evaluation(folder, run))
    return files.read_json(run.folder / "evaluation" / "result.json")


def write_evaluation(folder: Path, run: Run) -> dict[str, Any]:
    """Fill `folder` with result.json, samples.jsonl and report.html; return the figures for the manifest."""
    from datasets import load_from_disk

    data = run.folder / "data"
    refuse_shared_records(load_from_disk(data / "train"), load_from_disk(data / "test"))
    blocks = likelihood.first_blocks(load_from_disk(data / "test"), run.settings.max_test_tokens)
    model = base_model.load_adapter(run.settings, run.folder / "training" / "adapter")
    losses = {
        "base": likelihood.record_losses(model, blocks, run.settings.micro_batch_size, without_adapter=True, what="test, base"),
        "adapter": likelihood.record_losses(model, blocks, run.settings.micro_batch_size, what="test, adapter"),
    }
    result = compare(losses["base"], losses["adapter"], run.settings.seed)
    result["test_records_in_split"] = len(read_records(data, "test"))
    result["peak_memory_mib"] = hardware.peak_memory_mib()
    files.write_json(folder / "result.json", result)
    files.write_json_lines(folder / "samples.jsonl", answer_samples(model, run))
    files.write_text(folder / "report.html", report.page(run, result, files.read_json_lines(folder / "samples.jsonl")))
    return {"verdict": result["verdict"], **result["overall"]}


def refuse_shared_records(train: Any, test: Any) -> None:
    """Errors: ValueError."""
    shared = {i for ids in train["record_ids"] for i in ids} & {i for ids in test["record_ids"] for i in ids}
    if shared:
        raise ValueError(
            f"{len(shared)} records stand in both train and test (first: {min(shared)}); nothing measured on them would count: prepare the data anew"
        )


def compare(base: list[RecordLoss], adapter: list[RecordLoss], seed: int) -> dict[str, Any]:
    """Losses in nats per supervised token, their difference adapter - base with a 95 % interval, and the verdict."""
    by_base, by_adapter = likelihood.by_domain(base), likelihood.by_domain(adapter)
    overall = _difference(base, adapter, seed)
    domains = {domain: _difference(by_base[domain], by_adapter[domain], seed) for domain in by_base}
    return {"overall": overall, "domains": domains, "verdict": verdict(overall), "sentence": sentence(overall, domains)}


def _difference(base: list[RecordLoss], adapter: list[RecordLoss], seed: int) -> dict[str, Any]:
    low, high = interval(base, adapter, seed) if len(base) >= FEWEST else (None, None)
    one, two = likelihood.mean(base), likelihood.mean(adapter)
    return {"base": one, "adapter": two, "difference": two - one, "low": low, "high": high,
            "records": len(base), "supervised_tokens": sum(loss.tokens for loss in base)}  # fmt: skip


def interval(base: list[RecordLoss], adapter: list[RecordLoss], seed: int) -> tuple[float, float]:
    """95 % interval of the difference in mean loss: paired percentile bootstrap over records.

    Source: scipy.stats.bootstrap; Efron and Tibshirani, An Introduction to the Bootstrap, 1993, chapter 13.
    """
    from scipy.stats import bootstrap

    gain = np.array([two.nats - one.nats for one, two in zip(base, adapter, strict=True)])
    tokens = np.array([loss.tokens for loss in base], dtype=float)
    found = bootstrap(
        (gain, tokens), lambda g, t, axis=-1: g.sum(axis) / t.sum(axis), paired=True, n_resamples=RESAMPLES, method="percentile",
        rng=np.random.default_rng(seed),
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)


def verdict(overall: dict[str, Any]) -> str:
    """`better`, `worse`, or `not enough evidence` where the interval holds zero or there are too few records for one."""
    if overall["low"] is None or overall["low"] <= 0 <= overall["high"]:
        return "not enough evidence"
    return "better" if overall["high"] < 0 else "worse"


def sentence(overall: dict[str, Any], domains: dict[str, dict[str, Any]]) -> str:
    """The verdict in plain words, from the numbers alone."""
    lower = [domain for domain, facts in domains.items() if facts["difference"] < 0]
    words = {"better": "The adapter is better than its base model", "worse": "The adapter is worse than its base model",
             "not enough evidence": "There is not enough evidence that the adapter differs from its base model"}[verdict(overall)]  # fmt: skip
    span = f" (95 % interval {overall['low']:+.3f} to {overall['high']:+.3f})" if overall["low"] is not None else ""
    return (
        f"{words}: {overall['base']:.3f} → {overall['adapter']:.3f} nats per supervised token, {overall['difference']:+.3f}{span}, "
        f"on {overall['records']} held-out test records; lower in {len(lower)} of {len(domains)} domains."
    )


def read_records(data: Path, split: str) -> list[dict[str, Any]]:
    """The mapped records of a split, from records.parquet, messages parsed."""
    import pyarrow.parquet as pq

    rows = pq.read_table(data / "records.parquet", filters=[("split", "==", split)]).to_pylist()
    return [{**row, "messages": orjson.loads(row["messages"]) if row["messages"] else None} for row in rows]


def answer_samples(model: Any, run: Run) -> list[dict[str, Any]]:
    """Greedy answers of base and adapter to the same test prompts, one domain after the other, beside the reference."""
    tokenizer = base_model.load_tokenizer(run.settings.base_model)
    chosen = choose_samples(tokenizer, read_records(run.folder / "data", "test"), run.settings.sample_count)
    if not chosen:
        return []
    prompts = [chat_format.prompt_ids(tokenizer, row["messages"][:-1]) for row in chosen]
    with model.disable_adapter():
        base = generate(model, tokenizer, prompts, run.settings.max_new_tokens, "answers, base")
    adapter = generate(model, tokenizer, prompts, run.settings.max_new_tokens, "answers, adapter")
    return [
        {"record_id": row["record_id"], "domain": row["domain"], "prompt": row["messages"][:-1], "reference": row["messages"][-1]["content"],
         "base": one, "adapter": two}
        for row, one, two in zip(chosen, base, adapter, strict=True)
    ]  # fmt: skip


def choose_samples(tokenizer: Any, rows: list[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """The first chat of each domain by record id, then the second, ...: fixed, stratified, prompts short enough to read."""
    by_domain: dict[str, list[dict[str, Any]]] = {}
    for row in sorted(rows, key=lambda row: row["record_id"]):
        if row["messages"] and len(chat_format.prompt_ids(tokenizer, row["messages"][:-1])) <= LONGEST_PROMPT:
            by_domain.setdefault(row["domain"], []).append(row)
    queues = [by_domain[domain] for domain in sorted(by_domain)]
    turns = max(map(len, queues), default=0)
    return [queue[turn] for turn in range(turns) for queue in queues if turn < len(queue)][:count]


def generate(model: Any, tokenizer: Any, prompts: list[list[int]], max_new_tokens: int, what: str) -> list[str]:
    """Greedy answers to a batch of prompts, padded on the left; special tokens left out of the text."""
    import torch

    width = max(map(len, prompts))
    device = next(model.parameters()).device
    ids = torch.tensor([[tokenizer.pad_token_id] * (width - len(p)) + p for p in prompts], device=device)
    mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in prompts], device=device)
    model.eval()
    for _ in bar([None], what, unit="batch"):
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=max_new_tokens,
            do_sample=False,
            use_cache=True,
            pad_token_id=tokenizer.pad_token_id,
        )
    return [tokenizer.decode(row[width:], skip_special_tokens=True).strip() for row in out]
