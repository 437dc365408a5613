"""Servers in processes of their own: started, waited for, stopped, killed; with their parent they end. The servers here are small Python programs."""

import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mistral_lib.run import paths
from mistral_lib.serving import server_process
from mistral_lib.serving.server_process import PortInUseError, RunningServer, ServerError

KEY = "the-key-of-this-test"
SERVES = """
    import http.server, json, sys, threading
    from mistral_lib.serving import server_process

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            allowed = self.path == "/health" or self.headers["Authorization"] == f"Bearer {key}"
            data = json.dumps({"data": [{"id": "alias"}]}).encode()
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    key = server_process.read_key()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
"""
UNTIL_STOPPED = SERVES + "    server_process.until_stopped()\n    print('stopped in good order', flush=True)\n"


def start(folder: Path, program: str) -> RunningServer:
    (folder / "program.py").write_text(textwrap.dedent(program))
    port = server_process.free_port(9100)
    return server_process.start([sys.executable, str(folder / "program.py"), str(port)], port, "alias", KEY, folder)


def until(true: Callable[[], bool], seconds: float = 60) -> bool:
    end = time.monotonic() + seconds
    while not true() and time.monotonic() < end:
        time.sleep(0.02)
    return true()


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def port_of(server: RunningServer) -> int:
    return int(server.url.rsplit(":", 1)[1])


@pytest.fixture(autouse=True)
def importable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(paths.project()))


def test_it_is_ready_when_it_answers_and_its_port_is_free_after_its_end(tmp_path: Path) -> None:
    with start(tmp_path, UNTIL_STOPPED) as server:
        server.wait_until_ready()
        assert server.is_alive() and not server_process.is_free(port_of(server)) and server.endpoint.models() == ["alias"]
        assert server.log == tmp_path / f"{port_of(server)}.log"
    assert server.process.returncode == 0 and server_process.is_free(port_of(server))
    assert "stopped in good order" in server.output()
    server.stop()  # once more does nothing


def test_the_key_is_neither_an_argument_nor_in_the_environment(tmp_path: Path) -> None:
    with start(tmp_path, UNTIL_STOPPED) as server:
        server.wait_until_ready()
        for place in ("cmdline", "environ"):
            assert KEY.encode() not in Path(f"/proc/{server.pid}/{place}").read_bytes()
        assert KEY not in repr(server)


def test_the_log_continues_and_only_the_own_part_is_shown(tmp_path: Path) -> None:
    first = start(tmp_path, "print('of the first')")
    first.process.wait()
    port = port_of(first)
    second = server_process.start([sys.executable, "-c", "print('of the second')"], port, "alias", KEY, tmp_path)
    second.process.wait()
    assert second.output() == "of the second\n" and (tmp_path / f"{port}.log").read_text() == "of the first\nof the second\n"


def test_its_own_words_say_why_it_did_not_start(tmp_path: Path) -> None:
    server = start(tmp_path, "import sys; print('fault: the moon is full', file=sys.stderr); print('more'); sys.exit(3)")
    with pytest.raises(ServerError, match=r"^alias: the moon is full$"):
        server.wait_until_ready()


def test_without_words_the_exit_status_and_the_last_lines(tmp_path: Path) -> None:
    server = start(tmp_path, "import sys; print('\\n'.join(map(str, range(50)))); sys.exit(3)")
    with pytest.raises(ServerError, match=r"ended with exit status 3; its log is .*\.log\n  44\n  45\n  46\n  47\n  48\n  49$"):
        server.wait_until_ready()


@pytest.mark.parametrize(
    "number,words", [(signal.SIGKILL, "SIGKILL, as the kernel does if memory is short"), (signal.SIGSEGV, "SIGSEGV; its log")]
)
def test_a_killed_and_a_crashed_server_end_nothing_else(tmp_path: Path, number: int, words: str) -> None:
    with start(tmp_path, UNTIL_STOPPED) as server:
        server.wait_until_ready()
        os.kill(server.pid, number)
        server.process.wait()
        assert not server.is_alive() and words in str(server.ended())
        assert until(lambda: server_process.is_free(port_of(server)))


def test_one_that_is_never_ready_is_stopped(tmp_path: Path) -> None:
    server = start(tmp_path, "import time; print('still at it', flush=True); time.sleep(600)")
    assert until(lambda: server.output() != "")
    with pytest.raises(ServerError, match=r"still not ready after .* s; its log is .*\n  still at it"):
        server.wait_until_ready(0.3)
    assert not server.is_alive()


