"""How well a model predicts the supervised tokens, in nats per token: the loss of training and the measure of evaluation.

Logits are computed only at supervised positions: with a large vocabulary, the others would cost more than the model.
"""

from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain, groupby
from typing import Any

import torch

from mistral_lib.kernels import fused_loss, paired_layers
from mistral_lib.tokens.chat_format import IGNORED, Encoded

COLUMNS = ("input_ids", "labels", "position_ids")
CHOICE_TOKENS = 10_240  # prompt tokens whose keys and values are copied for the answers that are measured at once


@dataclass(frozen=True, slots=True)
class RecordLoss:
    """One record's negative log-likelihood."""

    record_id: str
    domain: str
    nats: float  # summed over the record's supervised tokens
    tokens: int  # supervised tokens

    def plus(self, other: "RecordLoss | None") -> "RecordLoss":
        """The sum of two windows of the same record."""
        return self if other is None else RecordLoss(self.record_id, self.domain, self.nats + other.nats, self.tokens + other.tokens)


def token_losses(model: Any, batch: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    """Cross-entropy (nats) of every supervised token, and the mask (batch, tokens) of the supervised positions.

    batch: input_ids, labels, position_ids, each (batch, tokens), labels not shifted. There is no attention mask: because the
    position ids restart at each record, transformers keeps the records of a block apart.
    """
    return _supervised_losses(model, _hidden_states(model, batch), batch["labels"])


def training_losses(model: Any, batch: dict[str, torch.Tensor], autocast: torch.dtype | None = None) -> torch.Tensor:
    """Cross-entropy (nats) of every supervised token, with gradients: (supervised tokens,), row after row.

    autocast: the type of the products under `torch.autocast`; None: that of the weights. It is entered here, in the thread that
    computes: a model that is handed from one trainer to the next keeps no autocast of its own (accelerate wraps it only once).
    """

    def losses(rows: dict[str, torch.Tensor]) -> torch.Tensor:
        with torch.autocast(rows["input_ids"].device.type, dtype=autocast, enabled=autocast is not None):
            return token_losses(model, rows)[0]

    return torch.cat(_by_rows(model, losses, batch))


def _by_rows(model: Any, work: Callable[[dict[str, Any]], Any], batch: dict[str, Any]) -> list[Any]:
    """The result of `work` for a batch; on a CPU one result for each part of its rows (kernels.installation)."""
    return model.compute_rows(work, batch) if hasattr(model, "compute_rows") else [work(batch)]


def _base(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _hidden_states(model: Any, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """(batch, tokens, hidden) after the last layer."""
    inner = _base(model).model
    forward = getattr(inner, "packed_forward", inner)  # kernels.packed_attention
    return forward(input_ids=batch["input_ids"], position_ids=batch["position_ids"], use_cache=False).last_hidden_state


def _supervised_losses(model: Any, hidden: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    supervised = labels != IGNORED  # (batch, tokens)
    before = supervised.roll(-1, dims=1)  # a token is predicted by the state one position before it; position 0 is never supervised
    return fused_loss.head_losses(hidden[before], _base(model).lm_head, labels[supervised]), supervised


def record_losses(model: Any, blocks: Any, micro_batch_size: int, without_adapter: bool = False) -> list[RecordLoss]:
    """The loss of every record in a packed dataset, the sum over its windows if it is long. One batch is in memory at a time."""
    starts = range(0, len(blocks), micro_batch_size)
    return sum_by_record(batch_losses(model, blocks[start : start + micro_batch_size], without_adapter) for start in starts)


def batch_losses(model: Any, rows: dict[str, Any], without_adapter: bool = False) -> list[RecordLoss]:
    """The losses of the windows in a few blocks. rows: columns of a packed dataset, each (blocks, ...)."""
    model.eval()
    with model.disable_adapter() if without_adapter else nullcontext(), torch.inference_mode():
        return list(chain.from_iterable(_by_rows(model, lambda part: _losses(model, part), rows)))


def paired_batch_losses(model: Any, rows: dict[str, Any]) -> dict[str, list[RecordLoss]]:
    """`base` and `adapter` losses of the windows in a few blocks, with the adapter off and on; in one pass if its kind allows."""
    if not paired_layers.can_pair(model):
        return {who: batch_losses(model, rows, without_adapter=who == "base") for who in ("base", "adapter")}
    model.eval()
    with paired_layers.paired(model), torch.inference_mode():
        found = _by_rows(model, lambda part: _paired_losses(model, part), rows)
    return {who: list(chain.from_iterable(part[who] for part in found)) for who in ("base", "adapter")}


def choice_losses(model: Any, questions: Sequence[Sequence[Encoded]]) -> dict[str, list[list[float]]]:
    """`base` and `adapter` nats of every window's graded tokens, a list for each question.

    questions: for each prompt its windows, the prompt with each of several answers. What all of them begin with goes through the model
    once; graded tokens in it are not counted, since they are the same for all.
    """
    model.eval()
    with torch.inference_mode():
        if paired_layers.can_pair(model):
            with paired_layers.paired(model):
                found = _choice_losses(model, [*questions, *questions])
            return {"base": found[: len(questions)], "adapter": found[len(questions) :]}
        with model.disable_adapter():
            base = _choice_losses(model, questions)
        return {"base": base, "adapter": _choice_losses(model, questions)}


def _choice_losses(model: Any, questions: Sequence[Sequence[Encoded]]) -> list[list[float]]:
    heads = [_common([window.input_ids[:-1] for window in windows]) for windows in questions]
    mask = _padded([[1] * len(head) for head in heads], model, left=True)
    prompts = _base(model).model(
        input_ids=_padded(heads, model, left=True), attention_mask=mask, position_ids=_positions(mask), use_cache=True
    )
    found: list[list[float]] = [[] for _ in questions]
    columns = max(1, CHOICE_TOKENS // mask.numel())
    for start in range(0, max(map(len, questions)), columns):
        rows = [(n, window) for n, windows in enumerate(questions) for window in windows[start : start + columns]]
        tails = [(window.input_ids[len(heads[n]) :], window.labels[len(heads[n]) :]) for n, window in rows]
        numbers = torch.tensor([n for n, _ in rows], device=mask.device)
        for (n, _), nats in zip(rows, _tail_losses(model, prompts, mask, numbers, tails), strict=True):
            found[n].append(nats)
    return found


def _tail_losses(
    model: Any, prompts: Any, mask: torch.Tensor, numbers: torch.Tensor, tails: Sequence[tuple[list[int], list[int]]]
) -> list[float]:
    """Nats of the graded tokens of each tail (its ids and labels), which follows the prompt with its number. prompts: the model's output."""
    states = prompts.last_hidden_state[numbers, -1:]  # each prompt's last state predicts the first token of a tail
    if max(len(ids) for ids, _ in tails) > 1:
        cache = deepcopy(prompts.past_key_values)
        cache.batch_select_indices(numbers)
        own = _padded([[1] * (len(ids) - 1) for ids, _ in tails], model)
        whole = torch.cat([mask[numbers], own], dim=1)
        after = _base(model).model(
            input_ids=_padded([ids[:-1] for ids, _ in tails], model), attention_mask=whole, past_key_values=cache, use_cache=True,
            position_ids=_positions(whole)[:, mask.shape[1] :],
        )  # fmt: skip
        states = torch.cat([states, after.last_hidden_state], dim=1)
    labels = _padded([labels for _, labels in tails], model, fill=IGNORED)
    graded = labels != IGNORED
    losses = fused_loss.head_losses(states[graded], _base(model).lm_head, labels[graded]).float()
    return losses.new_zeros(len(tails)).index_add(0, graded.nonzero()[:, 0], losses).tolist()


def _common(rows: Sequence[list[int]]) -> list[int]:
    """What all rows begin with."""
    first, last = min(rows), max(rows)
    return first[: next((n for n, (one, other) in enumerate(zip(first, last, strict=False)) if one != other), len(first))]


def _padded(rows: Sequence[Sequence[int]], model: Any, fill: int = 0, left: bool = False) -> torch.Tensor:
    """(rows, longest), padded with `fill`."""
    longest = max(map(len, rows))
    padding = [[fill] * (longest - len(row)) for row in rows]
    filled = [[*more, *row] if left else [*row, *more] for row, more in zip(rows, padding, strict=True)]
    return torch.tensor(filled, device=next(model.parameters()).device)


def _positions(mask: torch.Tensor) -> torch.Tensor:
    return (mask.cumsum(1) - 1).clamp(min=0)


def _tensors(model: Any, rows: dict[str, Any]) -> dict[str, torch.Tensor]:
    device = next(model.parameters()).device
    return {name: torch.tensor(rows[name], device=device) for name in COLUMNS}


def _losses(model: Any, rows: dict[str, Any]) -> list[RecordLoss]:
    batch = _tensors(model, rows)
    return list(_by_record(*token_losses(model, batch), batch["position_ids"], rows))


def _paired_losses(model: Any, rows: dict[str, Any]) -> dict[str, list[RecordLoss]]:
    batch = _tensors(model, rows)
    losses = zip(("base", "adapter"), paired_token_losses(model, batch), strict=True)
    return {who: list(_by_record(*found, batch["position_ids"], rows)) for who, found in losses}


def paired_token_losses(model: Any, batch: dict[str, torch.Tensor]) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """`token_losses` of base and adapter for the same batch, computed together. The model is one within `paired_layers.paired`."""
    halves = _hidden_states(model, {name: values.repeat(2, 1) for name, values in batch.items()}).chunk(2)
    return [_supervised_losses(model, hidden, batch["labels"]) for hidden in halves]


def sum_by_record(batches: Iterable[Iterable[RecordLoss]]) -> list[RecordLoss]:
    """One loss for each record, in the order of first appearance."""
    found: dict[str, RecordLoss] = {}
    for loss in (loss for batch in batches for loss in batch):
        found[loss.record_id] = loss.plus(found.get(loss.record_id))
    return list(found.values())


def _by_record(losses: torch.Tensor, supervised: torch.Tensor, positions: torch.Tensor, rows: dict[str, Any]) -> Iterable[RecordLoss]:
    """The sum of the token losses of each record. A record begins at each position 0; padding is the last one, without supervised tokens."""
    spread = torch.zeros(supervised.shape, dtype=torch.float64, device=losses.device)
    spread[supervised] = losses.double()
    number = (positions == 0).cumsum(1) - 1  # (batch, tokens): the record of its block that a token belongs to
    for row, (ids, domains) in enumerate(zip(rows["record_ids"], rows["domains"], strict=True)):
        most = int(number[row].max()) + 1
        nats = torch.zeros(most, dtype=torch.float64, device=losses.device).index_add_(0, number[row], spread[row]).tolist()
        tokens = torch.bincount(number[row][supervised[row]], minlength=most).tolist()
        for place, (record_id, domain) in enumerate(zip(ids, domains, strict=True)):
            yield RecordLoss(record_id, domain, nats[place], tokens[place])


def mean(losses: Collection[RecordLoss]) -> float:
    """Nats per supervised token over all records; perplexity is its exponential."""
    return sum(loss.nats for loss in losses) / sum(loss.tokens for loss in losses)


def by_domain(losses: Iterable[RecordLoss]) -> dict[str, list[RecordLoss]]:
    ordered = sorted(losses, key=lambda loss: loss.domain)
    return {domain: list(part) for domain, part in groupby(ordered, lambda loss: loss.domain)}
