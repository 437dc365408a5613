"""Makes the probe of a run: chooses test records, and measures base model and adapter on them as they were trained and evaluated.

The log-likelihoods are those of the evaluation's own code. Knows a run and its models; knows no form and no server.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from mistral_lib.corpus.records import Record
from mistral_lib.evaluation import generation
from mistral_lib.export.probe import Answers, Greedy, Likelihoods, Probe, ProbeError, ProbeRecord, are_finite, gain
from mistral_lib.kernels import fused_layers, paired_layers
from mistral_lib.model import base_model, likelihood, paired_answers
from mistral_lib.preparation.audit import WEIGHTS
from mistral_lib.run import Run, allocator, files
from mistral_lib.run.progress import say
from mistral_lib.run.settings import LONGEST_PROMPT, Settings
from mistral_lib.tokens import chat_format, control_tokens
from mistral_lib.tokens.chat_format import IGNORED, Encoded

RECORDS, ANSWER_TOKENS = 24, 600  # of a probe, at most: llama.cpp takes one request for each answer token
GREEDY = 8  # prompts that are answered
UNENDED = 2  # of them at most kept whose answer reaches the limit: they take longest, and say nothing about how a form stops
FEWEST = 12  # records that share the answer tokens, at least: so many tokens has the longest answer
MORE = 4  # times as many records are measured if those of the first choice do not show a gain


def make(
    run: Run, weights: Sequence[str] | None = None, most_records: int = RECORDS, answer_tokens: int = ANSWER_TOKENS, seed: int | None = None
) -> Probe:
    """Measure the run's adapter and its base model, loaded as they were trained and evaluated.

    weights: base weights that forms are made on besides those of the evaluation, `16bit` or `nf4`; None: 16bit. For each the base model is
    loaded again. answer_tokens: of all reference answers together, at most.
    Errors: ProbeError if no test record is a chat that can be asked; those of `paired_answers.trained_settings`.
    """
    settings = paired_answers.trained_settings(run)
    tokenizer, adapter = base_model.load_tokenizer(settings.base_model), run.folder / "training" / "adapter"
    seed = run.settings.seed if seed is None else seed
    candidates = choose(tokenizer, generation.read_records(run.folder / "data", "test"), MORE * most_records, answer_tokens, seed)
    evaluated_on = "nf4" if settings.quantization == "nf4" else "16bit"
    say(f"probe: base model and adapter, on {evaluated_on} weights as evaluated")
    model = _loaded(settings, adapter)
    records, measured, chosen = _with_gain(model, candidates, most_records, answer_tokens, seed)
    shortest = to_ask(records)
    longest = min(settings.max_new_tokens, 2 * max(len(records[number].answer_ids) for number in shortest) + 16)
    asked, adapter_answers = _asked(model, tokenizer, records, shortest, longest)
    prompts = [records[number].prompt_ids for number in asked]
    with model.disable_adapter():
        base = greedy(model, tokenizer, prompts, longest)
    answers = {evaluated_on: Answers(base, adapter_answers)}
    likelihoods = {evaluated_on: measured}
    for other in dict.fromkeys(["16bit"] if weights is None else weights):
        if other not in likelihoods:
            del model  # there are never two models at a time
            allocator.release_unused_memory()
            say(f"probe: base model and adapter, on {other} weights")
            model = _loaded(settings.model_copy(update={"quantization": "nf4" if other == "nf4" else "none"}), adapter)
            likelihoods[other], answers[other] = measure(model, records), Answers([], greedy(model, tokenizer, prompts, longest))
    return Probe(
        run.folder.name, files.sha256(adapter / WEIGHTS), base_model.fingerprint(settings.base_model), base_model.tokenizer_hash(tokenizer), seed,
        chosen, evaluated_on, longest, tokenizer.bos_token_id, tokenizer.eos_token_id, records, likelihoods, asked, answers,
    )  # fmt: skip


def _refuse_not_finite(both: Likelihoods) -> None:
    """Errors: ProbeError."""
    if not are_finite(both.base) or not are_finite(both.adapter):
        raise ProbeError(
            "base model or adapter gives log-likelihoods that are not finite (NaN or infinite): nothing can be compared with them; "
            "train again with dtype=float32 or a lower learning_rate (notebook 03_train_adapter)"
        )


def _loaded(settings: Settings, adapter: Path) -> Any:
    model = base_model.load_adapter(settings, adapter)
    if next(model.parameters()).device.type == "cpu":
        fused_layers.unpack(model)  # generating would unpack all weights for each token
    return model


def _asked(
    model: Any, tokenizer: Any, records: Sequence[ProbeRecord], numbers: Sequence[int], longest: int
) -> tuple[list[int], list[Greedy]]:
    """The records of these numbers that every form answers, and the adapter's answers: all that end, and UNENDED others."""
    answers = greedy(model, tokenizer, [records[number].prompt_ids for number in numbers], longest)
    others = [number for number, answer in zip(numbers, answers, strict=True) if not answer.ended][:UNENDED]
    kept = [(number, answer) for number, answer in zip(numbers, answers, strict=True) if answer.ended or number in others]
    return [number for number, _ in kept], [answer for _, answer in kept]


