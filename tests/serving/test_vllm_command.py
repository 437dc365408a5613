"""vLLM's command and environment, the process that keeps it, and the guard in front of all its paths.

vLLM is not in this environment. The commands below were accepted by the argument parser of vLLM 0.33.0, and with VLLM_PYTHON (a Python that has
it; by default that of .venv-vllm) they are parsed again, and its own server asks for the key at every path but /health.
"""

import asyncio
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.run import paths
from mistral_lib.serving import server_process, vllm_command
from mistral_lib.serving.endpoint import Endpoint, WrongKeyError
from mistral_lib.serving.server_process import PortInUseError, RunningServer, ServerError
from mistral_lib.serving.vllm_command import NoVllmError, Served
from mistral_lib.serving.vllm_key_guard import KeyGuard
from tests.serving.test_server_process import is_alive, port_of, until

KEY = "the-key-of-this-test"
ADAPTER = Served(
    model=Path("/models/mistral"), alias="run-adapter-0123456789ab", dtype="bfloat16", context_tokens=4096, nf4=True,
    adapter=Path("/runs/run/training/adapter"), rank=24, base_alias="mistralai/Mistral-7B-Instruct-v0.3",
)  # fmt: skip
MERGED = Served(model=Path("/runs/run/export/merged"), alias="run-merged-0123456789ab", dtype="float16", context_tokens=2048)
VLLM_PYTHON = Path(os.environ.get("VLLM_PYTHON", paths.project() / ".venv-vllm" / "bin" / "python"))


# -- the command ---------------------------------------------------------------------------------------------------------


def test_the_command_for_an_adapter() -> None:
    module = '{"name": "run-adapter-0123456789ab", "path": "/runs/run/training/adapter", "base_model_name": "mistralai/Mistral-7B-Instruct-v0.3"}'
    assert vllm_command.options(ADAPTER, 8001) == [
        "serve", "/models/mistral", "--host", "127.0.0.1", "--port", "8001", "--dtype", "bfloat16", "--max-model-len", "4096",
        "--served-model-name", "mistralai/Mistral-7B-Instruct-v0.3", "--middleware", "mistral_lib.serving.vllm_key_guard.KeyGuard",
        "--disable-fastapi-docs", "--quantization", "bitsandbytes", "--load-format", "bitsandbytes",
        "--enable-lora", "--max-lora-rank", "32", "--lora-modules", module,
    ]  # fmt: skip


def test_the_command_for_a_merged_model() -> None:
    assert vllm_command.options(MERGED, 8002) == [
        "serve", "/runs/run/export/merged", "--host", "127.0.0.1", "--port", "8002", "--dtype", "float16", "--max-model-len", "2048",
        "--served-model-name", "run-merged-0123456789ab", "--middleware", "mistral_lib.serving.vllm_key_guard.KeyGuard", "--disable-fastapi-docs",
    ]  # fmt: skip


@pytest.mark.parametrize(
    "rank,allowed", [(1, 1), (2, 8), (8, 8), (9, 16), (16, 16), (33, 64), (64, 64), (257, 320), (400, 512), (512, 512)]
)
def test_the_smallest_rank_that_vllm_takes(rank: int, allowed: int) -> None:
    assert vllm_command.lora_rank(rank) == allowed


def test_a_rank_that_vllm_does_not_take() -> None:
    with pytest.raises(ValueError, match="rank is 513, vLLM takes at most 512; serve the merged model"):
        vllm_command.lora_rank(513)


def test_the_key_is_in_the_environment_alone() -> None:
    inherited = {"PATH": "/bin", "PYTHONPATH": "/mine", "PYTORCH_ALLOC_CONF": "expandable_segments:True"}
    made = vllm_command.environment(KEY, inherited)
    assert made["VLLM_API_KEY"] == KEY and KEY not in str(vllm_command.options(ADAPTER, 8001)) and "VLLM_API_KEY" not in inherited
    assert made["PYTHONPATH"] == f"{paths.project()}{os.pathsep}/mine" and made["PATH"] == "/bin"
    assert "PYTORCH_ALLOC_CONF" not in made, "set by mistral_lib for its own trainings"
    assert vllm_command.environment(KEY, {"PYTORCH_ALLOC_CONF": "backend:native"})["PYTORCH_ALLOC_CONF"] == "backend:native"


