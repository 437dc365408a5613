"""Memory that the C library keeps after it was freed, given back to the system when it is much.

Tensors of ever other lengths leave gaps that the next ones do not fit: glibc's heap grew by 50 to 60 MiB at each step of a
training on a CPU while no more than 340 MiB of it were in use.   Source: malloc_trim(3), mallinfo(3)
"""

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

KEPT = 2**30  # bytes: what is kept for the next step need not be asked of the system again


class _Counts(ctypes.Structure):
    """struct mallinfo2; `fordblks` are the bytes that are free inside the heap."""

    _fields_ = [(name, ctypes.c_size_t) for name in
                ("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost")]  # fmt: skip


def give_back(kept: int = KEPT) -> bool:
    """Give free memory back if there is more than `kept` bytes of it; whether it was. A C library other than glibc is left alone."""
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        return False
    library.mallinfo2.restype = _Counts
    return library.mallinfo2().fordblks > kept and bool(library.malloc_trim(0))


# mallopt(3): TRIM_THRESHOLD, MMAP_THRESHOLD and MMAP_MAX; the second row is where glibc's own adjustment ends
HOLDING = {-1: 2**31 - 1, -4: 0}
USUAL = {-1: 2**26, -3: 2**25, -4: 2**16}


@contextmanager
def held() -> Iterator[None]:
    """Inside, memory that is freed stays with the process, for work that asks for the same sizes again and again.

    Left alone, glibc hands large pieces back at once and the system fills them with zeros anew: 60,000 page faults a batch, a
    sixth of the time of measuring. Given back at the end. A C library other than glibc is left alone.
    """
    library = ctypes.CDLL(None)
    if not hasattr(library, "mallinfo2"):
        yield
        return
    for option, value in HOLDING.items():
        library.mallopt(option, value)
    try:
        yield
    finally:
        for option, value in USUAL.items():
            library.mallopt(option, value)
        library.malloc_trim(0)
