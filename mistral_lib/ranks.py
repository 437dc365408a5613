"""Several processes at one training: `torchrun --nproc_per_node N -m mistral_lib train runs/x`, or `accelerate launch`.

Each process (rank) trains on its share of the blocks; the first one alone holds the run folder's lock, measures and writes.
Started by itself, a process is the first of one, and nothing here does anything. Knows processes; knows nothing of trainings.
"""

import os
from collections.abc import Callable
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl

from mistral_lib.stop_signal import StopSignal

PATIENCE = timedelta(hours=12)  # how long the others wait while the first one measures a large base model

T = TypeVar("T")


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    return int(os.environ.get("RANK", "0")) == 0


def place(device: str) -> str:
    """The device of this process: with several GPUs, each process has its own."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def join(device: str) -> None:
    """Meet the other processes, before anything else. On a CPU they talk through gloo, on GPUs through NCCL."""
    if count() > 1 and not dist.is_initialized():
        if device == "cuda":
            torch.cuda.set_device(place(device))
        dist.init_process_group("nccl" if device == "cuda" else "gloo", timeout=PATIENCE)


def from_first(question: Callable[[], T]) -> T:
    """The first process's answer, in every process; the others wait for it."""
    if count() == 1:
        return question()
    answer = [question() if is_first() else None]
    dist.broadcast_object_list(answer)
    return answer[0]


def wait() -> None:
    """Until every process has come this far."""
    if count() > 1:
        dist.barrier()


# -- what is decided between the steps ------------------------------------------------------------------------------

DECISIONS = ("should_evaluate", "should_save", "should_training_stop")


def share_decisions(control: TrainerControl) -> None:
    """The first process decides whether to validate, to save and to stop; the others do the same."""
    decided = from_first(lambda: [getattr(control, name) for name in DECISIONS])
    for name, value in zip(DECISIONS, decided, strict=True):
        setattr(control, name, value)


class SharedWish(TrainerCallback):
    """A wish to stop that reached any process is every process's: all save and stop after the same step."""

    def __init__(self, stop: StopSignal):
        self.stop = stop

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        votes = torch.tensor(int(self.stop.wished), device=args.device)
        dist.all_reduce(votes, dist.ReduceOp.MAX)
        self.stop.wished = bool(votes.item())


class SharedDecisions(TrainerCallback):
    """After a step, the first process's decisions are everybody's."""

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> Any:
        share_decisions(control)
        return control
