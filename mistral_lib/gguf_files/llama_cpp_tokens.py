"""Token ids as llama.cpp itself makes them from a GGUF file: of texts, and of chats through the template in the file.

The file is loaded by llama.cpp's server in a process of its own, mapped and not read: of 14 GB of weights almost nothing gets into memory,
and a crash in there ends that process alone. That llama.cpp loads the file at all is checked by the way.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from mistral_lib.gguf_files.gguf_file import GgufError
from mistral_lib.run import paths

CONTEXT = 512  # tokens; nothing is generated
LONGEST_REPORT = 600  # characters of llama.cpp's own words in an error


class Answers(NamedTuple):
    texts: list[list[int]]  # ids of each text
    chats: list[list[int] | str]  # ids of each chat's prompt, or why the template refuses it
    prompts: list[list[int]]  # ids of each rendered prompt


def of_gguf(gguf: Path, texts: Sequence[str] = (), chats: Sequence[dict[str, Any]] = (), prompts: Sequence[str] = ()) -> Answers:
    """texts: control strings in them are text, and no start token is added. chats: `messages`, and `tools` if there are any; rendered by
    the template in the file and tokenized as the server's chat endpoint does it. prompts: rendered already; control strings in them are
    control tokens, and the start token is added if the file says so.

    Errors: GgufError if llama.cpp cannot load the file.
    """
    question = orjson.dumps({"texts": list(texts), "chats": list(chats), "prompts": list(prompts)})
    command = [sys.executable, "-m", "mistral_lib.gguf_files.llama_cpp_tokens", str(gguf)]
    done = subprocess.run(command, input=question, capture_output=True)
    if done.returncode:
        raise GgufError(
            f"llama.cpp cannot load {paths.short(gguf)} (exit code {done.returncode}): {_said(done.stderr.decode(errors='replace'))}"
        )
    return Answers(**orjson.loads(done.stdout))


def _said(log: str) -> str:
    """Its first error, or the end of what it printed."""
    errors = [line.split(" E ", 1)[-1] for line in log.splitlines() if " E " in line or "GGML_ASSERT" in line]
    return errors[0] if errors else log.strip()[-LONGEST_REPORT:] or "it printed nothing"


def main(gguf: str) -> None:
    """Reads the question from stdin and writes the answers to stdout; what llama.cpp prints goes to stderr."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    question = orjson.loads(sys.stdin.buffer.read())
    server = _server(gguf)
    texts = [_ids(server, text, special=False) for text in question["texts"]]
    chats = [_chat(server, chat) for chat in question["chats"]]
    prompts = [_ids(server, prompt, special=True) for prompt in question["prompts"]]
    answers.write(orjson.dumps({"texts": texts, "chats": chats, "prompts": prompts}))
    answers.flush()
    os._exit(0)  # the server's threads wait for requests


def _server(gguf: str) -> Any:
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path, params.n_ctx, params.n_parallel = gguf, CONTEXT, 1
    params.hostnames, params.port, params.n_threads_http = ["127.0.0.1"], 0, 1
    params.warmup, params.fit_params, params.no_extra_bufts, params.n_gpu_layers = False, False, True, 0  # else it reads all weights
    return xllamacpp.Server(params)


def _chat(server: Any, chat: dict[str, Any]) -> list[int] | str:
    rendered = _post(server, "/apply-template", chat)
    # add_special: the server cuts the start token off what the template wrote, and the tokenizer adds it
    return _ids(server, rendered["prompt"], special=True) if "prompt" in rendered else json.dumps(rendered)[:LONGEST_REPORT]


def _ids(server: Any, text: str, special: bool) -> list[int]:
    return _post(server, "/tokenize", {"content": text, "add_special": special, "parse_special": special})["tokens"]


def _post(server: Any, path: str, body: dict[str, Any]) -> dict[str, Any]:
    from urllib.error import HTTPError
    from urllib.request import ProxyHandler, Request, build_opener

    request = Request(server.listening_address + path, orjson.dumps(body), {"Content-Type": "application/json"})
    try:
        with build_opener(ProxyHandler({})).open(request) as answer:
            return orjson.loads(answer.read())
    except HTTPError as error:
        return orjson.loads(error.read())


if __name__ == "__main__":
    main(sys.argv[1])
