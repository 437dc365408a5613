"""What a worker does: a function that is built once in the worker, and called for each item.

It is named, not sent: every node has the same library, and that is checked.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol

import mistral_lib

Named = tuple[str, Any]  # an item, and its name for messages


@dataclass(frozen=True, slots=True)
class Job:
    maker: str  # "module:function" of this library; the function returns the one that is called for each item
    arguments: tuple[Any, ...] = ()

    def work(self) -> Callable[[Any], Any]:
        module, _, name = self.maker.partition(":")
        return getattr(import_module(module), name)(*self.arguments)


@dataclass(frozen=True, slots=True)
class Finished:
    """A result that says how many rows it stands for, so that an engine can report its speed."""

    value: Any
    rows: int


class Engine(Protocol):
    workers: int  # 0: the work is done in this process

    def map(self, job: Job, items: Iterable[Named]) -> Iterator[Any]:
        """The results in the order of the items. Errors: those of the work; WorkerLostError."""

    def described(self) -> str:
        """Where the work is done, with speed and memory if they are known."""


class WorkerLostError(ChildProcessError):
    """Workers ended while they worked on an item, or none can be started; the message names it and says what to do."""


def answer(work: Callable[[Any], Any], item: Any) -> Any:
    """The result, or the error as a value: it is raised where the result is wanted."""
    try:
        return work(item)
    except Exception as error:
        return error


def result(answered: Any) -> Any:
    """The result without its number of rows. Errors: the error of the work."""
    if isinstance(answered, BaseException):
        raise answered
    return answered.value if isinstance(answered, Finished) else answered


@cache
def library_hash() -> str:
    """A hash of the library's code on this machine: the same on all nodes."""
    folder, total = Path(mistral_lib.__file__).parent, hashlib.sha256()
    for path in sorted(folder.rglob("*.py")):
        total.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes())
    return total.hexdigest()
