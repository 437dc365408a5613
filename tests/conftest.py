"""What many tests need: a home of their own for runs, a small corpus, and a tiny Mistral that trains in seconds."""

import atexit
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings as hypothesis_settings

from mistral_lib.run import Run, files, params
from tests.support.corpora import rows, short_run


def own_home() -> None:
    """A home for this run of the tests, deleted at its end: with the embedded model it takes half a gigabyte."""
    place, made_by = tempfile.mkdtemp(prefix="mistral-workbook-tests-"), os.getpid()
    os.environ["MISTRAL_WORKBOOK_HOME"] = place
    atexit.register(lambda: os.getpid() == made_by and shutil.rmtree(place, ignore_errors=True))


if "MISTRAL_WORKBOOK_HOME" not in os.environ:
    own_home()

# A shell that starts the tests in the background has SIGINT ignored, and so would have all that they start: Ctrl-C would do nothing.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The same examples every time, so that a test fails because of a change and not by chance; no deadline, since the machine may be busy.
# For new examples: pytest --hypothesis-profile=search
hypothesis_settings.register_profile("same", derandomize=True, database=None, deadline=None)
hypothesis_settings.register_profile("search", derandomize=False, database=None, deadline=None)
hypothesis_settings.load_profile("same")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home for this test alone."""
    monkeypatch.setenv("MISTRAL_WORKBOOK_HOME", str(tmp_path))
    return tmp_path


@pytest.fixture
def gpu_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """An `instance` with a GPU, whose price a test needs, is accepted on this machine."""
    from mistral_lib.run import cuda_device

    monkeypatch.setattr(cuda_device, "fault", lambda compute=True: None)


@pytest.fixture
def corpus(home: Path) -> Path:
    """Three JSONL files of 200 rows each."""
    for domain in ("red", "green", "blue"):
        files.write_json_lines(home / "corpora" / "small" / f"{domain}.jsonl", rows(domain, 200))
    return home / "corpora" / "small"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    """The address of a real S3 API server on the loopback."""
    from moto.server import ThreadedMotoServer

    running = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    running.start()
    yield "http://{}:{}".format(*running.get_host_and_port())
    running.stop()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Mistral of two layers with random weights and the embedded model's tokenizer, as a folder."""
    import torch
    from transformers import MistralConfig, MistralForCausalLM

    from mistral_lib.model import base_model, demo_model

    torch.manual_seed(0)
    tokenizer = base_model.load_tokenizer(demo_model.NAME)
    config = MistralConfig(
        vocab_size=len(tokenizer), hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2,
        head_dim=16, max_position_embeddings=512, sliding_window=None, tie_word_embeddings=True, initializer_range=0.05,
        bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("models") / "tiny"
    MistralForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def settings(corpus: Path, tiny_model: str) -> params.Settings:
    """A run on the small corpus with the tiny model."""
    return short_run(
        run_name="small", corpus_paths=["corpora/small"], base_model=tiny_model, max_tokens=128, max_steps=8,
        checkpoint_every_steps=2, learning_rate=5e-3, validation_share=0.15, test_share=0.15, max_validation_tokens=1024,
        max_test_tokens=1024, sample_count=2, max_new_tokens=8, general_prompts=4, shortest_answer=20,
    )  # fmt: skip


@pytest.fixture
def prepared(settings: params.Settings) -> Run:
    """A run whose data stage is complete."""
    from mistral_lib.preparation import prepare

    run = Run.open(settings)
    prepare.prepare(run)
    return run


@pytest.fixture(scope="session")
def trained_home(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with one trained run, not quantized and in float32, made once."""
    from mistral_lib.preparation import prepare
    from mistral_lib.training import train

    place = tmp_path_factory.mktemp("trained_home")
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}  # the trainer replaces them
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(place))
        for domain in ("red", "green"):
            files.write_json_lines(place / "corpora" / "small" / f"{domain}.jsonl", rows(domain, 120))
        run = Run.open(short_run(
            run_name="small", corpus_paths=["corpora/small"], base_model=tiny_model, max_tokens=128, max_steps=6, checkpoint_every_steps=6,
            validate_every_steps=0, learning_rate=5e-3, validation_share=0.15, test_share=0.15, max_validation_tokens=1024,
            max_new_tokens=8, quantization="none", dtype="float32",
        ))  # fmt: skip
        prepare.prepare(run)
        train.train(run)
    for number, handler in handlers.items():
        signal.signal(number, handler)
    return place


@pytest.fixture
def trained_run(trained_home: Path, home: Path) -> Run:
    """A copy of the trained run in an empty home."""
    shutil.copytree(trained_home, home, dirs_exist_ok=True)
    return Run.existing(home / "runs" / "small")
