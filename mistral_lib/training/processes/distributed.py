"""Several processes at one training, on one machine or several: `torchrun … -m mistral_lib train runs/x`, or `accelerate launch`.

Each process (rank) trains on its share of the blocks; only the first one, on the machine that has the run folder, locks it, measures and
writes. They agree over gloo, also on GPUs, where only gradients go over NCCL: gloo notices at once that a process has ended. In a single
process the functions here do nothing. Knows processes; knows nothing of trainings.
"""

import os
import pickle
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import timedelta
from threading import Thread
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from transformers import TrainerCallback, TrainerControl

from mistral_lib.run import hardware
from mistral_lib.training.processes import meeting
from mistral_lib.training.processes.meeting import ProcessesDifferError
from mistral_lib.training.stopping import Stopped, StopSignal

PATIENCE = timedelta(minutes=30)  # without any sign of the others, after which they count as lost
LONGEST = timedelta(hours=12)  # that the others wait while the first one measures a large base model, and gives signs
ANSWER_SECONDS = 3.0  # for the store, each time that it is asked
TOGETHER = 2**22  # gradients sent at a time, 16 MiB in float32
GIVEN = "signs of the first process"  # a counter in the store

T = TypeVar("T")


class LostProcess(Stopped):
    """Another process of this training has ended, or gave no sign for too long. What was saved is kept."""


@dataclass(frozen=True)
class Joined:
    """How the processes talk: a gloo group for what they agree on, and the store through which they met."""

    group: Any
    store: Any


_joined: list[Joined] = []  # empty until this process has joined


def count() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def rank() -> int:
    """The number of this process among all of them, on all machines."""
    return int(os.environ.get("RANK", "0"))


def is_first() -> bool:
    return rank() == 0


def leads_its_machine() -> bool:
    """Whether this is the first process on its machine."""
    return int(os.environ.get("LOCAL_RANK", "0")) == 0


def has_joined() -> bool:
    return bool(_joined)


def join(device: str, standing: Sequence[int] = (0,)) -> None:
    """Join the process group: gloo on CPUs, NCCL on GPUs. standing: of this machine's run folder; the one with the highest leads.

    Errors: RuntimeError if `accelerate launch --cpu` should have started several processes and started one; ProcessesDifferError if some
    have a GPU and others have none; LostProcess.
    """
    if "ACCELERATE_USE_CPU" in os.environ and "MASTER_ADDR" in os.environ and "WORLD_SIZE" not in os.environ:
        raise RuntimeError(
            "accelerate launch --cpu was to start several processes and has started a single one, as it does without --multi_gpu; expected "
            "one per rank: use torchrun --nproc_per_node N, or accelerate launch --multi_gpu --num_processes N (on a CPU as well)"
        )
    if count() == 1 or _joined:
        return
    if device == "cuda":
        torch.cuda.set_device(hardware.device_of_this_process(device))
    with loss_reported():
        shared = next(dist.rendezvous("env://", timeout=PATIENCE))[0]
        store = dist.PrefixStore(_word(shared), shared)
        order = meeting.leading_order(meeting.introduced(store, rank(), count(), device, standing))
        os.environ["RANK"] = str(order.index(rank()))
        backend = "nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, store=dist.PrefixStore("steps", store), rank=rank(), world_size=count(), timeout=PATIENCE)
        _joined.append(Joined(dist.new_group(backend="gloo", timeout=LONGEST), store))


def _word(store: Any) -> str:
    try:
        return meeting.agreed_word(store, rank(), count(), PATIENCE.total_seconds())
    except TimeoutError as error:
        raise LostProcess(f"{error}; look at the output of each machine") from None


# -- agreeing --------------------------------------------------------------------------------------------------------------


def from_first(question: Callable[[], T]) -> T:
    """The first process's answer, or its error, in every process; the others wait for it. Errors: LostProcess."""
    if count() == 1:
        return question()
    answer = [_answer(question) if is_first() else None]
    wait()
    with loss_reported():
        dist.broadcast_object_list(answer, group=_joined[0].group)
    value, error = answer[0]
    if error is not None:
        raise error
    return value


def _answer(question: Callable[[], T]) -> tuple[T | None, Exception | None]:
    try:
        return question(), None
    except Exception as error:
        error.__traceback__ = error.__cause__ = error.__context__ = None
        try:
            pickle.loads(pickle.dumps(error))
        except Exception:
            return None, RuntimeError(f"{type(error).__name__}: {error}")
        return None, error


