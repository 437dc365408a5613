"""llama.cpp's server on a GGUF file, in a process of its own: a crash in there ends neither a notebook nor a command.

It listens on the loopback, answers as OpenAI's API does, and asks for a key everywhere but at /health, which says 503 until the model is
loaded. Its page for browsers is off, so nothing else answers without the key but a constant script (/sw.js). The log holds no prompts.
Source: https://github.com/ggml-org/llama.cpp/blob/master/tools/server/README.md
"""

import argparse
import os
import signal
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mistral_lib.gguf_files import gguf_file
from mistral_lib.run import files, paths, system_memory
from mistral_lib.serving import access_key, server_process
from mistral_lib.serving.endpoint import Endpoint, EndpointError
from mistral_lib.serving.server_process import FAULT, GRACE, PATIENCE, PortInUseError, RunningServer, ServerError

CONTEXT = 4096  # tokens of one request with its answer, if the model was trained on that many
SLOTS = 4  # requests at once
CACHE_BYTES = 2  # of a number in the cache of keys and values: float16
UBATCH = 512  # tokens that llama.cpp computes at once
OVERHEAD = 200 * 2**20  # bytes of program, vocabulary and buffers of the smallest model
ATTEMPTS = 3  # ports, if another process takes one between the check and the start
TAKEN = "couldn't bind HTTP server socket"  # llama.cpp's words


def start(
    gguf: Path, *, alias: str, key: str, lora: Path | None = None, port: int | None = None, context_tokens: int = CONTEXT,
    slots: int = SLOTS, threads: int | None = None, logs: Path | None = None, seconds: float = PATIENCE,
) -> RunningServer:  # fmt: skip
    """Start the server and wait until it answers.

    lora: an adapter as GGUF, applied with scale 1. port: None takes the first free one from 8001 on. context_tokens: of each of the `slots`,
    at most as many as the model was trained on. threads: None: as many as this process may use cores. logs: the folder of
    its log, by default `.serving/` below the home. seconds: how long loading may take.
    Errors: FileNotFoundError; GgufError if a file is damaged; PortInUseError; ServerError if it cannot start, for example for lack of memory; ModuleNotFoundError.
    """
    if find_spec("xllamacpp") is None:
        raise ModuleNotFoundError("llama.cpp is not installed; install it with: pip install xllamacpp   (`make setup` does it)")
    for file in filter(None, (gguf, lora)):
        if not file.is_file():
            raise FileNotFoundError(f"{paths.short(file)}: no such file; export it: notebook 05_serve_adapter")
        gguf_file.read(file)  # one that was cut short is refused here
    if port is not None:
        server_process.require_free(port)
    settings = ["--gguf", str(gguf.resolve()), "--lora", str(lora.resolve()) if lora else "", "--alias", alias, "--slots", str(slots),
                "--context-tokens", str(context_tokens), "--threads", str(threads or usual_threads())]  # fmt: skip
    for _ in range(1 if port else ATTEMPTS):
        place = port or server_process.free_port()
        command = [sys.executable, "-m", "mistral_lib.serving.llama_cpp", "--port", str(place), *settings]
        server = server_process.start(command, place, alias, key, logs or access_key.folder())
        try:
            server.wait_until_ready(seconds)
        except ServerError as error:
            if TAKEN not in (output := server.output()):
                raise explained(error, alias, output) from None
        else:
            return server
    raise PortInUseError(f"port {place} was taken by another process; choose another one")


def explained(error: ServerError, alias: str, output: str) -> ServerError:
    """The error with llama.cpp's own words for it, the first of which names the cause."""
    words = [line.split(" E ", 1)[1] for line in output.splitlines() if " E " in line and FAULT not in output]
    return (
        ServerError(f"{alias}: llama.cpp could not load the model: {words[0]}. Export it again, or choose another form") if words else error
    )


def usual_threads() -> int:
    """OMP_NUM_THREADS, else all cores that this process may use: more threads than cores slow llama.cpp down several times."""
    from mistral_lib.engine import processes

    return int(os.environ.get("OMP_NUM_THREADS") or processes.cores())


