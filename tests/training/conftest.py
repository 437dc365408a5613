"""A run that is prepared once; each test trains a copy of it."""

import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from mistral_lib.run import Run, files, params
from tests.support.corpora import rows, short_run


@pytest.fixture(scope="module")
def prepared_once(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run whose data stage is complete."""
    from mistral_lib.preparation import prepare

    home = tmp_path_factory.mktemp("survival")
    for domain in ("red", "green"):
        files.write_json_lines(home / "corpora" / "small" / f"{domain}.jsonl", rows(domain, 120))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(home))
        small = short_run(
            run_name="small", corpus_paths=["corpora/small"], base_model=tiny_model, max_tokens=128, max_steps=6,
            checkpoint_every_steps=2, validate_every_steps=0, learning_rate=5e-3, validation_share=0.15, test_share=0.15,
            max_validation_tokens=1024, quantization="none", dtype="float32",
        )  # fmt: skip
        run = Run.open(small)
        prepare.prepare(run)
    return run.folder


@pytest.fixture
def opened(prepared_once: Path, home: Path) -> Iterator[Callable[..., Run]]:
    """Opens a copy of the prepared run with some parameters changed; signal handlers are restored afterwards."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    shutil.copytree(prepared_once, home / "runs" / "small")

    def open_(**changes: object) -> Run:
        settings = Run.existing(home / "runs" / "small").settings
        return Run.open(params.validate({**settings.model_dump(), **changes}))

    yield open_
    for number, handler in handlers.items():
        signal.signal(number, handler)
