"""llama.cpp's server: what is open without the key, what a client of OpenAI's API gets, how it ends, and why it does not start."""

import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

from mistral_lib.gguf_files import gguf_file
from mistral_lib.gguf_files.gguf_file import GgufError
from mistral_lib.run import paths
from mistral_lib.serving import llama_cpp, server_process
from mistral_lib.serving.endpoint import Endpoint, EndpointError, NoAnswerError
from mistral_lib.serving.server_process import PortInUseError, RunningServer, ServerError
from tests.serving.test_server_process import is_alive, port_of
from tests.support import tiny_gguf

KEY, ALIAS = "the-key-of-this-test", "tiny-f32-0123456789ab"
CHAT = [{"role": "user", "content": "Say a word."}]
OPEN = {"/health": b'{"status":"ok"}', "/v1/health": b'{"status":"ok"}', "/sw.js": b"self.addEventListener('install'"}  # and how it begins
NOTHING = ("/", "/index.html", "/favicon.ico", "/_app/version.json")  # open, and nothing is there: files of the page for browsers
GET = ("/v1/models", "/models", "/props", "/slots", "/metrics", "/lora-adapters", "/tools", "/cors-proxy", "/api/tags", "/bundle.js", "/v1/models/", "//v1/models", "/../v1/models", "/nothing")  # fmt: skip
POST = ("/completion", "/completions", "/v1/completions", "/chat/completions", "/v1/chat/completions", "/v1/responses", "/v1/messages", "/infill",
        "/embedding", "/v1/embeddings", "/rerank", "/tokenize", "/detokenize", "/apply-template", "/lora-adapters", "/props", "/slots/0",
        "/v1/chat/completions/input_tokens", "/v1/messages/count_tokens", "/api/chat", "/api/show", "/v1/audio/transcriptions")  # fmt: skip


@pytest.fixture(scope="module")
def gguf(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tiny_model, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture(scope="module")
def server(gguf: Path) -> Iterator[RunningServer]:
    with start(gguf, logs=gguf.parent) as running:
        yield running


def start(gguf: Path, **changes: Any) -> RunningServer:
    return llama_cpp.start(gguf, **{"alias": ALIAS, "key": KEY, "slots": 2, "context_tokens": 512, **changes})


def exchange(server: RunningServer, method: str, path: str, key: str | None = None, body: Any = None) -> tuple[int, bytes]:
    connection = HTTPConnection("127.0.0.1", port_of(server), timeout=60)
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    connection.request(method, path, None if body is None else json.dumps(body), headers)
    answer = connection.getresponse()
    found = answer.status, answer.read()
    connection.close()
    return found


# -- the key -------------------------------------------------------------------------------------------------------------


def test_what_is_open_without_the_key(server: RunningServer) -> None:
    for path, beginning in OPEN.items():
        status, data = exchange(server, "GET", path)
        assert status == 200 and data.strip().startswith(beginning), path
    assert {path: exchange(server, "GET", path)[0] for path in NOTHING} == dict.fromkeys(NOTHING, 404)


def test_nothing_open_says_anything_of_the_model(server: RunningServer) -> None:
    said = b"".join(exchange(server, "GET", path)[1] for path in (*OPEN, *NOTHING))
    assert ALIAS.encode() not in said and b"gguf" not in said and KEY.encode() not in said


@pytest.mark.parametrize("key", [None, "another key", KEY[:-1], ""])
def test_all_else_asks_for_the_key(server: RunningServer, key: str | None) -> None:
    assert {path: exchange(server, "GET", path, key)[0] for path in GET} == dict.fromkeys(GET, 401)
    assert {path: exchange(server, "POST", path, key, {"prompt": "x"})[0] for path in POST} == dict.fromkeys(POST, 401)


def test_with_the_key_the_model_is_named_by_its_alias(server: RunningServer) -> None:
    status, data = exchange(server, "GET", "/v1/models", KEY)
    assert status == 200 and [row["id"] for row in json.loads(data)["data"]] == [ALIAS]


def test_the_key_is_in_no_argument_no_environment_and_no_log(server: RunningServer) -> None:
    for place in (f"/proc/{server.pid}/cmdline", f"/proc/{server.pid}/environ", server.log):
        assert KEY.encode() not in Path(place).read_bytes()


def test_it_listens_on_the_loopback_alone(server: RunningServer) -> None:
    """By the kernel's table of listening sockets. Source: proc_net_tcp(5)"""
    ending = f":{port_of(server):04X}"
    rows = [line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]]
    assert [row[1] for row in rows if row[1].endswith(ending) and row[3] == "0A"] == [f"0100007F{ending}"]