def needed_bytes(gguf: Path, lora: Path | None, context_tokens: int) -> int:
    """Memory of a server: weights, the cache of keys and values for `context_tokens` in all, and the buffers of one batch."""
    header = gguf_file.read(gguf)
    sizes = gguf_file.sizes(header)
    heads = sizes["attention.head_count"]
    width = sizes.get("attention.key_length") or sizes["embedding_length"] // heads
    cache = 2 * context_tokens * sizes["block_count"] * sizes.get("attention.head_count_kv", heads) * width * CACHE_BYTES
    vocabulary = sizes.get("vocab_size") or 0
    buffers = 4 * UBATCH * (vocabulary + 4 * sizes["feed_forward_length"])
    weights = sum(file.stat().st_size for file in filter(None, (gguf, lora)))
    return weights + cache + buffers + OVERHEAD


# -- the process itself --------------------------------------------------------------------------------------------------


def main() -> int:
    """Load the model, serve until a signal or the end of stdin, let running requests finish, and end."""
    options, key = _parser().parse_args(), server_process.read_key()
    import xllamacpp

    trained_on = gguf_file.sizes(gguf_file.read(options.gguf))["context_length"]
    options.context_tokens = min(options.context_tokens, trained_on)
    if fault := memory_fault(options, xllamacpp):
        print(f"{FAULT}{fault}", file=sys.stderr, flush=True)
        return 1
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)  # while it loads nothing is lost
    try:
        with server_process.ending_with_stdin():
            server = xllamacpp.Server(parameters(options, key, xllamacpp))  # returns when the model is loaded
    except RuntimeError:  # it has written to the log why
        return 1
    server_process.until_stopped()
    finish_requests(server.listening_address, key, options.grace)
    sys.stderr.flush()
    os._exit(0)  # llama.cpp's own end waits for requests without a limit; there is nothing to save


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mistral_lib.serving.llama_cpp", description=__doc__.splitlines()[0])
    parser.add_argument("--gguf", type=Path, required=True)
    parser.add_argument("--lora", default="")
    parser.add_argument("--alias", required=True)
    for name in ("--port", "--slots", "--context-tokens", "--threads"):
        parser.add_argument(name, type=int, required=True)
    parser.add_argument("--grace", type=float, default=GRACE)
    return parser


def parameters(options: argparse.Namespace, key: str, xllamacpp: Any) -> Any:
    """llama.cpp's parameters."""
    chosen = xllamacpp.CommonParams()
    chosen.model.path, chosen.model_alias = str(options.gguf), [options.alias]
    chosen.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(options.lora, 1.0)] if options.lora else []
    chosen.hostnames, chosen.port, chosen.api_keys = [server_process.LOOPBACK], options.port, [key]
    chosen.n_parallel, chosen.n_ctx = options.slots, options.slots * options.context_tokens
    chosen.cpuparams.n_threads = chosen.cpuparams_batch.n_threads = options.threads
    chosen.ui, chosen.offline = False, True
    chosen.cache_ram_mib = 0  # by default it keeps up to 8 GiB of earlier prompts
    chosen.reasoning_format = xllamacpp.common_reasoning_format.COMMON_REASONING_FORMAT_NONE  # the answer as the model wrote it
    return chosen


def memory_fault(options: argparse.Namespace, xllamacpp: Any) -> str:
    """What is missing, if the model does not fit into memory; "" if it does, or if a GPU holds it."""
    needed = needed_bytes(options.gguf, Path(options.lora) if options.lora else None, options.slots * options.context_tokens)
    left = system_memory.left_bytes()
    if needed <= left or left == 0 or any("CPU" not in device["type"].name for device in xllamacpp.get_device_info()):
        return ""
    return (
        f"too little memory: {options.slots} slots of {options.context_tokens} tokens need {files.size_text(needed)}, {files.size_text(left)} are left; "
        "serve a smaller form (q4_k_m), or end other programs"
    )


def finish_requests(url: str, key: str, seconds: float) -> None:
    """Wait until no slot computes an answer, at most `seconds`."""
    server, until = Endpoint(url, key, seconds=seconds), time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if not any(slot["is_processing"] for slot in server.slots()):
                return
        except EndpointError:
            return
        time.sleep(0.05)


if __name__ == "__main__":
    sys.exit(main())
