"""For CPUs only (`installation`): the rows of a batch in parallel, each in one thread from the first layer to the last.

By default PyTorch splits every operator over all threads, which wait for each other after it. A small model's operators take a
fraction of a millisecond, so threads are idle much of the time. With one row or one thread, nothing is divided.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch.autograd import Function


def compute_rows(model: torch.nn.Module, work: Callable[[Any], Any], batch: Mapping[str, Sequence[Any]]) -> list[Any]:
    """The results of `work` for parts of the rows of a batch, in order. batch: columns. With gradients: tensors (n,), returned as one."""
    if not torch.is_grad_enabled():
        return side_by_side(torch.inference_mode()(work), parts(batch))  # the mode holds for one thread
    pieces = parts(batch) if divisible(model) else [batch]
    if len(pieces) == 1:
        return [work(batch)]
    return [Apart.apply(work, pieces, *(weight for weight in model.parameters() if weight.requires_grad))]


def parts(batch: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """The rows of a batch in one part per thread, fewer if there are fewer rows, in order. batch: columns."""
    rows = len(next(iter(batch.values())))
    count = max(1, min(rows, torch.get_num_threads()))
    edges = pairwise(rows * n // count for n in range(count + 1))
    return [{name: values[first:last] for name, values in batch.items()} for first, last in edges]


def side_by_side(work: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
    """work(piece) of each piece, in a thread each. An error is raised after all have ended: none still runs or holds memory then."""
    if len(pieces) == 1:
        return [work(pieces[0])]
    running = [_pool(len(pieces), torch.get_num_threads()).submit(work, piece) for piece in pieces]
    wait(running)
    return [one.result() for one in running]


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Python threads, each with its share of PyTorch's threads."""
    return ThreadPoolExecutor(workers, "rows", initializer=torch.set_num_threads, initargs=(max(1, threads // workers),))


os.register_at_fork(after_in_child=_pool.cache_clear)  # a forked process has no threads but its own


def divisible(model: torch.nn.Module) -> bool:
    """Whether the rows of a training batch may be computed in parallel. Not with dropout: the order of its random numbers would vary."""
    return not any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())


class Apart(Function):
    """The results (n,) of work(piece), concatenated, with gradients for `weights`.

    Each thread builds the graph of its own piece, and later runs that graph's backward pass.
    """

    @staticmethod
    def forward(ctx: Any, work: Callable[[Any], torch.Tensor], pieces: Sequence[Any], *weights: torch.Tensor) -> torch.Tensor:
        ctx.weights = weights
        ctx.results = side_by_side(torch.enable_grad()(work), pieces)
        return torch.cat([result.detach() for result in ctx.results])

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        def gradients(one: tuple[torch.Tensor, torch.Tensor]) -> tuple[torch.Tensor | None, ...]:
            return torch.autograd.grad(one[0], ctx.weights, one[1], allow_unused=True)

        slopes = upstream.split([len(result) for result in ctx.results])
        found = side_by_side(gradients, list(zip(ctx.results, slopes, strict=True)))
        del ctx.results  # and with them the graphs
        return None, None, *map(_added, *found)


def _added(*gradients: torch.Tensor | None) -> torch.Tensor | None:
    given = [one for one in gradients if one is not None]
    for one in given[1:]:
        given[0].add_(one)
    return given[0] if given else None