# -- what a client gets --------------------------------------------------------------------------------------------------


@pytest.fixture
def openai(server: RunningServer) -> Any:
    from openai import OpenAI

    return OpenAI(base_url=f"{server.url}/v1", api_key=KEY, max_retries=0)


def test_openais_client_lists_chats_completes_and_streams(openai: Any, server: RunningServer) -> None:
    assert [model.id for model in openai.models.list()] == [ALIAS]
    given = {"model": ALIAS, "max_tokens": 6, "temperature": 0}
    whole = openai.chat.completions.create(messages=CHAT, **given)
    assert whole.model == ALIAS and whole.choices[0].message.content and whole.usage.completion_tokens <= 6
    parts = [
        part.choices[0].delta.content or "" for part in openai.chat.completions.create(messages=CHAT, stream=True, **given) if part.choices
    ]
    assert "".join(parts) == whole.choices[0].message.content == server.endpoint.chat(CHAT, 6).text and len(parts) > 3
    text = openai.completions.create(prompt="A word:", **given).choices[0].text
    pieces = [part.choices[0].text for part in openai.completions.create(prompt="A word:", stream=True, **given)]
    assert "".join(pieces) == text and text


def test_openais_client_with_a_wrong_key(server: RunningServer) -> None:
    from openai import AuthenticationError, OpenAI

    with pytest.raises(AuthenticationError):
        OpenAI(base_url=f"{server.url}/v1", api_key="another key", max_retries=0).models.list()


def test_the_log_holds_no_prompt_and_no_answer(server: RunningServer) -> None:
    marker = "zebra-7391"
    answer = server.endpoint.chat([{"role": "user", "content": marker}], 6)
    assert exchange(server, "POST", "/v1/completions", KEY, {"prompt": marker, "max_tokens": 4})[0] == 200
    assert exchange(server, "POST", "/v1/chat/completions", KEY, {"messages": [{"role": "user"}], "note": marker})[0] == 400
    assert marker not in server.output() and answer.text not in server.output() and "print_timing" in server.output()


def test_an_adapter_as_gguf_is_applied_with_its_own_scale(gguf: Path, tiny_model: str, server: RunningServer, tmp_path: Path) -> None:
    import torch
    from gguf import GGUFReader
    from transformers import AutoModelForCausalLM

    lora = tiny_gguf.write_lora(tmp_path / "lora.gguf")
    prompt = server.endpoint.chat_ids(CHAT)
    with start(gguf, lora=lora, logs=tmp_path) as adapted:
        found = adapted.endpoint.log_likelihood(prompt, [17, 2000, 2])
    model = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32).eval()
    parts = {tensor.name: torch.tensor(tensor.data) for tensor in GGUFReader(lora).tensors}
    for number, layer in enumerate(model.model.layers):  # alpha equals the rank: their quotient, by which it is scaled, is 1
        name = f"blk.{number}.attn_v.weight"
        layer.self_attn.v_proj.weight.data += parts[f"{name}.lora_b"] @ parts[f"{name}.lora_a"]
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, 17, 2000, 2]])).logits[0].log_softmax(-1)
    assert found == pytest.approx([logits[len(prompt) - 1 + place, token].item() for place, token in enumerate((17, 2000, 2))], abs=0.003)
    assert max(abs(one - other) for one, other in zip(found, server.endpoint.log_likelihood(prompt, [17, 2000, 2]), strict=True)) > 0.1


