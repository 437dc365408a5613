"""Out of memory: recognized, answered with a smaller micro batch and more accumulation steps, and logged.

The effective batch stays the same, and so does the training. Memory runs out in three ways: a CUDA error, an error of the CPU
allocator, or a kill by the kernel, which the next start recognizes from the kernel's counters and the trainer's last note of progress.
"""

import errno
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mistral_lib.run import allocator, cuda_device, system_memory
from mistral_lib.run.settings import Settings
from mistral_lib.training import hang_detection

WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")  # torch's CPU allocator, CUDA, cuBLAS
NEARLY_NONE = 0.05  # share of the memory that was left at the last note of progress
SCARCE = 0.25  # the same, if the kernel has killed a process somewhere on the machine
EXPLAINED = ("stopping", "failed", "verified")  # events that explain the end of an attempt

Result = TypeVar("Result")


class OutOfMemoryError(RuntimeError):
    """There is no smaller micro batch left; the message has what to change."""


class SharedShortageError(MemoryError):
    """Raised in every process after the same step, if memory ran out in any of them."""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How an optimizer step is divided into forward passes; the product is the effective batch. activation_checkpointing: True, False,
    or n for every n-th layer, which changes no result either."""

    micro_batch_size: int
    gradient_accumulation_steps: int
    activation_checkpointing: bool | int = False

    def smaller(self, recompute: bool = False) -> "BatchShape | None":
        """The same product with at most half the micro batch. If that is 1 already: with `recompute` and layers that keep their activations,
        every second layer is recomputed, then all; else None."""
        half = next((size for size in range(self.micro_batch_size // 2, 0, -1) if self.micro_batch_size % size == 0), None)
        if half is not None:
            return replace(
                self, micro_batch_size=half, gradient_accumulation_steps=self.gradient_accumulation_steps * self.micro_batch_size // half
            )
        every = int(self.activation_checkpointing)
        if not recompute or every == 1:
            return None
        return replace(self, activation_checkpointing=True if every == 2 else 2)

    def __str__(self) -> str:
        return f"{self.micro_batch_size} x {self.gradient_accumulation_steps}"


def requested_shape(settings: Settings) -> BatchShape:
    """settings: without `auto`, if the shape is to be used; else it names the request."""
    return BatchShape(settings.micro_batch_size, settings.gradient_accumulation_steps, settings.activation_checkpointing)


def shape_now(settings: Settings, events: list[dict[str, Any]], chosen: Settings | None = None) -> BatchShape:
    """The shape that the settings request, or the smaller one that this training retried with for the same request.

    chosen: the settings with the plan's choice for what is `auto`.
    """
    shape = requested_shape(chosen or settings)
    for event in reversed(events):
        if event["event"] == "out_of_memory" and event.get("requested") == str(requested_shape(settings)):
            recomputed = event["activation_checkpointing"] if may_recompute(settings) else shape.activation_checkpointing
            return BatchShape(event["micro_batch_size"], event["gradient_accumulation_steps"], recomputed)
    return shape


def same_blocks_per_step(shape: BatchShape, events: list[dict[str, Any]], processes: int) -> BatchShape:
    """The shape with which so many processes make steps of as many blocks as the earlier attempts of this training, which may have had
    another number of processes. Errors: ValueError if that number of blocks cannot be divided among them.
    """
    before = next((event for event in reversed(events) if event["event"] == "process" and "processes" in event), None)
    if before is None:
        return shape
    blocks = before["micro_batch_size"] * before["gradient_accumulation_steps"] * before["processes"]
    each, rest = divmod(blocks, processes)
    if rest:
        raise ValueError(
            f"this training began with {before['processes']} processes and {blocks} blocks in a step, which {processes} processes cannot share "
            "equally; start it with a number of processes that divides them"
        )
    micro = math.gcd(shape.micro_batch_size, each)
    return replace(shape, micro_batch_size=micro, gradient_accumulation_steps=each // micro)


def may_recompute(settings: Settings) -> bool:
    """Whether more layers may be recomputed than at the start."""
    return settings.activation_checkpointing == "auto"


def shrunk(shape: BatchShape, why: str, settings: Settings, log: Any) -> BatchShape:
    """The next smaller shape, written to the log. Errors: OutOfMemoryError if there is none."""
    smaller = shape.smaller(may_recompute(settings))
    if smaller is None:
        sentences = [
            f"a single block of max_tokens = {settings.max_tokens} does not fit.",
            cuda_device.others_on_the_card(),
            advice(settings),
        ]
        raise OutOfMemoryError(f"{why}; {' '.join(filter(None, sentences))}")
    named = {"others": others} if (others := cuda_device.others_on_the_card()) else {}
    log.write("out_of_memory", why=why, was=str(shape), requested=str(requested_shape(settings)), **asdict(smaller), **named)
    return smaller


def advice(settings: Settings) -> str:
    """What reduces memory if the micro batch cannot be smaller."""
    all_or_auto = settings.activation_checkpointing in (True, "auto")
    steps = [] if all_or_auto else ["set activation_checkpointing: true"]
    steps += [] if settings.quantization == "nf4" else ["set quantization: nf4"]
    steps += [f"lower max_tokens (now {settings.max_tokens}; the data are prepared again)", "choose an instance with more memory"]
    return "In this order: " + "; ".join(steps)


def is_shortage(error: BaseException) -> bool:
    """Whether an error means that memory ran out, on a GPU or on a CPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def describe(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else 'no memory left'}"