def test_vllm_is_not_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "project", lambda: tmp_path)
    with pytest.raises(NoVllmError, match=r"\.venv-vllm/bin/vllm is missing.*make vllm. Or use --engine llama.cpp"):
        vllm_command.start(ADAPTER, key=KEY, port=None, logs=tmp_path)


# -- the process that keeps it -------------------------------------------------------------------------------------------

PROGRAM = """\
    #!{python}
    import http.server, json, os, sys
    given = dict(zip(sys.argv[3::2], sys.argv[4::2]))

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            allowed = self.path == "/health" or self.headers["Authorization"] == "Bearer " + os.environ["VLLM_API_KEY"]
            data = json.dumps({{"data": [{{"id": "base"}}, {{"id": "run-adapter-0123456789ab", "parent": "base"}}]}}).encode()
            self.send_response(200 if allowed else 401)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

    print("process", os.getpid(), flush=True)
    http.server.ThreadingHTTPServer((given["--host"], int(given["--port"])), Handler).serve_forever()
"""


@pytest.fixture
def vllm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program in vLLM's place that listens as its options say and asks for the key of its environment."""
    place = tmp_path / "vllm"
    place.write_text(textwrap.dedent(PROGRAM).format(python=sys.executable))
    place.chmod(stat.S_IRWXU)
    monkeypatch.setattr(vllm_command, "program", lambda: place)
    return place


def start(logs: Path, port: int | None = None) -> RunningServer:
    return vllm_command.start(ADAPTER, key=KEY, port=port, logs=logs)


def vllm_process(server: RunningServer) -> int:
    return int(server.output().split("process ")[1].split()[0])


def test_it_is_started_asked_and_stopped(vllm: Path, tmp_path: Path) -> None:
    with start(tmp_path) as server:
        assert server.endpoint.models() == ["run-adapter-0123456789ab", "base"]
        with pytest.raises(WrongKeyError):
            Endpoint(server.url, "another key").models()
        inner = vllm_process(server)
        for place in (f"{server.pid}/cmdline", f"{server.pid}/environ", f"{inner}/cmdline"):
            assert KEY.encode() not in Path("/proc", place).read_bytes()
        assert f"VLLM_API_KEY={KEY}".encode() in Path(f"/proc/{inner}/environ").read_bytes()
    assert server.process.returncode == 0 and not is_alive(inner) and server_process.is_free(port_of(server))


@pytest.mark.parametrize("victim", ["the process that keeps it", "vLLM itself"])
def test_neither_is_left_without_the_other(vllm: Path, tmp_path: Path, victim: str) -> None:
    with start(tmp_path) as server:
        inner = vllm_process(server)
        os.kill(inner if victim == "vLLM itself" else server.pid, signal.SIGKILL)
        assert until(lambda: not server.is_alive() and not is_alive(inner))
        assert "SIGKILL" in str(server.ended()) or "exit status 137" in str(server.ended())


def test_it_ends_when_the_other_end_of_stdin_closes(vllm: Path, tmp_path: Path) -> None:
    server = start(tmp_path)
    inner = vllm_process(server)
    server.process.stdin.close()
    assert server.process.wait(60) == 0 and not is_alive(inner)


def test_one_that_does_not_start_says_why(vllm: Path, tmp_path: Path) -> None:
    vllm.write_text("#!/bin/sh\necho no CUDA device; exit 4\n")
    with pytest.raises(ServerError, match=r"exit status 4; its log is .*\n  no CUDA device"):
        start(tmp_path)


def test_a_port_in_use(vllm: Path, tmp_path: Path) -> None:
    with start(tmp_path) as server, pytest.raises(PortInUseError):
        start(tmp_path, port_of(server))


# -- the guard -----------------------------------------------------------------------------------------------------------


def ask(scope: dict[str, Any], key: str | None) -> list[dict[str, Any]]:
    """What an application behind the guard answers."""
    sent = []

    async def application(scope: dict, receive: Any, send: Any) -> None:
        await send({"type": "answered"})

    async def send(message: dict) -> None:
        sent.append(message)

    headers = [(b"authorization", key.encode())] if key is not None else []
    asyncio.run(KeyGuard(application)({"headers": headers, **scope}, None, send))
    return sent


