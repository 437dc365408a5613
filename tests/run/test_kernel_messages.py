"""A kernel that waits in a cell answers the requests of a reopened page, and runs the next cells afterwards."""

import queue
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from jupyter_client.blocking import BlockingKernelClient
from jupyter_client.manager import start_new_kernel

WAIT = """
import asyncio
from pathlib import Path
from mistral_lib.run import kernel_messages
async def wait(for_file):
    Path(for_file).with_name("waiting").touch()
    while not Path(for_file).exists():
        await asyncio.sleep(0.05)
"""


@pytest.fixture
def kernel() -> Iterator[tuple]:
    manager, client = start_new_kernel()
    client.execute_interactive(WAIT, timeout=60)
    yield manager, client
    client.stop_channels()
    manager.shutdown_kernel(now=True)


@pytest.fixture
def page(kernel: tuple) -> Iterator[BlockingKernelClient]:
    """A second client with a session of its own, like a reopened page."""
    client = BlockingKernelClient()
    client.load_connection_file(kernel[0].connection_file)
    client.start_channels()
    yield client
    client.stop_channels()


def until_it_waits(folder: Path) -> None:
    """Return once the cell is waiting, so that later requests reach a kernel that waits."""
    for _ in range(1200):
        if (folder / "waiting").exists():
            return
        time.sleep(0.05)
    pytest.fail("the cell did not start")


def asked(client, question: str, seconds: float = 60) -> str | None:
    """The type of the reply, or None if none comes within that time."""
    message = client.session.msg(question, {})
    client.shell_channel.send(message)
    try:
        while True:
            reply = client.get_shell_msg(timeout=seconds)
            if reply["parent_header"]["msg_id"] == message["header"]["msg_id"]:
                return reply["msg_type"]
    except queue.Empty:
        return None


def test_a_kernel_that_waits_answers_the_requests_of_a_reopened_page(kernel, page, tmp_path) -> None:
    _, client = kernel
    done = tmp_path / "done"
    waiting = client.execute(f"with kernel_messages.while_waiting():\n    await wait({str(done)!r})\nprint('first')")
    later = client.execute("second = 2")
    until_it_waits(tmp_path)
    assert asked(page, "kernel_info_request") == "kernel_info_reply" and asked(page, "comm_info_request") == "comm_info_reply"
    assert not done.exists(), "answered while the cell was waiting"
    done.touch()
    replies = [client.get_shell_msg(timeout=30) for _ in (waiting, later)]
    assert [r["parent_header"]["msg_id"] for r in replies] == [waiting, later], "cells still run one after the other"
    assert [r["content"]["status"] for r in replies] == ["ok", "ok"]


def test_without_it_a_reopened_page_gets_no_reply(kernel, page, tmp_path) -> None:
    _, client = kernel
    client.execute(f"await wait({str(tmp_path / 'done')!r})")
    until_it_waits(tmp_path)
    assert asked(page, "kernel_info_request", seconds=5) is None, (
        "if a kernel answers by itself now, kernel_messages.py is not needed any more"
    )
    (tmp_path / "done").touch()


def test_outside_a_kernel_it_starts_none_and_passes_errors_on() -> None:
    from ipykernel.kernelbase import Kernel

    from mistral_lib.run import kernel_messages

    assert not Kernel.initialized()
    reached = False
    with pytest.raises(KeyError), kernel_messages.while_waiting():
        reached = True
        raise KeyError
    assert reached and not Kernel.initialized()


def test_an_error_in_a_waiting_cell_ends_it_and_the_kernel_answers_again(kernel, page) -> None:
    _, client = kernel
    client.execute("with kernel_messages.while_waiting():\n    raise KeyError('in the cell')")
    assert client.get_shell_msg(timeout=60)["content"]["ename"] == "KeyError"
    assert asked(page, "kernel_info_request") == "kernel_info_reply"
    client.execute("third = 3")
    assert client.get_shell_msg(timeout=60)["content"]["status"] == "ok"
