"""Memory that the C library keeps after it was freed: kept within a step, given back between steps when it is much; and Python's garbage.

Tensors of ever other lengths leave gaps that the next ones do not fit: glibc's heap grew by 50 to 60 MiB at each step of a
training on a CPU while no more than 340 MiB of it were in use. Tensors that go back to the system at once, on the other hand,
come back as pages that the kernel has to clear first, tens of thousands at each step.

Source: malloc_trim(3), mallinfo(3), mallopt(3)
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEPT = 2**30  # bytes: what is kept for the next step need not be asked of the system again
KEPT_IN_A_PASS = 2**27  # bytes: the same between two layers, where memory is what is to be saved

# mallopt(3)
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -2, -3, -4, -8
FOR_REUSE = {MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**30, TOP_PAD: 2**26, MMAP_MAX: 2**16}  # bytes, but for the last: pieces
HOLDING = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
USUAL = {TRIM_THRESHOLD: 2**26, MMAP_MAX: 2**16}  # what glibc raises the first one to by itself at most; the second is its default

_asked = dict(USUAL)  # what this process asked for to last, and returns to after `keep_freed_memory`


class _Counts(ctypes.Structure):
    """struct mallinfo2; `fordblks` are the bytes that are free inside the heap."""

    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def _glibc() -> Any:
    """The C library if it is glibc, otherwise None: any other is left alone."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = _Counts
    return library


def _set(options: dict[int, int]) -> None:
    if (library := _glibc()) is not None:
        for option, value in options.items():
            library.mallopt(option, value)


def _set_to_last(options: dict[int, int]) -> None:
    _asked.update(options)
    _set(options)


def keep_for_reuse() -> None:
    """Let freed tensors below 32 MiB stay in the heap for the next ones, for the rest of this process."""
    _set_to_last(FOR_REUSE)


def release_large_pieces() -> None:
    """Have pieces of 4 MiB and more go back to the system as soon as they are freed, for the rest of this process.

    Left alone, glibc raises that size to the largest piece that was ever freed, and columns of a million numbers then leave gaps."""
    _set_to_last({MMAP_THRESHOLD: 2**22})


def release_free_memory(kept: int = KEPT) -> bool:
    """Give free memory back if there is more than `kept` bytes of it; whether it was."""
    library = _glibc()
    return library is not None and library.mallinfo2().fordblks > kept and bool(library.malloc_trim(0))


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside, memory that is freed stays with the process, for work that asks for the same sizes again and again.

    Left alone, glibc hands large pieces back at once and the system fills them with zeros anew: 60,000 page faults a batch, a
    sixth of the time of measuring. Given back at the end; what the process asked for before, or glibc's usual thresholds, hold again.
    """
    _set(HOLDING)
    try:
        yield
    finally:
        _set(_asked)
        release_free_memory(0)


@contextmanager
def freeze_gc() -> Iterator[None]:
    """What is there now (the modules of torch and transformers: half a million objects) is passed over when Python looks for garbage."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_unused_memory() -> None:
    """Let go of what nobody holds any more, on the GPU as well: before a model is loaded, where another one was."""
    import torch

    gc.collect()  # a trainer and its model hold each other
    release_free_memory(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def release_between_layers(model: Any) -> None:
    """Have a checkpointed pass on a CPU give back what its layers leave: a layer keeps its input and frees everything around it, and in
    those gaps no tensor of the next one fits. A pass of 2,048 tokens in float32 took 1.0 GiB for tensors of 0.3. Threads share one
    heap then: each with its own, two kept 160 MiB more."""
    _set({ARENA_MAX: 1})
    for module in model.modules():
        if type(module).__name__.endswith("DecoderLayer"):
            module.register_forward_pre_hook(_before_a_layer)


def _before_a_layer(*_: Any) -> None:
    release_free_memory(KEPT_IN_A_PASS)
