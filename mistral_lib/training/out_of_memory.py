"""Out of memory: recognised, answered with a smaller micro batch and as much more accumulation, and remembered in the log.

The effective batch stays what it was, so the training stays the same training. Errors come in three shapes: CUDA's, the
CPU allocator's, and no error at all, when the Linux kernel kills the process; the last is seen at the next start, from
the kernel's own counters and from how much memory was left when the trainer last got on.
"""

import errno
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from mistral_lib.run import allocator, system_memory
from mistral_lib.run.settings import Settings
from mistral_lib.training import hang_detection

WORDS = ("can't allocate memory", "not enough memory", "out of memory", "ALLOC_FAILED")  # torch's CPU allocator, CUDA, cuBLAS
NEARLY_NONE = 0.05  # share of the memory that was left at the last note of progress
SCARCE = 0.25  # the same, where the kernel has killed something somewhere on the machine
LAST_WORDS = ("stopping", "failed", "verified")  # events after which an end needs no explanation

Result = TypeVar("Result")


class OutOfMemory(RuntimeError):
    """There is no smaller micro batch left; the message holds what to change."""


class SharedShortage(MemoryError):
    """Raised in every process after the same step, because memory ran out in at least one of them."""


@dataclass(frozen=True, slots=True)
class BatchShape:
    """How an optimizer step is cut into forward passes; the product is the effective batch."""

    micro_batch_size: int
    gradient_accumulation_steps: int

    def smaller(self) -> "BatchShape | None":
        """The same product with at most half the micro batch; None if that is 1 already."""
        half = next((size for size in range(self.micro_batch_size // 2, 0, -1) if self.micro_batch_size % size == 0), None)
        if half is None:
            return None
        return BatchShape(half, self.gradient_accumulation_steps * self.micro_batch_size // half)

    def __str__(self) -> str:
        return f"{self.micro_batch_size} x {self.gradient_accumulation_steps}"


def requested_shape(settings: Settings) -> BatchShape:
    return BatchShape(settings.micro_batch_size, settings.gradient_accumulation_steps)


def shape_now(settings: Settings, events: list[dict[str, Any]]) -> BatchShape:
    """The shape that the settings request, or the smaller one that this training retried with for the same request."""
    for event in reversed(events):
        if event["event"] == "out_of_memory" and event["requested"] == str(requested_shape(settings)):
            return BatchShape(event["micro_batch_size"], event["gradient_accumulation_steps"])
    return requested_shape(settings)


def shrunk(shape: BatchShape, why: str, settings: Settings, log: Any) -> BatchShape:
    """The next smaller shape, written to the log. Errors: OutOfMemory if there is none."""
    smaller = shape.smaller()
    if smaller is None:
        raise OutOfMemory(f"{why}; a single block of max_tokens = {settings.max_tokens} does not fit. {advice(settings)}")
    log.write(
        "out_of_memory", why=why, was=str(shape), requested=str(requested_shape(settings)), micro_batch_size=smaller.micro_batch_size,
        gradient_accumulation_steps=smaller.gradient_accumulation_steps,
    )  # fmt: skip
    return smaller


def advice(settings: Settings) -> str:
    """What makes a training smaller once the micro batch cannot be."""
    steps = [] if settings.activation_checkpointing else ["set activation_checkpointing: true"]
    steps += [] if settings.quantization == "nf4" else ["set quantization: nf4"]
    steps += [f"lower max_tokens (now {settings.max_tokens}; the data are prepared anew)", "choose an instance with more memory"]
    return "In this order: " + "; ".join(steps)


def recognised(error: BaseException) -> bool:
    """Whether an error says that memory ran out, on a GPU or on a CPU."""
    import torch

    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error) for words in WORDS)


def in_words(error: BaseException) -> str:
    return f"{type(error).__name__}: {str(error).splitlines()[0][:300] if str(error) else 'no memory left'}"


def retry_on_out_of_memory(attempt: Callable[[], Result], shrink: Callable[[str], None], together: bool = False) -> Result:
    """Call `attempt` until it ends without a shortage; before each further call, `shrink(why)` and free what the last one held.

    together: several processes are in it, and only a shortage that all of them know of may be answered.
    """
    while True:
        try:
            return attempt()
        except (MemoryError, RuntimeError, OSError) as error:
            known = isinstance(error, SharedShortage) if together else recognised(error)
            if isinstance(error, OutOfMemory) or not known:
                raise
            why = in_words(error)
        allocator.release_unused_memory()  # outside of the except clause: the error holds the failed step's frames, and these its tensors
        shrink(why)


# -- the kernel's kill ----------------------------------------------------------------------------------------------


def counters() -> dict[str, Any]:
    """What a trainer writes down when it begins, to compare with after its end."""
    return {"boot": system_memory.boot(), "kernel_kills": system_memory.kernel_kills()}


def killed_for_memory(events: list[dict[str, Any]], folder: Path) -> str | None:
    """Why the last trainer, which is gone, seems to have been killed for lack of memory; None if nothing says so."""
    began = next((n for n in range(len(events) - 1, -1, -1) if events[n]["event"] == "process"), None)
    if began is None or any(event["event"] in LAST_WORDS for event in events[began:]):
        return None
    if events[began].get("boot") != system_memory.boot():
        return None  # the machine was restarted: that is what ended it
    before = events[began].get("kernel_kills", {})
    risen = [name for name, kills in system_memory.kernel_kills().items() if kills > before.get(name, kills)]
    left = hang_detection.last_note(folder).get("memory_left")
    own = [name for name in risen if name != system_memory.WHOLE_MACHINE]
    if own or (risen and (left is None or left < SCARCE)):  # the whole machine's count rises for other programs as well
        return f"the process was killed while {events[-1]['event']}, and the kernel has killed for lack of memory ({(own or risen)[0]})"
    if left is not None and left < NEARLY_NONE:
        return f"the process was killed while {events[-1]['event']}, without a word, with {left:.1%} of the memory left"
    return None


def made_progress(events: list[dict[str, Any]]) -> bool:
    """Whether the last attempt came to a checkpoint, so that one more with the same micro batch is not in vain."""
    last = [event["event"] for event in events]
    return "checkpoint" in last[len(last) - 1 - last[::-1].index("process") :] if "process" in last else False


def refuse_if_loading(why: str | None, events: list[dict[str, Any]], settings: Settings) -> None:
    """A kill while the base model was loaded has nothing to do with the micro batch. Errors: OutOfMemory."""
    if why and events[-1]["event"] == "loading":
        raise OutOfMemory(
            f"{why}: loading {settings.base_model} needs more memory than there is; "
            "end other programs, raise the container's limit, or choose an instance with more memory"
        )
