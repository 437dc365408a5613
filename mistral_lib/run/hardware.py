"""The device and the compute type that suit this machine, with the reason."""

import os
import platform
import shutil
from functools import cache
from pathlib import Path
from typing import Any

from mistral_lib.run import paths

GIB = 2**30
BF16_FLAGS = ("avx512_bf16", "amx_bf16")  # x86 instructions that multiply bfloat16 matrices


def device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def device_of_this_process(device: str) -> str:
    """`cuda:0`, `cuda:1`, … with several GPUs and one process for each (torchrun sets LOCAL_RANK); `cpu` is returned unchanged."""
    return f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if device == "cuda" else device


def choose_dtype(requested: str = "auto") -> tuple[str, str]:
    """The compute type's name and the reason for it.

    A GPU below compute capability 8.0 (a T4 is 7.5) only emulates bfloat16, although PyTorch calls it supported.
    Errors: ValueError if bfloat16 is requested for such a GPU.
    """
    import torch

    if not torch.cuda.is_available():
        return _cpu_dtype(requested)
    capability, name = torch.cuda.get_device_capability(), torch.cuda.get_device_name()
    fast, seen = capability >= (8, 0), f"{name} (compute capability {capability[0]}.{capability[1]})"
    if requested == "bfloat16" and not fast:
        raise ValueError(f"dtype = bfloat16: a {seen} only emulates it, expected 8.0 or more; set dtype: float16, or auto")
    if requested != "auto":
        return requested, f"requested; this is a {seen}"
    return ("bfloat16", f"a {seen} multiplies it natively") if fast else ("float16", f"a {seen} only emulates bfloat16")


def _cpu_dtype(requested: str) -> tuple[str, str]:
    native = [flag for flag in BF16_FLAGS if flag in cpu_flags()]
    if requested == "float16":
        raise ValueError("dtype = float16 is for a GPU such as a T4, and this machine has none; set dtype: auto or float32")
    if requested != "auto":
        return requested, "requested; this is a CPU"
    if native:
        return "bfloat16", f"this CPU multiplies it natively ({native[0]})"
    return "float32", "this CPU has no bfloat16 instructions and would emulate it, many times slower"


@cache
def cpu_flags() -> frozenset[str]:
    info = Path("/proc/cpuinfo")
    text = info.read_text() if info.exists() else ""
    lines = (line for line in text.splitlines() if line.startswith(("flags", "Features")))
    return frozenset(next(lines, "").split(":")[-1].split())


def describe() -> dict[str, Any]:
    """Device, memory, disk and cores; memory and disk in GiB."""
    import torch

    place = next(folder for folder in (paths.home(), *paths.home().parents) if folder.exists())  # the first run creates the home
    facts = {
        "device": device(),
        "cores": os.cpu_count(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB, 1),
        "disk_free_gib": round(shutil.disk_usage(place).free / GIB, 1),
        "python": platform.python_version(),
    }
    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        facts |= {"gpu": properties.name, "gpu_memory_gib": round(properties.total_memory / GIB, 1)}
    return facts


def peak_memory_mib() -> int:
    """Peak memory of this process, MiB: allocated on the GPU if there is one, else resident."""
    import resource

    import torch

    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() // 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
