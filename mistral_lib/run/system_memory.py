"""How much memory is left, and how often the kernel has killed a process for lack of it: of the machine and of its control groups; and
how much is left on the GPU.

Source: proc(5); Linux kernel documentation, admin-guide/cgroup-v2 and cgroup-v1/memory.
"""

from itertools import chain
from pathlib import Path

from mistral_lib.run import hardware

MACHINE = "/proc/vmstat"
CONTROL_GROUPS = Path("/sys/fs/cgroup")


def left_share() -> float:
    """The smallest share of memory that is left, over the machine and every control group with a limit."""
    return max(0.0, min((left / total for left, total in _left()), default=1.0))


def left_bytes() -> int:
    """The memory that this process can still take; 0 if nothing tells."""
    return max(0, min((left for left, _ in _left()), default=0))


def left_on_card(kind: str = "") -> int | None:
    """Bytes that are free on the GPU of this process, whoever holds the others; None without one, or if `kind` is not in its name.

    The call itself creates this process's CUDA context, which is then no longer free.
    """
    import torch

    if not torch.cuda.is_available():
        return None
    card = hardware.device_of_this_process("cuda")
    return torch.cuda.mem_get_info(card)[0] if kind in torch.cuda.get_device_name(card) else None


def _left() -> list[tuple[int, int]]:
    """Bytes that are left, and bytes in all: of the machine and of every control group with a limit."""
    machine = _table(Path("/proc/meminfo"))  # in KiB
    found = [(machine["MemAvailable:"] * 1024, machine["MemTotal:"] * 1024)] if machine.get("MemTotal:") else []
    for folder in chain.from_iterable(_control_groups()):
        limit = _number(folder / "memory.max") or _number(folder / "memory.limit_in_bytes")
        usage = _table(folder / "memory.stat")
        anonymous = usage.get("anon", usage.get("total_rss"))  # the kernel can drop the file cache
        if limit and anonymous is not None and limit < 2**60:  # version 1 writes "no limit" as a huge number
            found.append((limit - anonymous, limit))
    return found


def kernel_kills() -> dict[str, int]:
    """How many processes the kernel has killed for lack of memory, by counter: on the machine, and in the control groups of this
    process. A killed process is counted in its own group, whichever limit was reached."""
    own = (groups[0] / name for groups in _control_groups() for name in ("memory.events", "memory.oom_control"))
    return {str(path): table["oom_kill"] for path in (Path(MACHINE), *own) if "oom_kill" in (table := _table(path))}


def boot() -> str:
    """The id of this boot: it changes when the machine restarts, and the counters then start again."""
    return _text(Path("/proc/sys/kernel/random/boot_id")).strip()


def _control_groups() -> list[list[Path]]:
    """The folders of each control group that this process is in and that counts memory: its own first, then those around it."""
    found = []
    for line in _text(Path("/proc/self/cgroup")).splitlines():
        _, controllers, place = line.split(":", 2)
        if controllers in ("", "memory"):
            root = CONTROL_GROUPS / controllers
            inner = root / place.lstrip("/")
            found.append([folder for folder in (inner, *inner.parents) if folder.is_relative_to(root)])
    return found


def _table(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) > 1 and row[1].isdigit()}


def _number(path: Path) -> int:
    text = _text(path).strip()
    return int(text) if text.isdigit() else 0


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""