def test_two_servers_of_one_file_at_once(gguf: Path, server: RunningServer, tmp_path: Path) -> None:
    with start(gguf, logs=tmp_path, key="another key") as other:
        assert other.url != server.url and other.endpoint.models() == server.endpoint.models()
        assert exchange(other, "GET", "/v1/models", KEY)[0] == 401


def test_the_context_is_at_most_what_the_model_was_trained_on(gguf: Path, tmp_path: Path) -> None:
    with start(gguf, context_tokens=100_000, slots=1, logs=tmp_path) as running:
        assert [slot["n_ctx"] for slot in running.endpoint.slots()] == [512]


# -- loading and ending --------------------------------------------------------------------------------------------------


def starting(gguf: Path, logs: Path, port: int, grace: float = 30) -> RunningServer:
    """A server that is not waited for."""
    command = [sys.executable, "-m", "mistral_lib.serving.llama_cpp", "--gguf", str(gguf), "--alias", ALIAS, "--port", str(port), "--slots", "1",
               "--context-tokens", "512", "--threads", "1", "--grace", str(grace)]  # fmt: skip
    return server_process.start(command, port, ALIAS, KEY, logs)


def test_health_says_loading_until_the_model_answers(tmp_path: Path) -> None:
    with starting(tiny_gguf.embedded(), tmp_path, server_process.free_port(9400)) as running:
        seen = []
        while "ready" not in seen:
            assert running.is_alive(), running.output()
            try:
                seen.append(running.endpoint.health())
            except NoAnswerError:
                seen.append("no answer")
        assert running.endpoint.chat(CHAT, 1).ids, "ready means that it answers"
    assert list(dict.fromkeys(seen)) == ["no answer", "loading", "ready"] == sorted(set(seen), key=seen.index)
    assert seen == sorted(seen, key=["no answer", "loading", "ready"].index), "never back"


@pytest.mark.parametrize("when", ["loading", "ready"])
def test_a_killed_parent_takes_its_server_with_it(tmp_path: Path, when: str) -> None:
    import subprocess

    port = server_process.free_port(9450)
    program = (
        "import sys, time\nfrom pathlib import Path\nfrom tests.serving import test_llama_cpp as one\n"
        f"server = one.starting(one.tiny_gguf.embedded(), Path({str(tmp_path)!r}), {port})\nprint(server.pid, flush=True)\ntime.sleep(600)\n"
    )
    parent = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, cwd=paths.project())
    child, seen = int(parent.stdout.readline()), ""
    while seen != when:
        try:
            seen = Endpoint(f"http://127.0.0.1:{port}", KEY).health()
        except NoAnswerError:
            seen = ""
    parent.kill()
    parent.wait()
    end = time.monotonic() + 60
    while not (gone := server_process.is_free(port) and not is_alive(child)) and time.monotonic() < end:
        time.sleep(0.02)
    assert gone
    if when == "loading":
        assert "model loaded" not in (tmp_path / f"{port}.log").read_text(), "it did not wait until the model was loaded"


def long_answer(server: RunningServer, tokens: int, got: dict) -> threading.Thread:
    """Ask for an answer of so many tokens in a thread, and return when a slot computes it."""

    def ask() -> None:
        try:
            got["reply"] = exchange(server, "POST", "/completion", KEY, {"prompt": "x", "n_predict": tokens, "ignore_eos": True})
        except OSError as error:
            got["error"] = error

    thread = threading.Thread(target=ask)
    thread.start()
    while not any(slot["is_processing"] for slot in server.endpoint.slots()):
        assert thread.is_alive()
    return thread


def test_a_stopped_server_finishes_its_requests(gguf: Path, tmp_path: Path) -> None:
    running, got = starting(gguf, tmp_path, server_process.free_port(9400)), {}
    running.wait_until_ready()
    thread = long_answer(running, 400, got)
    running.process.send_signal(signal.SIGTERM)
    thread.join()
    status, data = got["reply"]
    assert status == 200 and json.loads(data)["tokens_predicted"] == 400
    assert running.process.wait(30) == 0 and server_process.is_free(port_of(running))
    running.stop()


