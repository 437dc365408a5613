"""Serves a form of a run on this machine: chooses form and engine, waits until the model answers, says how to reach it, and ends cleanly.

OpenAI's API on the loopback, behind the run's key. The name of the model carries the hash of the adapter that the files were made from: files
of another adapter than the run's, or cut short, are refused.
"""

import getpass
import os
import shlex
import signal
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.run import Run, files, hardware, paths
from mistral_lib.run.progress import say
from mistral_lib.serving import access_key, llama_cpp, server_process, vllm_command
from mistral_lib.serving.server_process import RunningServer

WEIGHTS = "training/adapter/adapter_model.safetensors"
GGUF_FORMS = ("q8_0", "f16", "q4_k_m", "lora_gguf")  # the first that was exported is served if none is recommended or requested
VLLM_FORMS = ("merged", "adapter")
ENGINES = ("auto", "llama.cpp", "vllm")
OVER_SSH = "SSH_CONNECTION"  # set in a shell that was opened over ssh: client address, client port, server address, server port


class NoFormError(ValueError):
    """The requested form was not exported, or does not suit the engine; the message says which ones there are."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What is served, and by what."""

    form: str
    engine: str  # llama.cpp or vllm
    why: str  # the reason for the engine
    alias: str


def serve(run: Run, form: str | None = None, engine: str = "auto", port: int | None = None) -> int:
    """Serve until SIGTERM or SIGINT, and return 0; print the address, the model's name, the key file and how to use them.

    form: a name in export/result.json, or `adapter` for vLLM; default: the recommended one. port: default: the first free one from 8001 on.
    Errors: NoFormError, PortInUseError, NoVllmError, KeyFileError, GgufError; ServerError if the server does not start, or ends by itself;
    RuntimeError if the export is missing, altered or of another adapter.
    """
    choice = choose(run, form, engine)
    if port is not None:
        server_process.require_free(port)
    key_file = access_key.place(run.folder.name)
    key = access_key.read_or_make(key_file)
    say(f"{choice.alias}: served by {choice.engine} — {choice.why}")
    with _sigterm_interrupts():
        server = None
        try:
            server = start(run, choice, key, port)
            print(welcome(server, key_file), flush=True)
            server.process.wait()
            raise server.ended()
        except KeyboardInterrupt:
            if server is not None:
                say(f"{choice.alias}: stopping; running requests get up to {server_process.GRACE:.0f} s, and Ctrl-C ends them at once")
                server.stop()
            return 0


@contextmanager
def _sigterm_interrupts() -> Iterator[None]:
    """In this block SIGTERM raises KeyboardInterrupt, as SIGINT does."""
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


# -- what is served ------------------------------------------------------------------------------------------------------


def choose(run: Run, form: str | None, engine: str) -> Choice:
    """Form and engine, by request or by what there is. Errors: as of `serve`."""
    if engine not in ENGINES:
        raise ValueError(f"engine {engine!r}: expected {', '.join(ENGINES)}")
    there = exported(run)
    form = form or ("adapter" if engine == "vllm" else default_form(run, there))
    if form != "adapter" and form not in there:
        raise NoFormError(
            f"{paths.short(run.folder)}/export has no form {form!r}; there are: {', '.join(there) or 'none'} (and `adapter`, for vLLM); export it: "
            f"python -m mistral_lib export {paths.short(run.folder)} --as {form.replace('_', '-')}"
        )
    engine, why = suitable_engine(form, engine, there)
    return Choice(form, engine, why, f"{run.folder.name}-{form}-{adapter_hash(run)[:12]}")


def exported(run: Run) -> dict[str, dict[str, Any]]:
    """The forms in export/result.json: file, size and for an adapter as GGUF its base. Errors: RuntimeError if they are not the run's own."""
    if run.status("export") != "complete":
        return {}
    result = files.read_json(run.folder / "export" / "result.json")
    if result["adapter_sha256"] != adapter_hash(run):
        raise RuntimeError(
            f"{paths.short(run.folder)}: export/ was made from another adapter ({result['adapter_sha256'][:12]}) than training/adapter/ holds now "
            f"({adapter_hash(run)[:12]}); export again: notebook 05_serve_adapter"
        )
    return result["forms"]


def adapter_hash(run: Run) -> str:
    """SHA-256 of the adapter's weights. Errors: RuntimeError if the training is not complete, or the adapter is missing."""
    run.require("training", "train first: notebook 03_train_adapter")
    if not (run.folder / WEIGHTS).is_file():
        raise RuntimeError(f"{paths.short(run.folder / WEIGHTS)} is missing; train again: notebook 03_train_adapter")
    return files.sha256(run.folder / WEIGHTS)


def default_form(run: Run, there: dict[str, Any]) -> str:
    """The form that parity recommends if llama.cpp serves it, else the first GGUF form. Errors: NoFormError if there is none."""
    measured = run.folder / "parity" / "result.json"
    recommended = files.read_json(measured).get("recommended") if run.status("parity") == "complete" else None
    found = [name for name in (recommended, *GGUF_FORMS) if name in there and name in GGUF_FORMS]
    if not found:
        raise NoFormError(
            f"{paths.short(run.folder)}: no form that llama.cpp serves was exported; expected one of {', '.join(GGUF_FORMS)}: "
            f"python -m mistral_lib export {paths.short(run.folder)} --as gguf"
        )
    return found[0]


