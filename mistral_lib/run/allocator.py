"""When the C library keeps freed memory for reuse and when it returns it to the system; and Python's garbage collector.

Tensors of ever-changing sizes leave gaps in the heap into which the next ones do not fit: glibc's heap grew by 50 to 60 MiB at each step
of a training on a CPU while at most 340 MiB of it were in use. But tensors whose memory is returned at once come back as pages that the
kernel has to clear first, tens of thousands at each step.

Source: malloc_trim(3), mallinfo(3), mallopt(3)
"""

import ctypes
import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

KEPT = 2**30  # bytes kept for the next step
KEPT_IN_A_PASS = 2**27  # bytes kept between two layers of a checkpointed pass, which is there to save memory

# mallopt(3)
TRIM_THRESHOLD, TOP_PAD, MMAP_THRESHOLD, MMAP_MAX, ARENA_MAX = -1, -2, -3, -4, -8
FOR_REUSE = {MMAP_THRESHOLD: 2**25, TRIM_THRESHOLD: 2**30, TOP_PAD: 2**26, MMAP_MAX: 2**16}  # bytes; the last: number of pieces
HOLDING = {TRIM_THRESHOLD: 2**31 - 1, MMAP_MAX: 0}
USUAL = {TRIM_THRESHOLD: 2**26, MMAP_MAX: 2**16}  # glibc's own: the most to which it raises the first one, and the default of the second

_lasting = dict(USUAL)  # this process's options outside of `keep_freed_memory`


class _Counts(ctypes.Structure):
    """struct mallinfo2; `fordblks` are the bytes that are free inside the heap."""

    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def _glibc() -> Any:
    """The C library if it is glibc, otherwise None: no other one is changed."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return None
    library.mallinfo2.restype = _Counts
    return library


def _set(options: dict[int, int], lasting: bool = False) -> None:
    if lasting:
        _lasting.update(options)
    if (library := _glibc()) is not None:
        for option, value in options.items():
            library.mallopt(option, value)


def keep_for_reuse() -> None:
    """Keep freed tensors below 32 MiB in the heap for the next ones, for the rest of this process."""
    _set(FOR_REUSE, lasting=True)


def release_large_pieces() -> None:
    """Return pieces of 4 MiB and more to the system as soon as they are freed, for the rest of this process.

    By default glibc raises that size to the largest piece ever freed, and columns of a million numbers then leave gaps.
    """
    _set({MMAP_THRESHOLD: 2**22}, lasting=True)


def release_free_memory(kept: int = KEPT) -> bool:
    """Return free memory to the system if it is more than `kept` bytes; True if it was."""
    library = _glibc()
    return library is not None and library.mallinfo2().fordblks > kept and bool(library.malloc_trim(0))


@contextmanager
def keep_freed_memory() -> Iterator[None]:
    """Inside the block, freed memory stays with the process, for work that needs the same sizes again and again; then it is returned.

    By default glibc returns large pieces at once and the system clears them again: 60,000 page faults a batch, a sixth of the time.
    """
    _set(HOLDING)
    try:
        yield
    finally:
        _set(_lasting)
        release_free_memory(0)


@contextmanager
def freeze_gc() -> Iterator[None]:
    """Inside the block, garbage collection skips the objects that exist now (half a million of torch and transformers)."""
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


def release_unused_memory() -> None:
    """Free unreferenced objects and return their memory, on the GPU as well: before a second model is loaded."""
    import torch

    gc.collect()  # a trainer and its model reference each other
    release_free_memory(0)
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def release_between_layers(model: Any) -> None:
    """Return memory between the layers of a checkpointed pass on a CPU. A layer keeps its input and frees everything around it, and the
    next layer's tensors do not fit into those gaps: a pass of 2,048 tokens in float32 took 1.0 GiB for tensors of 0.3 GiB.
    """
    _set({ARENA_MAX: 1})  # all threads share one heap; with a heap each, two threads kept 160 MiB more
    for module in model.modules():
        if type(module).__name__.endswith("DecoderLayer"):
            module.register_forward_pre_hook(_before_a_layer)


def _before_a_layer(*_: Any) -> None:
    release_free_memory(KEPT_IN_A_PASS)