def test_another_server_at_the_same_address_is_not_taken_for_it(tmp_path: Path) -> None:
    with start(tmp_path, UNTIL_STOPPED) as server:
        server.wait_until_ready()
        other = server_process.start(
            [sys.executable, "-c", "import time; time.sleep(600)"], port_of(server), "another alias", KEY, tmp_path
        )
        with pytest.raises(ServerError, match="another alias: still not ready"):
            other.wait_until_ready(0.5)


def test_what_it_has_started_ends_with_it_and_so_does_one_that_ignores_signals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "TO_EXIT", 0.3)
    program = """
        import signal, subprocess, sys, time
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        print(subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]).pid, flush=True)
        time.sleep(600)
    """
    server = start(tmp_path, program)
    assert until(lambda: server.output().endswith("\n"))
    server.stop(0)
    assert server.process.returncode == -signal.SIGKILL and until(lambda: not is_alive(int(server.output())))


PARENT = """
    import sys, time
    from pathlib import Path
    from mistral_lib.serving import server_process
    port = int(sys.argv[2])
    server = server_process.start([sys.executable, sys.argv[1], str(port)], port, "alias", "k", Path(sys.argv[3]))
    if len(sys.argv) == 4:
        server.wait_until_ready()
    print(server.pid, flush=True)
    time.sleep(600)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_it_ends_with_the_process_that_started_it(tmp_path: Path, number: int) -> None:
    (tmp_path / "program.py").write_text(textwrap.dedent(UNTIL_STOPPED))
    port = server_process.free_port(9200)
    parent = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path / "program.py"), str(port), str(tmp_path)], stdout=subprocess.PIPE
    )
    child = int(parent.stdout.readline())
    parent.send_signal(number)
    parent.wait()
    assert until(lambda: not is_alive(child)) and until(lambda: server_process.is_free(port))
    assert "stopped in good order" in (tmp_path / f"{port}.log").read_text()


def test_it_ends_with_its_parent_also_inside_a_library_that_holds_pythons_lock(tmp_path: Path) -> None:
    program = """
        import ctypes, sys
        from mistral_lib.serving import server_process
        server_process.read_key()
        with server_process.ending_with_stdin():
            print("loading", flush=True)
            ctypes.PyDLL(None).sleep(600)  # PyDLL keeps the lock
    """
    (tmp_path / "program.py").write_text(textwrap.dedent(program))
    command = [sys.executable, "-c", textwrap.dedent(PARENT), str(tmp_path / "program.py"), "9999", str(tmp_path), "at once"]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE)
    child = int(parent.stdout.readline())
    assert until(lambda: "loading" in (tmp_path / "9999.log").read_text())
    time.sleep(0.2)
    assert is_alive(child)
    parent.kill()
    parent.wait()
    assert until(lambda: not is_alive(child), 20)


def test_a_second_signal_ends_it_at_once(tmp_path: Path) -> None:
    server = start(tmp_path, UNTIL_STOPPED + "    import time; time.sleep(600)\n")
    server.wait_until_ready()
    server.process.terminate()
    assert until(lambda: "stopped in good order" in server.output()) and server.is_alive()
    server.process.terminate()
    assert server.process.wait(30) == -signal.SIGTERM


def test_without_a_key_on_stdin_it_does_not_start(tmp_path: Path) -> None:
    program = "from mistral_lib.serving import server_process; server_process.read_key()"
    done = subprocess.run([sys.executable, "-c", program], input=b"\n", capture_output=True)
    assert done.returncode == 1 and b"EOFError: no key on stdin" in done.stderr


# -- ports ---------------------------------------------------------------------------------------------------------------


def test_the_first_free_port() -> None:
    first = server_process.free_port(9300)
    with socket.create_server(("127.0.0.1", first)):
        assert server_process.free_port(first) > first and not server_process.is_free(first)
        with pytest.raises(PortInUseError, match=f"port {first} is in use by another process; choose another one"):
            server_process.require_free(first)
    assert server_process.is_free(first)


def test_a_listener_on_all_addresses_counts() -> None:
    first = server_process.free_port(9300)
    with socket.create_server(("0.0.0.0", first)):
        assert not server_process.is_free(first)


def test_no_free_port(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_process, "is_free", lambda port: False)
    with pytest.raises(PortInUseError, match="ports 8001 to 8100 are all in use; choose another one with --port"):
        server_process.free_port()


@pytest.mark.parametrize("port", [0, -1, 80, 65536])
def test_ports_that_nobody_may_have(port: int) -> None:
    with pytest.raises(ValueError, match=f"port {port}: expected 1024 to 65535"):
        server_process.require_free(port)
