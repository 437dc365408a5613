"""`serve`: what it prints works as printed, how it ends, and each reason for which it does not start."""

import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Queue

import pytest

from mistral_lib.run import Run, files, hardware, paths
from mistral_lib.serving import access_key, serve, server_process, vllm_command
from mistral_lib.serving.endpoint import Endpoint
from mistral_lib.serving.serve import NoFormError
from mistral_lib.serving.server_process import PortInUseError
from mistral_lib.serving.vllm_command import NoVllmError
from tests.serving.test_server_process import is_alive, until
from tests.support import tiny_gguf
from tests.support.corpora import short_run

GGUF = {"q8_0": "gguf/merged-q8_0.gguf", "q4_k_m": "gguf/merged-q4_k_m.gguf"}
HASH = hashlib.sha256(b"the weights of an adapter").hexdigest()


@pytest.fixture(scope="session")
def tiny(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_gguf.write(tiny_model, tmp_path_factory.mktemp("gguf") / "tiny.gguf")


@pytest.fixture
def run(home: Path, tiny: Path, tiny_model: str) -> Run:
    """A run with a trained adapter, two GGUF forms and an adapter as GGUF; its GGUF files are those of the tiny model."""
    run = Run.open(short_run(run_name="small", base_model=tiny_model, quantization="none"))
    files.write_bytes(run.folder / serve.WEIGHTS, b"the weights of an adapter")
    files.write_json(run.folder / "training" / "adapter" / "adapter_config.json", {"r": 4, "rank_pattern": {"v_proj": 12}})
    (run.folder / "export" / "gguf").mkdir(parents=True)
    for name in (*GGUF.values(), "gguf/base-f16.gguf"):
        shutil.copy(tiny, run.folder / "export" / name)
    tiny_gguf.write_lora(run.folder / "export" / "gguf" / "adapter-lora.gguf")
    forms = {form: {"file": file} for form, file in GGUF.items()}
    forms |= {"lora_gguf": {"file": "gguf/adapter-lora.gguf", "base": "gguf/base-f16.gguf"}, "merged": {"file": "merged"}}
    files.write_json(run.folder / "export" / "result.json", {"forms": forms, "adapter_sha256": HASH})
    for stage in ("training", "export"):
        run.record(stage, status="complete", parameters={}, inputs={}, outputs=files.hashes(run.folder / stage, run.folder))
    return run


@pytest.fixture
def no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "device", lambda: "cpu")


class Served:
    """The command `serve`, and what it prints, by name."""

    def __init__(self, process: subprocess.Popen, lines: list[str]) -> None:
        self.process, self.text = process, "\n".join(lines)
        self.address, self.model, self.key_file, self.log = (
            next(line.split()[-1 if name == "model" else len(name.split())] for line in lines if line.startswith(name))
            for name in ("address", "model", "key file", "log")
        )
        self.tunnel, self.curl = (line.strip() for line in lines if line.startswith("  "))
        self.port = int(self.address.split(":")[2].split("/")[0])

    @property
    def server(self) -> int:
        """The id of the process that serves."""
        return int(Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()[0])

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(60)


@contextmanager
def serving(run: Run, *options: str) -> Iterator[Served]:
    command = [sys.executable, "-m", "mistral_lib", "serve", f"runs/{run.folder.name}", *options]
    errors = run.folder / "stderr.txt"
    with open(errors, "ab") as file:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=file, text=True, cwd=paths.project(), start_new_session=True)
    lines: Queue[str] = Queue()
    threading.Thread(target=lambda: [lines.put(line.rstrip("\n")) for line in process.stdout] + [lines.put("")], daemon=True).start()
    printed = []
    try:
        while not printed or not printed[-1].startswith("Ctrl-C"):
            printed.append(lines.get(timeout=300))
            assert printed[-1], errors.read_text()
        yield Served(process, printed)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


# -- what is printed, and what it is good for ----------------------------------------------------------------------------