def suitable_engine(form: str, requested: str, there: dict[str, Any]) -> tuple[str, str]:
    """The engine, and the reason for it. Errors: NoFormError if the requested one cannot serve the form; NoVllmError."""
    if form in VLLM_FORMS:
        if requested == "llama.cpp":
            gguf = [name for name in there if name in GGUF_FORMS]
            raise NoFormError(f"llama.cpp serves GGUF files, {form} is none; there are: {', '.join(gguf) or 'none'}; or use --engine vllm")
        if requested == "auto" and hardware.device() != "cuda":
            gguf = [name for name in there if name in GGUF_FORMS]
            raise NoFormError(
                f"{form} is served by vLLM, which needs a CUDA device; on this machine choose a GGUF form: {', '.join(gguf) or 'none yet'}"
            )
        vllm_command.program()
        return "vllm", "requested" if requested == "vllm" else "a CUDA device and .venv-vllm are here, and it serves this form"
    if requested == "vllm":
        raise NoFormError(f"vLLM serves {' or '.join(VLLM_FORMS)} here, {form} is a GGUF file; leave --form out, or use --engine llama.cpp")
    return "llama.cpp", "requested" if requested == "llama.cpp" else f"{form} is a GGUF file, which it serves on any machine"


# -- starting it ---------------------------------------------------------------------------------------------------------


def start(run: Run, choice: Choice, key: str, port: int | None) -> RunningServer:
    """The server of a choice, ready. Its log is in the run folder, below serving/. Errors: as of `serve`."""
    starters: dict[str, Callable[..., RunningServer]] = {"llama.cpp": _start_llama_cpp, "vllm": _start_vllm}
    return starters[choice.engine](run, choice, key, port, run.folder / "serving")


def _start_llama_cpp(run: Run, choice: Choice, key: str, port: int | None, logs: Path) -> RunningServer:
    facts = exported(run)[choice.form]
    file, base = _intact(run, facts["file"]), facts.get("base")
    gguf, lora = (_intact(run, base), file) if base else (file, None)
    context = max(llama_cpp.CONTEXT, run.settings.max_tokens)
    return llama_cpp.start(gguf, lora=lora, alias=choice.alias, key=key, port=port, logs=logs, context_tokens=context)


def _intact(run: Run, name: str) -> Path:
    """A file of the export with the size that it was written with. Errors: RuntimeError."""
    place = run.folder / "export" / name
    expected = run.entry("export")["outputs"].get(f"export/{name}", {}).get("bytes")
    found = place.stat().st_size if place.is_file() else None
    if expected is None or found != expected:
        seen = "is missing" if found is None else f"has {found:,} bytes, {expected or 0:,} were written"
        raise RuntimeError(f"{paths.short(place)} {seen}; export again: notebook 05_serve_adapter")
    return place


def _start_vllm(run: Run, choice: Choice, key: str, port: int | None, logs: Path) -> RunningServer:
    return vllm_command.start(vllm_served(run, choice), key=key, port=port, logs=logs)


def vllm_served(run: Run, choice: Choice) -> vllm_command.Served:
    """What vLLM serves, with the base model that the adapter was trained on."""
    from mistral_lib.model import base_model, paired_answers

    settings = paired_answers.trained_settings(run)
    base, adapter = base_model.folder(settings.base_model), run.folder / "training" / "adapter"
    merged = choice.form == "merged"
    config = files.read_json(adapter / "adapter_config.json")
    longest = files.read_json(base / "config.json").get("max_position_embeddings") or llama_cpp.CONTEXT
    return vllm_command.Served(
        model=run.folder / "export" / "merged" if merged else base, alias=choice.alias, dtype=hardware.choose_dtype(settings.dtype)[0],
        context_tokens=min(longest, max(llama_cpp.CONTEXT, settings.max_tokens)), nf4=settings.quantization == "nf4" and not merged,
        adapter=None if merged else adapter, rank=max([config["r"], *(config.get("rank_pattern") or {}).values()]),
        base_alias=base_model.shown_name(settings.base_model),
    )  # fmt: skip


# -- what is printed -----------------------------------------------------------------------------------------------------


def welcome(server: RunningServer, key_file: Path) -> str:
    """Where the model is, and what to type. The key itself is neither printed nor in a command's arguments."""
    port = server.url.rsplit(":", 1)[1]
    return "\n".join([
        f"address    {server.url}/v1   (OpenAI's API, on this machine only)",
        f"model      {server.alias}",
        f"key file   {key_file}",
        f"log        {paths.short(server.log)}   (no prompts, no answers)",
        f"from your own machine, in a second terminal:\n  ssh -N -L {port}:{server_process.LOOPBACK}:{port} {login()}",
        f"a question:\n  {curl_line(server, key_file)}",
        "Ctrl-C ends it.",
    ])  # fmt: skip


def login() -> str:
    """user@machine for ssh: the address that this session was opened to, else the machine's name."""
    connection = os.environ.get(OVER_SSH, "").split()
    return f"{getpass.getuser()}@{connection[2] if len(connection) == 4 else socket.gethostname()}"


def curl_line(server: RunningServer, key_file: Path) -> str:
    """One line for a shell. printf is a part of the shell, and curl reads the header from its stdin: the process list shows no key."""
    header = f'printf "Authorization: Bearer %s" "$(cat {shlex.quote(str(key_file))})"'
    body = f'{{"model": "{server.alias}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    return f"{header} | curl -s -H @- -H 'Content-Type: application/json' -d '{body}' {server.url}/v1/chat/completions"