def test_a_request_that_takes_too_long_does_not_keep_it(tmp_path: Path) -> None:
    running, got = starting(tiny_gguf.embedded(), tmp_path, server_process.free_port(9400), grace=0.3), {}
    running.wait_until_ready()
    thread = long_answer(running, 450, got)
    running.process.send_signal(signal.SIGTERM)
    assert running.process.wait(30) == 0 and server_process.is_free(port_of(running))
    thread.join()
    assert "error" in got
    running.stop()


# -- why it does not start -----------------------------------------------------------------------------------------------


def test_a_port_in_use(gguf: Path, server: RunningServer) -> None:
    with pytest.raises(PortInUseError, match=f"port {port_of(server)} is in use by another process"):
        start(gguf, port=port_of(server))


def test_a_port_that_is_taken_meanwhile(gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process takes the port between the check and llama.cpp's own start: the next one is tried, unless this one was requested."""
    with socket.create_server(("127.0.0.1", server_process.free_port(9500))) as taken:
        port = taken.getsockname()[1]
        real = server_process.is_free
        monkeypatch.setattr(server_process, "is_free", lambda number: True if number == port else real(number))
        with pytest.raises(PortInUseError, match=f"port {port} was taken by another process"):
            start(gguf, port=port, logs=tmp_path)
        offered = iter([port, server_process.free_port(port + 1)])
        monkeypatch.setattr(server_process, "free_port", lambda: next(offered))
        with start(gguf, logs=tmp_path) as running:
            assert port_of(running) != port and running.endpoint.health() == "ready"


@pytest.mark.parametrize("size", [0, 100, 4_000_000, -1])
def test_a_truncated_file(gguf: Path, tmp_path: Path, size: int) -> None:
    (tmp_path / "cut.gguf").write_bytes(gguf.read_bytes()[:size])
    with pytest.raises(GgufError, match=r"cut.gguf: .*; make the file again"):
        start(tmp_path / "cut.gguf", logs=tmp_path)


def test_a_complete_file_that_llama_cpp_refuses(gguf: Path, tmp_path: Path) -> None:
    header = gguf_file.read(gguf, arrays=True)
    kept = {tensor.name: gguf_file.rows(header, tensor) for tensor in header.tensors if tensor.name != "output_norm.weight"}
    tiny_gguf.put(tmp_path / "lacks.gguf", header.metadata, kept)
    with pytest.raises(ServerError, match=r"could not load the model: .*'output_norm.weight' not found. Export it again"):
        start(tmp_path / "lacks.gguf", logs=tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"none.gguf: no such file; export it"):
        start(tmp_path / "none.gguf", logs=tmp_path)


def test_an_adapter_that_does_not_fit(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(ServerError, match=r"could not load the model: .*(?i:lora|adapter)"):
        start(gguf, lora=gguf, logs=tmp_path)


def test_too_little_memory(gguf: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ServerError, match=r"too little memory: 1000000 slots of 512 tokens need .* MiB, .* MiB are left; serve a smaller form"
    ):
        start(gguf, slots=1_000_000, logs=tmp_path)


def test_the_needed_memory_holds_weights_and_cache(gguf: Path) -> None:
    one, two = (llama_cpp.needed_bytes(gguf, None, tokens) for tokens in (512, 1024))
    assert two - one == 512 * 2 * (2 * 2 * 16) * 2, "tokens, layers, keys and values of 2 heads of 16, 2 bytes"
    assert one > gguf.stat().st_size and llama_cpp.needed_bytes(gguf, gguf, 512) == one + gguf.stat().st_size


def test_llama_cpp_is_not_installed(gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match="pip install xllamacpp"):
        start(gguf)


def test_a_crash_ends_the_server_alone(gguf: Path, tmp_path: Path) -> None:
    with start(gguf, logs=tmp_path) as running:
        os.kill(running.pid, signal.SIGABRT)
        running.process.wait()
        with pytest.raises(EndpointError):
            running.endpoint.chat(CHAT, 1)
        assert "SIGABRT" in str(running.ended())


def test_threads_follow_the_variable_else_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    assert llama_cpp.usual_threads() == 3
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert llama_cpp.usual_threads() == len(os.sched_getaffinity(0))
