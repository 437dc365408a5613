"""Models of this process that nobody uses at the moment and that can be loaded again: freed when something else needs the memory.

A page that keeps a model between two questions registers it here; loading another model, or starting a training, frees it.
"""

import weakref
from typing import Protocol

from mistral_lib.run import allocator


class Keeper(Protocol):
    """Keeps a model; `free` waits until it is idle, then drops it."""

    def free(self) -> None: ...


_keepers: "weakref.WeakSet[Keeper]" = weakref.WeakSet()


def keep(keeper: Keeper) -> None:
    """From now on the keeper has a model that may be freed."""
    _keepers.add(keeper)


def forget(keeper: Keeper) -> None:
    """The keeper has none any more. Its memory is returned, on the GPU as well."""
    _keepers.discard(keeper)
    allocator.release_unused_memory()


def free_all() -> int:
    """Free the models of all keepers; returns how many there were."""
    keepers = list(_keepers)
    for keeper in keepers:
        keeper.free()
    return len(keepers)
