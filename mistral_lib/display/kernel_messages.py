"""While a cell waits for hours, its kernel still answers a page that was closed and is opened again.

A page that comes back asks the kernel who it is and which widgets live in it, and shows nothing until it hears. Kernels
answer between cells only, so a page reopened during a long wait would stay blank. Within an asynchronous cell,
ipykernel 7 already lets widget messages through; here the two questions of a returning page are let through as well.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

QUESTIONS = ("kernel_info_request", "comm_info_request")


@contextmanager
def while_waiting() -> Iterator[None]:
    """Let the questions of a returning page through while an `await` inside this block waits.

    Outside a kernel, or in one that has no subshells (ipykernel before 7), nothing changes: such a page comes back to
    life when the cell ends or is interrupted.
    """
    kernel = _kernel()
    if kernel is None:
        yield
        return

    async def receive(subshell_id: str | None, message: Any) -> None:
        if subshell_id is None and _kind(kernel, message) in QUESTIONS:
            await _answer(kernel, message)
        else:
            await kernel.shell_main(subshell_id, message)

    manager = kernel.shell_channel_thread.manager
    manager.set_on_recv_callback(receive)
    try:
        yield
    finally:
        manager.set_on_recv_callback(kernel.shell_main)


def _kernel() -> Any:
    """The kernel that runs this process, if it is one with subshells; None otherwise."""
    from ipykernel.kernelbase import Kernel

    kernel = Kernel.instance() if Kernel.initialized() else None
    return kernel if getattr(kernel, "shell_channel_thread", None) is not None else None


def _kind(kernel: Any, message: Any) -> str:
    """The message's type, read from its header alone."""
    _, frames = kernel.session.feed_identities(message, copy=False)
    return kernel.session.deserialize(frames, content=False, copy=False)["header"]["msg_type"]


async def _answer(kernel: Any, message: Any) -> None:
    """Answer as the kernel does it, beside the cell that waits; then the page hears that the kernel is at work."""
    parent, ident = kernel.get_parent("shell"), kernel._get_shell_context_var(kernel._shell_parent_ident)
    answer = kernel.dispatch_shell(message, subshell_id=None, concurrent=True)
    try:
        await asyncio.create_task(answer, context=copy_context())
    finally:
        kernel.set_parent(ident, parent, channel="shell")
        kernel._publish_status("busy", "shell", parent=parent)
