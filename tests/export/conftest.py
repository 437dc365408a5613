"""A trained, evaluated and exported run."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from mistral_lib.evaluation import evaluate
from mistral_lib.export import export
from mistral_lib.run import Run
from tests.support.corpora import other


@pytest.fixture(scope="module")
def exported(trained_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """The trained run, evaluated and exported, in a home of its own. The tests leave it as it is."""
    place = tmp_path_factory.mktemp("exported")
    shutil.copytree(trained_home, place, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(place))
        run = other(Run.existing(place / "runs" / "small"), sample_count=0, general_prompts=0, max_test_tokens=512, max_probe_tokens=256,
                    export_forms=["merged", "f16", "q8_0", "lora_gguf"], max_export_tokens=240)  # fmt: skip
        evaluate.evaluate(run)
        export.export(run)
        yield run


@pytest.fixture
def own_copy(exported: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The exported run in a home of its own, which a test may change; its large files are links."""
    home = exported.folder.parents[1]
    shutil.copytree(home, tmp_path / "home", copy_function=os.link)
    monkeypatch.setenv("MISTRAL_WORKBOOK_HOME", str(tmp_path / "home"))
    return Run.existing(tmp_path / "home" / "runs" / exported.folder.name)
