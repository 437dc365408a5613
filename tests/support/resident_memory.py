"""How much memory a piece of work takes at most: pages of mapped files count as well as the process's own. For a process of its own.

Source: proc(5): VmHWM is the peak of VmRSS, which is RssAnon + RssFile + RssShmem; writing 5 to clear_refs sets it back.
"""

from collections.abc import Callable
from pathlib import Path


def peak_rise(work: Callable[[], object]) -> int:
    """By how many bytes the resident memory of this process rose at most above its start while `work` ran."""
    Path("/proc/self/clear_refs").write_text("5")
    before = _bytes("VmRSS")
    work()
    return _bytes("VmHWM") - before


def _bytes(row: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{row}:"))
