"""Several processes at one training: `torchrun --nproc_per_node N -m mistral_lib train runs/x`, or `accelerate launch`.

Each process (rank) trains on its share of the blocks; only the first one locks the run folder, measures and writes.
In a single process the functions here do nothing. Knows processes; knows nothing of trainings.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl

from mistral_lib.run import hardware
from mistral_lib.training.stopping import StopSignal

PATIENCE = timedelta(hours=12)  # that the others wait while the first one measures a large base model
TOGETHER = 2**22  # gradients sent at a time, 16 MiB in float32

T = TypeVar("T")


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def join(device: str) -> None:
    """Join the process group: gloo on CPUs, NCCL on GPUs.

    Errors: RuntimeError if `accelerate launch --cpu` should have started several processes and started one.
    """
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise RuntimeError(
            "accelerate launch --cpu was to start several processes and has started a single one, as it does without --multi_gpu; expected "
            "one per rank: use torchrun --nproc_per_node N, or accelerate launch --multi_gpu --num_processes N (on a CPU as well)"
        )
    if count() > 1 and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(hardware.device_of_this_process(device))
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


def from_first(question: Callable[[], T]) -> T:
    """The first process's answer, in every process; the others wait for it."""
    if count() == 1:
        return question()
    answer = [question() if is_first() else None]
    dist.broadcast_object_list(answer)
    return answer[0]


def wait() -> None:
    """Wait until every process has reached this call."""
    if count() > 1:
        dist.barrier()


def any_of(yes: bool, device: Any) -> bool:
    """Whether `yes` is true in any process."""
    if count() == 1:
        return yes
    votes = torch.tensor(int(yes), device=device)
    dist.all_reduce(votes, dist.ReduceOp.MAX)
    return bool(votes.item())


def gathered(value: T) -> list[T]:
    """Every process's value, in all of them, by rank."""
    values: list[Any] = [None] * count()
    dist.all_gather_object(values, value)
    return values


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Every process's gradients become the mean over all of them; one without a gradient counts as zeros."""
    for group in _groups([p for p in parameters if p.requires_grad]):
        flat = torch.cat([torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in group])
        dist.all_reduce(flat.div_(count()))
        for parameter, mean in zip(group, flat.split([p.numel() for p in group]), strict=True):
            parameter.grad = mean.view_as(parameter)


def _groups(parameters: list[torch.nn.Parameter]) -> Iterator[list[torch.nn.Parameter]]:
    """The parameters in their order, in groups of at most TOGETHER gradients; a larger parameter is a group of its own."""
    group: list[torch.nn.Parameter] = []
    for parameter in parameters:
        if group and sum(p.numel() for p in (*group, parameter)) > TOGETHER:
            yield group
            group = []
        group.append(parameter)
    if group:
        yield group


# -- decisions between the steps ----------------------------------------------------------------------------------------

DECISIONS = ("should_evaluate", "should_save", "should_training_stop")


def share_decisions(control: TrainerControl) -> None:
    """The first process decides whether to validate, to save and to stop; the others do the same."""
    decided = from_first(lambda: [getattr(control, name) for name in DECISIONS])
    for name, value in zip(DECISIONS, decided, strict=True):
        setattr(control, name, value)


class SharedStopRequest(TrainerCallback):
    """If any process received a stop signal, all save and stop after the same step."""

    def __init__(self, stop: StopSignal):
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if any_of(self.stop.requested, args.device):
            self.stop.requested = True  # never False: a signal may arrive during the vote