def test_the_guard_lets_through_health_and_those_with_the_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_API_KEY", KEY)
    through = [{"type": "answered"}]
    assert ask({"type": "http", "path": "/health"}, None) == through and ask({"type": "lifespan"}, None) == through
    for path in ("/invocations", "/v1/models", "/tokenize", "/metrics", "/health/", "/"):
        assert ask({"type": "http", "path": path}, f"Bearer {KEY}") == through
        for key in (None, KEY, "Bearer", f"Bearer {KEY}x", f"bearer {KEY[:-1]}"):
            assert ask({"type": "http", "path": path}, key)[0]["status"] == 401
    assert ask({"type": "websocket", "path": "/v1/realtime"}, None) == [{"type": "websocket.close", "code": 1008}]


def test_the_guard_without_a_key_lets_nothing_through(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VLLM_API_KEY", raising=False)
    for key in (None, "", "Bearer ", "Bearer"):
        assert ask({"type": "http", "path": "/v1/models"}, key)[0]["status"] == 401


def test_the_guard_imports_the_standard_library_alone() -> None:
    program = "import sys, mistral_lib.serving.vllm_key_guard; print([name for name in ('numpy', 'torch', 'orjson', 'pydantic') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=paths.project())
    assert done.stdout == "[]\n"


# -- vLLM's own parser and server ----------------------------------------------------------------------------------------

IN_VLLM = """
    import asyncio, json, sys
    import vllm.platforms
    if vllm.platforms.current_platform.is_unspecified():  # a machine without a GPU
        from vllm.platforms.cpu import CpuPlatform
        vllm.platforms.current_platform = CpuPlatform()
    from fastapi import FastAPI
    from vllm.entrypoints.common.cli_args import make_arg_parser, validate_parsed_serve_args
    from vllm.entrypoints.serve.middleware.register import init_entrypoints_middleware
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    given = make_arg_parser(FlexibleArgumentParser()).parse_args(json.loads(sys.argv[1])[1:])
    validate_parsed_serve_args(given)
    app = FastAPI()
    for path in ("/health", "/invocations", "/tokenize", "/v1/models"):
        app.get(path)(lambda: "answered")
    init_entrypoints_middleware(given, app, ())

    async def status(path, headers):
        sent = []
        scope = {"type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": "GET", "path": path, "raw_path": path.encode(),
                 "query_string": b"", "headers": headers, "scheme": "http", "server": ("127.0.0.1", 1), "client": ("127.0.0.1", 2), "root_path": ""}
        async def receive(): return {"type": "http.request", "body": b"", "more_body": False}
        async def send(message): sent.append(message)
        await app(scope, receive, send)
        return sent[0]["status"]

    with_key = [(b"authorization", b"Bearer the-key-of-this-test")]
    statuses = {path: [asyncio.run(status(path, [])), asyncio.run(status(path, with_key))] for path in ("/health", "/invocations", "/tokenize", "/v1/models")}
    modules = [[one.name, one.path, one.base_model_name] for one in given.lora_modules or []]
    print(json.dumps({"host": given.host, "port": given.port, "lora": modules, "rank": given.max_lora_rank, "quantization": given.quantization,
                      "names": given.served_model_name, "length": given.max_model_len, "api_key": given.api_key, "statuses": statuses}))
"""


@pytest.mark.skipif(not VLLM_PYTHON.exists(), reason="vLLM is not installed here (make vllm, on a machine with a GPU)")
@pytest.mark.parametrize("served", [ADAPTER, MERGED])
def test_vllms_own_parser_takes_the_command_and_its_server_the_guard(served: Served) -> None:
    command = [str(VLLM_PYTHON), "-c", textwrap.dedent(IN_VLLM), json.dumps(vllm_command.options(served, 8001))]
    done = subprocess.run(command, capture_output=True, text=True, env=vllm_command.environment(KEY))
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert (found["host"], found["port"], found["length"], found["api_key"]) == ("127.0.0.1", 8001, served.context_tokens, None)
    assert found["names"] == [served.base_alias or served.alias] and found["quantization"] == ("bitsandbytes" if served.nf4 else None)
    assert found["lora"] == ([[served.alias, str(served.adapter), served.base_alias]] if served.adapter else [])
    assert found["statuses"] == {"/health": [200, 200], "/invocations": [401, 200], "/tokenize": [401, 200], "/v1/models": [401, 200]}