def retry_on_out_of_memory(attempt: Callable[[], Result], shrink: Callable[[str], None], together: bool = False) -> Result:
    """Call `attempt` until memory suffices; before each retry, free the memory of the last call and call `shrink(why)`.

    together: several processes take part, so only a shortage that all of them have seen is answered.
    """
    while True:
        try:
            return attempt()
        except (MemoryError, RuntimeError, OSError) as error:
            retry = isinstance(error, SharedShortageError) if together else is_shortage(error)
            if isinstance(error, OutOfMemoryError) or not retry:
                raise
            why = describe(error)
        allocator.release_unused_memory()  # outside of the except clause: the error refers to the failed step's frames and so to its tensors
        shrink(why)


# -- the kernel's kill ----------------------------------------------------------------------------------------------


def counters() -> dict[str, Any]:
    """What a trainer logs at its start: the next start compares."""
    return {"boot": system_memory.boot(), "kernel_kills": system_memory.kernel_kills()}


def last_attempt(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The events since the last trainer started."""
    starts = [number for number, event in enumerate(events) if event["event"] == "process"]
    return events[starts[-1] :] if starts else []


def killed_for_memory(events: list[dict[str, Any]], folder: Path) -> str | None:
    """Why the last trainer seems to have been killed for lack of memory; None without evidence."""
    attempt = last_attempt(events)
    if not attempt or any(event["event"] in EXPLAINED for event in attempt):
        return None
    if attempt[0].get("boot") != system_memory.boot():
        return None  # the machine was restarted, which ended it
    before = attempt[0].get("kernel_kills", {})
    risen = [name for name, kills in system_memory.kernel_kills().items() if kills > before.get(name, kills)]
    left = hang_detection.last_note(folder).get("memory_left")
    own = [name for name in risen if name != system_memory.MACHINE]
    if own or (risen and (left is None or left < SCARCE)):  # the machine's count also rises for other programs
        return f"the process was killed while {events[-1]['event']}, and the kernel has killed for lack of memory ({(own or risen)[0]})"
    if left is not None and left < NEARLY_NONE:
        return f"the process was killed while {events[-1]['event']}, without an error, with {left:.1%} of the memory left"
    return None


def made_progress(events: list[dict[str, Any]]) -> bool:
    """Whether the last attempt reached a checkpoint, so that another one with the same micro batch gets further."""
    return any(event["event"] == "checkpoint" for event in last_attempt(events))


def refuse_if_loading(why: str | None, events: list[dict[str, Any]], settings: Settings) -> None:
    """Errors: OutOfMemoryError if the process was killed while loading the base model, which a smaller micro batch cannot help."""
    if why and events[-1]["event"] == "loading":
        raise OutOfMemoryError(
            f"{why}: loading {settings.base_model} needs more memory than there is; "
            "end other programs, raise the container's limit, or choose an instance with more memory"
        )