def require_all(check: Callable[[], None]) -> None:
    """Each process checks; if any check raises, all processes do: none is left waiting.

    Errors: those of `check` in a single process, ProcessesDifferError that names the machines among several; LostProcess.
    """
    if count() == 1:
        return check()
    fault = ""
    try:
        check()
    except Exception as error:
        fault = f"process {rank()} on {socket.gethostname()}: {type(error).__name__}: {error}"
    if found := [text for text in gathered(fault) if text]:
        raise ProcessesDifferError("\n".join(found))


def wait() -> None:
    """Wait until every process has reached this call. Errors: LostProcess."""
    if count() > 1:
        _all_reduced(torch.zeros(1))


def any_of(yes: bool) -> bool:
    """Whether `yes` is true in any process."""
    return yes if count() == 1 else bool(_all_reduced(torch.tensor([float(yes)])).item())


def gathered(value: T) -> list[T]:
    """Every process's value, in all of them, by rank. Errors: LostProcess."""
    if count() == 1:
        return [value]
    values: list[Any] = [None] * count()
    wait()
    with loss_reported():
        dist.all_gather_object(values, value, group=_joined[0].group)
    return values


def bytes_from_first(content: torch.Tensor) -> torch.Tensor:
    """The first process's bytes (uint8, the same length in all processes) in every process."""
    with loss_reported():
        dist.broadcast(content, 0, group=_joined[0].group)
    return content


def finish() -> None:
    """The end of the training: the others wait for it, so that a late failure of the first process is one of all."""
    with suppress(LostProcess) if is_first() else nullcontext():  # for the first process all is done
        wait()


def _all_reduced(values: torch.Tensor) -> torch.Tensor:
    """The largest values of all processes. While it waits, this process answers signals and watches for signs of the first one."""
    with loss_reported():
        work = dist.all_reduce(values, dist.ReduceOp.MAX, group=_joined[0].group, async_op=True)
        pause, watch = 0.0002, Watch()
        while not work.is_completed():
            time.sleep(pause)
            pause = min(1.3 * pause, 0.1)  # seconds
            watch.look()
        work.wait()
    return values


# -- a process that is lost ------------------------------------------------------------------------------------------------


def give_sign() -> None:
    """In the first process, as it works: the others need not give up. Called after forward passes, never by a clock."""
    if _joined:
        _joined[0].store.add(GIVEN, 1)


class Watch:
    """Looks, while a process waits, whether the first one still gives signs; before its first sign it may be downloading."""

    def __init__(self) -> None:
        self.signs: int | None = None
        self.changed = self.answered = self.looked = time.monotonic()
        self.asking: Thread | None = None
        self.answers: list[int] = []

    def look(self) -> None:
        """Errors: LostProcess after PATIENCE without a new sign, or without an answer of the store, which is on one of the machines."""
        now, patience = time.monotonic(), PATIENCE.total_seconds()
        if now - self.looked < patience / 10:
            return
        self.looked, signs = now, self._signs()
        if signs is not None:
            self.answered = now
            if signs != self.signs:
                self.signs, self.changed = signs, now
        if now - self.answered > patience or (self.signs and now - self.changed > patience):
            raise LostProcess(f"another of the {count()} processes gave no sign for {patience:.0f} s")

    def _signs(self) -> int | None:
        """What the store says; None if it does not answer. A thread asks, since PyTorch waits for an answer without a limit."""
        if self.asking is None or not self.asking.is_alive():
            self.asking = Thread(target=self._ask, daemon=True)
            self.asking.start()
        self.asking.join(ANSWER_SECONDS)
        return self.answers.pop() if self.answers else None

    def _ask(self) -> None:
        with suppress(RuntimeError):  # a connection that was closed
            self.answers.append(_joined[0].store.add(GIVEN, 0))


def end_if_lost(why: Stopped, code: int) -> None:
    """End this process at once after a LostProcess: at a normal exit gloo would wait for the silent process, up to LONGEST."""
    if isinstance(why, LostProcess):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


@contextmanager
def loss_reported() -> Iterator[None]:
    """Errors: LostProcess in place of PyTorch's errors for a connection that another process's end has closed."""
    try:
        yield
    except RuntimeError as error:
        if not (isinstance(error, dist.DistError) or "gloo" in str(error)):
            raise
        why = str(error).splitlines()[0][:300]
        raise LostProcess(
            f"another of the {count()} processes has ended or cannot be reached, and its own output says why ({why}); "
            "with torchrun --max-restarts all are started again"
        ) from error


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
        if any_of(self.stop.requested):
            self.stop.requested = True  # never False: a signal may arrive during the vote


class StartTogether(TrainerCallback):
    """The others make their first step when the first process is ready for it: it may have a validation to measure again."""

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        wait()
