"""vLLM's exact command for an adapter on its base model, or for a merged model, and the process that keeps it.

vLLM pins an older transformers, so it has an environment of its own (.venv-vllm, made by `make vllm`) and is never imported here. It gets its
key through the environment, which `ps` does not show, and listens on the loopback.
Source: vLLM 0.33, vllm/engine/arg_utils.py and vllm/entrypoints/common/cli_args.py; https://docs.vllm.ai/en/latest/features/lora
"""

import argparse
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from mistral_lib.run import paths
from mistral_lib.serving import server_process
from mistral_lib.serving.server_process import PATIENCE, RunningServer
from mistral_lib.serving.vllm_key_guard import VARIABLE, KeyGuard

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values of --max-lora-rank
GUARD = f"{KeyGuard.__module__}.{KeyGuard.__name__}"
NF4 = ["--quantization", "bitsandbytes", "--load-format", "bitsandbytes"]  # of vllm-bnb-plugin: vLLM's core has had none since 0.28
OURS = ("PYTORCH_ALLOC_CONF", "expandable_segments:True")  # set by mistral_lib for trainings; vLLM's memory pool does not work with it


class NoVllmError(RuntimeError):
    """There is no vLLM to start; the message says how to get one."""


@dataclass(frozen=True, slots=True)
class Served:
    """What vLLM serves."""

    model: Path  # the folder of the base model, or of a merged one
    alias: str
    dtype: str  # bfloat16, float16, float32
    context_tokens: int  # of a request with its answer
    nf4: bool = False  # the base model's weights as NF4, as in a QLoRA training; vLLM quantizes them without double quantization
    adapter: Path | None = None  # a PEFT folder
    rank: int = 0  # of the adapter
    base_alias: str = ""  # the base model's name beside the adapter's


def place() -> Path:
    """Where `make vllm` puts vLLM's program."""
    return paths.project() / ".venv-vllm" / "bin" / "vllm"


def program() -> Path:
    """vLLM's program. Errors: NoVllmError."""
    if not place().is_file():
        raise NoVllmError(
            f"vLLM is not installed ({paths.short(place())} is missing); on a machine with a GPU: make vllm. Or use --engine llama.cpp"
        )
    return place()


def lora_rank(rank: int) -> int:
    """The smallest --max-lora-rank that an adapter of this rank fits into. Errors: ValueError."""
    if fitting := [allowed for allowed in RANKS if allowed >= rank]:
        return fitting[0]
    raise ValueError(f"the adapter's rank is {rank}, vLLM takes at most {RANKS[-1]}; serve the merged model: --form merged")


def options(served: Served, port: int) -> list[str]:
    """The arguments of `vllm`, without any key. Errors: ValueError if the rank is too large."""
    chosen = ["serve", str(served.model), "--host", server_process.LOOPBACK, "--port", str(port), "--dtype", served.dtype,
              "--max-model-len", str(served.context_tokens), "--served-model-name", served.base_alias if served.adapter else served.alias,
              "--middleware", GUARD, "--disable-fastapi-docs"]  # fmt: skip
    if served.nf4:
        chosen += NF4
    if served.adapter:
        module = {"name": served.alias, "path": str(served.adapter), "base_model_name": served.base_alias}
        chosen += ["--enable-lora", "--max-lora-rank", str(lora_rank(served.rank)), "--lora-modules", json.dumps(module)]
    return chosen


def environment(key: str, inherited: Mapping[str, str] = os.environ) -> dict[str, str]:
    """vLLM's environment: its key, the place of the module that guards all paths, and no request to the hub or to its makers."""
    kept = {name: value for name, value in inherited.items() if (name, value) != OURS}
    places = [str(paths.project()), *filter(None, [kept.get("PYTHONPATH")])]
    return kept | {VARIABLE: key, "PYTHONPATH": os.pathsep.join(places), "HF_HUB_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"}


def start(served: Served, *, key: str, port: int | None, logs: Path, seconds: float = PATIENCE) -> RunningServer:
    """Start vLLM and wait until it answers. Errors: NoVllmError, PortInUseError, ServerError."""
    vllm = program()
    if port is not None:
        server_process.require_free(port)
    port = port or server_process.free_port()
    command = [sys.executable, "-m", "mistral_lib.serving.vllm_command", "--", str(vllm), *options(served, port)]
    server = server_process.start(command, port, served.alias, key, logs)
    server.wait_until_ready(seconds)
    return server


# -- the process that keeps vLLM: it ends when its parent does, and vLLM with it -----------------------------------------


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command with the key of stdin in its environment until it ends, a signal comes or stdin closes; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m mistral_lib.serving.vllm_command", description=main.__doc__)
    parser.add_argument("command", nargs="+")
    command = parser.parse_args(arguments).command
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, env=environment(server_process.read_key()), preexec_fn=_end_with_parent)
    server_process.until_stopped(ended=lambda: process.poll() is not None)
    if process.poll() is None:
        process.terminate()  # vLLM ends its requests and its other processes
    status = process.wait()
    return 0 if status == -signal.SIGTERM else status if status >= 0 else 128 - status


def _end_with_parent() -> None:
    """In the new process, on Linux: the kernel sends it SIGTERM when the process that started it ends. Source: PR_SET_PDEATHSIG, prctl(2)"""
    if sys.platform == "linux":
        import ctypes

        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
