"""While a cell waits for hours, its kernel still answers a notebook page that was closed and reopened.

A reopened page shows no widget until two requests are answered, which kernels do between cells only. During an asynchronous
cell ipykernel 7 already handles widget messages; this module lets the two requests through as well.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import copy_context
from typing import Any

REQUESTS = ("kernel_info_request", "comm_info_request")  # the second asks for the list of widgets


@contextmanager
def while_waiting() -> Iterator[None]:
    """Answer the requests of a reopened page while an `await` inside this block waits.

    Without a kernel, or before ipykernel 7, which has no subshells, this does nothing: the page works again when the cell ends.
    """
    from ipykernel.kernelbase import Kernel

    kernel = Kernel.instance() if Kernel.initialized() else None
    if getattr(kernel, "shell_channel_thread", None) is None:
        yield
        return

    async def receive(subshell_id: str | None, message: Any) -> None:
        if subshell_id is None and _kind(kernel, message) in REQUESTS:
            await _answer(kernel, message)
        else:
            await kernel.shell_main(subshell_id, message)

    manager = kernel.shell_channel_thread.manager
    manager.set_on_recv_callback(receive)
    try:
        yield
    finally:
        manager.set_on_recv_callback(kernel.shell_main)


def _kind(kernel: Any, message: Any) -> str:
    """The type of the message, from its header."""
    _, frames = kernel.session.feed_identities(message, copy=False)
    return kernel.session.deserialize(frames, content=False, copy=False)["header"]["msg_type"]


async def _answer(kernel: Any, message: Any) -> None:
    """Answer as the kernel does, concurrently with the waiting cell; then report the kernel as busy again."""
    parent, ident = kernel.get_parent("shell"), kernel._get_shell_context_var(kernel._shell_parent_ident)
    answer = kernel.dispatch_shell(message, subshell_id=None, concurrent=True)
    try:
        await asyncio.create_task(answer, context=copy_context())
    finally:
        kernel.set_parent(ident, parent, channel="shell")
        kernel._publish_status("busy", "shell", parent=parent)