def to_ask(records: Sequence[ProbeRecord]) -> list[int]:
    """The numbers of the records with the shortest answers, which a model is likely to end within the limit; at most GREEDY, in order."""
    return sorted(sorted(range(len(records)), key=lambda number: len(records[number].answer_ids))[:GREEDY])


def choose(tokenizer: Any, rows: Sequence[Mapping[str, Any]], count: int, answer_tokens: int, seed: int) -> list[ProbeRecord]:
    """Test chats, domain by domain in turn, each domain in an order that the seed decides and another document each time if it can.

    Left out: chats with tools, which plain chat requests do not carry, and prompts with a control string such as `</s>`, which servers take
    for the control token. Errors: ProbeError if none is left.
    """
    longest = max(8, answer_tokens // FEWEST)
    order = sorted(rows, key=lambda row: (row["domain"], files.hash64(f"{seed} {row['record_id']}")))
    queues = []
    for _, same in groupby(order, lambda row: row["domain"]):
        turns: dict[str, int] = {}
        numbered = []
        for row in same:
            turns[row["source_group"]] = turn = turns.get(row["source_group"], 0) + 1
            numbered.append((turn, row))
        queues.append(record for _, row in sorted(numbered, key=lambda pair: pair[0]) if (record := _record(tokenizer, row, longest)))
    found = [record for record, _ in zip(generation.round_robin(*queues), range(count), strict=False)]
    if not found:
        raise ProbeError(
            f"none of {len(rows)} test records is a chat with a prompt of at most {LONGEST_PROMPT} tokens, without tools and control strings: "
            "there is nothing to ask an exported form; raise test_share, or prepare chats (notebook 02_prepare_data)"
        )
    return found


def _record(tokenizer: Any, row: Mapping[str, Any], longest: int) -> ProbeRecord | None:
    """The record with its answer cut to `longest` tokens; None if it is not suitable."""
    if (
        not row["messages"]
        or row.get("tools")
        or any(message["role"] == "tool" or message.get("tool_calls") for message in row["messages"])
    ):
        return None
    messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"][:-1]]
    if any(control_tokens.of(tokenizer).pattern.search(message["content"]) for message in messages):
        return None
    record = Record(row["domain"], row["source"], row["source_group"], row["shape"], messages=row["messages"])
    encoded, prompt = chat_format.encode(tokenizer, [record])[0], chat_format.prompt_ids(tokenizer, row["messages"][:-1])
    answer = _answer(encoded, len(prompt))
    if not answer or len(prompt) > LONGEST_PROMPT or encoded.input_ids[: len(prompt)] != prompt:
        return None
    return ProbeRecord(row["record_id"], row["source_group"], row["domain"], messages, prompt, answer[:longest])


def _answer(encoded: Encoded, start: int) -> list[int]:
    """The answer's ids up to its last graded token, the end token."""
    graded = [place for place, label in enumerate(encoded.labels) if label != IGNORED and place >= start]
    return encoded.input_ids[start : graded[-1] + 1] if graded else []


def _with_gain(
    model: Any, candidates: list[ProbeRecord], most: int, answer_tokens: int, seed: int
) -> tuple[list[ProbeRecord], Likelihoods, str]:
    """The records of the probe with their log-likelihoods, and how they were chosen: the first candidates; if those show no gain beyond
    chance, the ones with the largest gain among all. Both are known exactly, so this choice flatters no form."""
    first = _within(candidates, most, answer_tokens)
    measured = measure(model, first)
    found = gain(first, measured, seed)
    is_beyond_chance = found["low"] is not None and found["low"] * found["high"] > 0
    if is_beyond_chance or len(first) == len(candidates):
        return first, measured, "by seed"
    everything = measure(model, candidates)
    gains = [(sum(a) - sum(b)) / len(a) for b, a in zip(everything.base, everything.adapter, strict=True)]
    sign = 1 if sum(gains) >= 0 else -1
    best = sorted(range(len(candidates)), key=lambda place: -sign * gains[place])
    kept = _within([candidates[place] for place in best], most, answer_tokens)
    places = best[: len(kept)]
    both = Likelihoods([everything.base[place] for place in places], [everything.adapter[place] for place in places])
    return kept, both, "by gain"


def _within(records: Sequence[ProbeRecord], most: int, answer_tokens: int) -> list[ProbeRecord]:
    """The first records, until there are enough of them or of their answer tokens."""
    found, total = [], 0
    for record in records[:most]:
        total += len(record.answer_ids)
        if total > answer_tokens and found:
            break
        found.append(record)
    return found


def measure(model: Any, records: Sequence[ProbeRecord]) -> Likelihoods:
    """The log-likelihoods with the adapter off and on, by the evaluation's own likelihood code, one record at a time.

    Errors: ProbeError if one is not finite.
    """
    import torch

    model.eval()
    found: list[tuple[list[float], list[float]]] = []
    with torch.inference_mode():
        for record in records:
            batch = _batch(model, record.prompt_ids, record.answer_ids)
            if paired_layers.can_pair(model):
                with paired_layers.paired(model):
                    pair = [losses for losses, _ in likelihood.paired_token_losses(model, batch)]
            else:
                with model.disable_adapter():
                    pair = [likelihood.token_losses(model, batch)[0]]
                pair.append(likelihood.token_losses(model, batch)[0])
            found.append(tuple((-losses.double()).tolist() for losses in pair))
    both = Likelihoods([base for base, _ in found], [adapter for _, adapter in found])
    _refuse_not_finite(both)
    return both


def log_likelihood(model: Any, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> list[float]:
    """Nats of each answer token under a loaded model, at most 0."""
    import torch

    model.eval()
    with torch.inference_mode():
        return (-likelihood.token_losses(model, _batch(model, prompt_ids, answer_ids))[0].double()).tolist()


def _batch(model: Any, prompt_ids: Sequence[int], answer_ids: Sequence[int]) -> dict[str, Any]:
    """One row: prompt and answer, of which the answer is graded. Each (1, tokens)."""
    import torch

    ids, device = [*prompt_ids, *answer_ids], next(model.parameters()).device
    rows = {"input_ids": ids, "labels": [IGNORED] * len(prompt_ids) + list(answer_ids), "position_ids": range(len(ids))}
    return {name: torch.tensor([list(row)], device=device) for name, row in rows.items()}


def greedy(model: Any, tokenizer: Any, prompts: Sequence[list[int]], max_new_tokens: int) -> list[Greedy]:
    """Greedy answers of a loaded model, in batches of prompts of like length, in the order of the prompts."""
    order = sorted(range(len(prompts)), key=lambda place: len(prompts[place]))
    found: dict[int, Greedy] = {}
    for batch in generation.batches(order, [len(prompts[place]) for place in order]):
        answers = generation.generate(model, tokenizer, [prompts[place] for place in batch], max_new_tokens)
        found |= {place: Greedy(one["ids"], one["stopped"]) for place, one in zip(batch, answers, strict=True)}
    return [found[place] for place in range(len(prompts))]
