"""Freed memory goes back to the system, although the C library would keep it because of memory in use behind it."""

import ctypes
import json
import os
import subprocess
import sys

import pytest

from mistral_lib.run import allocator

MIB = 2**20
PIECE = 100_000  # bytes: below glibc's threshold for a mapping of its own


def resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc")
def test_much_free_memory_is_given_back_and_little_is_kept() -> None:
    pieces = [bytearray(os.urandom(64) * (PIECE // 64)) for _ in range(3000)]
    last = pieces[-1]  # is behind the others in the heap, which therefore cannot shrink by itself
    pieces.clear()
    before = resident()
    assert not allocator.release_free_memory(kept=2**40) and resident() >= before - 8 * MIB
    assert allocator.release_free_memory(kept=64 * MIB)
    assert resident() < before - 200 * MIB
    assert len(last) > 0


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc")
def test_a_checkpointed_pass_gives_memory_back_between_its_layers(tiny_model: str) -> None:
    import torch

    from mistral_lib.model import base_model
    from mistral_lib.run import params

    model = base_model.load_base(params.Settings(base_model=tiny_model, quantization="none", dtype="float32"))
    allocator.release_between_layers(model)
    pieces = [bytearray(os.urandom(64) * (PIECE // 64)) for _ in range(3000)]
    last = pieces[-1]
    pieces.clear()
    before = resident()
    with torch.inference_mode():
        model(input_ids=torch.ones(1, 8, dtype=torch.long))
    assert resident() < before - 150 * MIB and len(last) > 0


KEPT_MEMORY = """
import json, resource
import torch
from mistral_lib.run import allocator
from tests.run.test_allocator import MIB, resident

def faults(floats=12 * MIB, times=20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        torch.ones(floats)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

usual = faults()
with allocator.keep_freed_memory():
    faults()  # the first one fetches the pages
    kept, inside = faults(), resident()
print(json.dumps({"usual": usual, "kept": kept, "again": faults(64 * MIB, 4), "inside": inside, "after": resident()}))
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc")
def test_kept_memory_is_reused_without_new_pages_and_given_back_afterwards() -> None:
    """Page faults for pieces of 48 MiB, more than the size from which glibc maps each piece separately, as large as those of a batch.

    In a process of its own, whose heap holds nothing of other tests. `again` has larger pieces, since the heap may have gaps of 48 MiB.
    """
    output = subprocess.run([sys.executable, "-c", KEPT_MEMORY], check=True, capture_output=True, text=True).stdout
    seen = json.loads(output)
    assert seen["kept"] < seen["usual"] / 5
    assert seen["again"] >= seen["usual"] / 2, "as many as before"
    assert seen["after"] < seen["inside"] - 32 * MIB, seen


KEEPS = """
import os, sys, torch
from mistral_lib.run import allocator
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
before = resident()
for word in sys.argv[1:]:
    if word == "keep_for_reuse":
        allocator.keep_for_reuse()
    with allocator.keep_freed_memory():
        pass
pieces = [torch.ones(4 * 2**20) for _ in range(8)]  # 16 MiB each
del pieces
print((resident() - before) / 2**20)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="the C library is not glibc")
@pytest.mark.parametrize(("asked", "kept"), [([], False), (["keep_freed_memory"], False), (["keep_for_reuse"], True)])
def test_freed_tensors_are_kept_for_reuse_only_on_request(asked: list[str], kept: bool) -> None:
    """In its own process, since the C library has one set of settings per process; `keep_freed_memory` restores the earlier ones."""
    done = subprocess.run([sys.executable, "-c", KEEPS, *asked], capture_output=True, text=True)
    assert (float(done.stdout) > 100) if kept else (float(done.stdout) < 30), done.stdout + done.stderr
