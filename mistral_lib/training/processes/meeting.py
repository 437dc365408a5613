"""How the processes of one start find each other, and which of them leads.

The store through which they meet may still hold what the processes of an earlier start wrote:
torchrun keeps it when it starts all processes again (seen in torch 2.13); with the old entries, gloo connects to processes that have
ended. The first process calls with a new word, each other one answers it with a word of its own, and the first confirms all of them: an
old confirmation has none of the new words. Knows a store; knows nothing of process groups.
"""

import json
import os
import secrets
import socket
import time
from collections.abc import Sequence
from typing import Any

PAUSE = 0.05  # seconds between two looks into the store


class ProcessesDifferError(RuntimeError):
    """The processes cannot train together; raised in all of them, with each machine's reason."""


def agreed_word(store: Any, rank: int, count: int, patience: float) -> str:
    """A word that only the processes of this start have, the same in all of them. Errors: TimeoutError after `patience` seconds."""
    own, end = secrets.token_hex(8), time.monotonic() + patience
    if rank == 0:
        store.set("call", own)
    while time.monotonic() < end:
        found = _confirmed(store, own, count) if rank == 0 else _answered(store, own, rank)
        if found:
            return found
        time.sleep(PAUSE)
    raise TimeoutError(f"process {rank} of {count} did not find all others within {patience:.0f} s")


def _confirmed(store: Any, own: str, count: int) -> str | None:
    """In the first process: the word, once all others have answered it."""
    names = [f"answer {rank}" for rank in range(1, count)]
    answers = [store.get(name).decode().split() for name in names if store.check([name])]
    words = [word for call, word in answers if call == own]
    if len(words) < len(names):
        return None
    store.set(f"confirmed {own}", " ".join(words))
    return own


def _answered(store: Any, own: str, rank: int) -> str | None:
    """In another process: the word of the first one, once it has confirmed ours."""
    if not store.check(["call"]):
        return None
    call = store.get("call").decode()
    store.set(f"answer {rank}", f"{call} {own}")
    confirmed = store.get(f"confirmed {call}").decode().split() if store.check([f"confirmed {call}"]) else []
    return call if own in confirmed else None


def introduced(store: Any, rank: int, count: int, device: str, standing: Sequence[int]) -> list[dict[str, Any]]:
    """What each process says of itself, by rank, before the backend is known. Errors: ProcessesDifferError."""
    local, machine = (int(os.environ.get(name, "0")) for name in ("LOCAL_RANK", "GROUP_RANK"))
    own = {"device": device, "host": socket.gethostname(), "machine": machine, "local": local, "standing": list(standing)}
    store.set(f"process {rank}", json.dumps(own))
    found = [json.loads(store.get(f"process {number}")) for number in range(count)]
    if len({each["device"] for each in found}) > 1:
        seen = "; ".join(f"process {number} on {each['host']}: {each['device']}" for number, each in enumerate(found))
        raise ProcessesDifferError(
            f"the processes have different devices: {seen}; expected a usable GPU for each of them, or for none (then hide the GPUs with "
            "CUDA_VISIBLE_DEVICES=)"
        )
    return found


def leading_order(found: list[dict[str, Any]]) -> list[int]:
    """The ranks that torchrun gave, in their new order: the machine with the highest standing first. torchrun sorts machines by address."""
    leading = max((each for each in found if each["local"] == 0), key=lambda each: (each["standing"], -each["machine"]))["machine"]
    return sorted(range(len(found)), key=lambda number: (found[number]["machine"] != leading, number))