def test_what_is_printed_works_as_printed(run: Run) -> None:
    with serving(run) as served:
        assert served.model == f"small-q8_0-{HASH[:12]}" and served.address.startswith("http://127.0.0.1:80")
        assert Path(served.key_file) == access_key.place("small") and (paths.home() / served.log).is_file()
        assert f"-L {served.port}:127.0.0.1:{served.port} " in served.tunnel and served.tunnel.startswith("ssh -N ")
        key = access_key.read(Path(served.key_file))
        assert key not in served.text
        answer = subprocess.run(["sh", "-c", served.curl], capture_output=True, text=True, check=True).stdout
        reply = json.loads(answer)
        assert reply["model"] == served.model and reply["choices"][0]["message"]["content"]
        assert Endpoint(served.address, key).models() == [served.model]
        assert served.end() == 0, "a requested end is no failure"
    assert server_process.is_free(served.port)
    said = (run.folder / "stderr.txt").read_text()
    assert (
        "served by llama.cpp — q8_0 is a GGUF file" in said
        and "stopping; running requests get up to 30 s" in said
        and "Traceback" not in said
    )


def test_no_program_that_is_started_gets_the_key_as_an_argument(run: Run, tmp_path: Path) -> None:
    """curl is replaced by a program that writes down its arguments and its standard input."""
    (tmp_path / "bin").mkdir()
    fake = tmp_path / "bin" / "curl"
    fake.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" > {tmp_path}/arguments\ncat > {tmp_path}/stdin\n')
    fake.chmod(0o755)
    server = server_process.RunningServer("http://127.0.0.1:8001", "small-q8_0-0123", "unused", tmp_path / "log", None)
    key_file = access_key.place("small")
    key = access_key.read_or_make(key_file)
    subprocess.run(
        ["sh", "-c", serve.curl_line(server, key_file)], env={**os.environ, "PATH": f"{fake.parent}:{os.environ['PATH']}"}, check=True
    )
    assert (tmp_path / "stdin").read_text() == f"Authorization: Bearer {key}"
    assert (
        key not in (tmp_path / "arguments").read_text()
        and "http://127.0.0.1:8001/v1/chat/completions" in (tmp_path / "arguments").read_text()
    )


def test_the_tunnel_line_names_the_address_of_this_session_else_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_CONNECTION", "203.0.113.9 50000 198.51.100.7 22")
    assert serve.login().endswith("@198.51.100.7")
    monkeypatch.delenv("SSH_CONNECTION")
    assert serve.login().endswith(f"@{serve.socket.gethostname()}")


def test_two_at_once_on_one_run_have_two_ports_and_one_key(run: Run) -> None:
    with serving(run) as one, serving(run, "--form", "q4_k_m") as two:
        assert one.port != two.port and one.key_file == two.key_file and one.log != two.log
        assert (one.model, two.model) == (f"small-q8_0-{HASH[:12]}", f"small-q4_k_m-{HASH[:12]}")
        key = access_key.read(Path(one.key_file))
        assert [Endpoint(served.address, key).models() for served in (one, two)] == [[one.model], [two.model]]
        assert one.end() == two.end() == 0


def test_an_adapter_as_gguf_is_served_on_its_base(run: Run) -> None:
    port = server_process.free_port(9600)
    with serving(run, "--form", "lora_gguf", "--engine", "llama.cpp", "--port", str(port)) as served:
        assert served.port == port and served.model == f"small-lora_gguf-{HASH[:12]}"
        arguments = Path(f"/proc/{served.server}/cmdline").read_bytes().decode().split("\0")
        assert arguments[arguments.index("--gguf") + 1].endswith("/base-f16.gguf")
        assert arguments[arguments.index("--lora") + 1].endswith("/adapter-lora.gguf")


# -- how it ends ---------------------------------------------------------------------------------------------------------


