"""Rows of a batch computed side by side on a CPU: each thread has whole rows, from the first layer to the last.

Left to itself PyTorch puts all threads to one operator at a time and has them wait for each other after it. A small model's operators
take a fraction of a millisecond, and much of the machine waits. On a GPU, and with one row or one thread, nothing is divided.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from functools import cache
from itertools import pairwise
from typing import Any

import torch
from torch.autograd import Function


def parts(batch: Mapping[str, Sequence[Any]], device: str) -> list[dict[str, Any]]:
    """The rows of a batch in as many parts as threads can have one, in order. batch: columns; device: where it is computed."""
    rows = len(next(iter(batch.values())))
    count = max(1, min(rows, torch.get_num_threads())) if device == "cpu" else 1
    edges = pairwise(rows * n // count for n in range(count + 1))
    return [{name: values[first:last] for name, values in batch.items()} for first, last in edges]


def side_by_side(work: Callable[[Any], Any], pieces: Sequence[Any]) -> list[Any]:
    """work(piece) of each piece, a thread each. An error is raised when all have ended: none holds memory or goes on behind it."""
    if len(pieces) == 1:
        return [work(pieces[0])]
    running = [_pool(len(pieces), torch.get_num_threads()).submit(work, piece) for piece in pieces]
    wait(running)
    return [one.result() for one in running]


@cache
def _pool(workers: int, threads: int) -> ThreadPoolExecutor:
    """Python threads of which each has its share of PyTorch's threads."""
    return ThreadPoolExecutor(workers, "rows", initializer=torch.set_num_threads, initargs=(max(1, threads // workers),))


os.register_at_fork(after_in_child=_pool.cache_clear)  # threads do not come along


def divisible(model: torch.nn.Module) -> bool:
    """Whether the rows of a training batch may be computed apart. Dropout may not: its random numbers would come in any order."""
    return not any(isinstance(module, torch.nn.Dropout) and module.p > 0 for module in model.modules())


class Apart(Function):
    """work(piece) of every piece, (n,) each, one after the other in a tensor, differentiable by weights.

    Each thread builds the graph of its own piece, and goes back through it when the gradient is asked for.
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
