"""How the processes of one start find each other in a store that may still hold what the processes of an earlier start wrote.

torchrun keeps its store when it starts all processes again (seen in torch 2.13); with the old entries, gloo connects to processes that have
ended. The first process calls with a new word, each other one answers it with a word of its own, and the first confirms all of them: an
old confirmation has none of the new words. Knows a store; knows nothing of process groups.
"""

import secrets
import time
from typing import Any

PAUSE = 0.05  # seconds between two looks into the store


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