def test_ctrl_c_ends_it_with_its_server(run: Run) -> None:
    with serving(run) as served:
        server = served.server
        os.killpg(served.process.pid, signal.SIGINT)  # a terminal sends it to all processes of the command
        assert served.process.wait(60) == 0 and not is_alive(server) and server_process.is_free(served.port)


def test_a_killed_command_leaves_no_server(run: Run) -> None:
    with serving(run) as served:
        server = served.server
        served.process.kill()
        served.process.wait()
        assert until(lambda: not is_alive(server)) and until(lambda: server_process.is_free(served.port))


def test_a_server_that_crashes_is_a_failure(run: Run) -> None:
    with serving(run) as served:
        os.kill(served.server, signal.SIGSEGV)
        assert served.process.wait(60) == 1
    assert "ServerError: small-q8_0-" in (said := (run.folder / "stderr.txt").read_text()) and "was ended by SIGSEGV" in said


# -- why it does not start -----------------------------------------------------------------------------------------------


def test_a_form_that_was_not_exported(run: Run) -> None:
    with pytest.raises(NoFormError, match=r"no form 'f16'; there are: q8_0, q4_k_m, lora_gguf, merged .*export runs/small --as f16"):
        serve.serve(run, "f16")


def test_nothing_was_exported(run: Run) -> None:
    run.record("export", status="failed")
    with pytest.raises(
        NoFormError, match=r"no form that llama.cpp serves was exported; expected one of q8_0, f16.*export runs/small --as gguf"
    ):
        serve.serve(run)
    with pytest.raises(NoFormError, match="no form 'q8_0'; there are: none"):
        serve.serve(run, "q8_0")


def test_nothing_was_trained(run: Run) -> None:
    run.record("training", status="interrupted")
    with pytest.raises(RuntimeError, match="stage training is interrupted, expected complete; train first"):
        serve.serve(run)
    run.record("training", status="complete")
    (run.folder / serve.WEIGHTS).unlink()
    with pytest.raises(RuntimeError, match=r"adapter_model.safetensors is missing; train again"):
        serve.serve(run)


def test_an_export_of_another_adapter_is_not_served_under_this_ones_name(run: Run) -> None:
    files.write_bytes(run.folder / serve.WEIGHTS, b"those of a later training")
    with pytest.raises(
        RuntimeError, match=rf"export/ was made from another adapter \({HASH[:12]}\) than training/adapter/ holds now .*export again"
    ):
        serve.serve(run)


def test_a_file_that_was_cut_short_or_is_gone(run: Run) -> None:
    place = run.folder / "export" / GGUF["q8_0"]
    whole = place.stat().st_size
    os.truncate(place, whole - 1000)
    with pytest.raises(RuntimeError, match=rf"merged-q8_0.gguf has {whole - 1000:,} bytes, {whole:,} were written; export again"):
        serve.serve(run)
    place.unlink()
    with pytest.raises(RuntimeError, match=r"merged-q8_0.gguf is missing; export again"):
        serve.serve(run)
    (run.folder / "export" / "gguf" / "base-f16.gguf").unlink()
    with pytest.raises(RuntimeError, match=r"base-f16.gguf is missing; export again"):
        serve.serve(run, "lora_gguf")


def test_a_port_in_use_is_said_before_anything_else_is_done(run: Run) -> None:
    with serve.socket.create_server(("127.0.0.1", server_process.free_port(9600))) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(PortInUseError, match=f"port {port} is in use by another process"):
            serve.serve(run, None, "auto", port)
    assert not access_key.place("small").exists()


def test_a_key_file_that_others_can_read(run: Run) -> None:
    access_key.read_or_make(place := access_key.place("small"))
    place.chmod(0o644)
    with pytest.raises(access_key.KeyFileError, match="chmod 600"):
        serve.serve(run)


def test_an_engine_that_nobody_knows(run: Run) -> None:
    with pytest.raises(ValueError, match=r"engine 'ollama': expected auto, llama.cpp, vllm"):
        serve.serve(run, None, "ollama")


# -- which form, which engine --------------------------------------------------------------------------------------------


def test_the_recommended_form_is_the_default(run: Run) -> None:
    assert serve.choose(run, None, "auto").form == "q8_0"
    files.write_json(run.folder / "parity" / "result.json", {"recommended": "q4_k_m"})
    assert serve.choose(run, None, "auto").form == "q8_0", "a parity that is not complete recommends nothing"
    run.record("parity", status="complete")
    assert serve.choose(run, None, "auto").form == "q4_k_m"
    files.write_json(run.folder / "parity" / "result.json", {"recommended": "merged"})
    assert serve.choose(run, None, "auto").form == "q8_0", "the recommended one needs vLLM"


def test_llama_cpp_serves_gguf_and_vllm_the_others(run: Run, no_gpu: None) -> None:
    assert serve.choose(run, "q4_k_m", "auto").engine == serve.choose(run, "q4_k_m", "llama.cpp").engine == "llama.cpp"
    with pytest.raises(
        NoFormError, match=r"llama.cpp serves GGUF files, merged is none; there are: q8_0, q4_k_m, lora_gguf; or use --engine vllm"
    ):
        serve.choose(run, "merged", "llama.cpp")
    with pytest.raises(NoFormError, match="vLLM serves merged or adapter here, q8_0 is a GGUF file"):
        serve.choose(run, "q8_0", "vllm")
    with pytest.raises(NoFormError, match="adapter is served by vLLM, which needs a CUDA device; on this machine choose a GGUF form: q8_0"):
        serve.choose(run, "adapter", "auto")


def test_vllm_is_not_there(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_command, "place", lambda: Path("/nowhere/vllm"))
    monkeypatch.setattr(hardware, "device", lambda: "cuda")
    for form, engine in (("adapter", "auto"), ("merged", "auto"), (None, "vllm")):
        with pytest.raises(NoVllmError, match=r"vLLM is not installed .* make vllm. Or use --engine llama.cpp"):
            serve.serve(run, form, engine)


@pytest.fixture
def vllm(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vllm_command, "program", lambda: Path("/somewhere/bin/vllm"))


def test_with_a_gpu_and_vllm_the_adapter_itself_is_served(run: Run, monkeypatch: pytest.MonkeyPatch, vllm: None) -> None:
    monkeypatch.setattr(hardware, "device", lambda: "cuda")
    chosen = serve.choose(run, "adapter", "auto")
    assert (chosen.engine, chosen.alias) == ("vllm", f"small-adapter-{HASH[:12]}") and "CUDA device and .venv-vllm are here" in chosen.why
    assert serve.choose(run, None, "vllm").form == "adapter" and serve.choose(run, "merged", "auto").engine == "vllm"
    assert serve.choose(run, "q8_0", "auto").engine == "llama.cpp"


@pytest.mark.parametrize("quantization", ["nf4", "none"])
def test_what_vllm_serves(run: Run, vllm: None, tiny_model: str, monkeypatch: pytest.MonkeyPatch, quantization: str) -> None:
    from mistral_lib.model import base_model

    run.record(
        "training",
        parameters={"base_model": tiny_model, "quantization": quantization},
        inputs={"base_model": base_model.fingerprint(tiny_model)},
    )
    adapter, merged = (serve.vllm_served(run, serve.choose(run, form, "vllm")) for form in ("adapter", "merged"))
    assert (adapter.model, adapter.adapter, adapter.rank) == (Path(tiny_model), run.folder / "training" / "adapter", 12), (
        "the largest rank counts"
    )
    assert adapter.nf4 is (quantization == "nf4") and adapter.base_alias == "tiny" and adapter.context_tokens == 512
    assert (merged.model, merged.adapter, merged.nf4) == (run.folder / "export" / "merged", None, False)
    assert vllm_command.lora_rank(adapter.rank) == 16 and merged.alias == f"small-merged-{HASH[:12]}"
