"""The adapter's folder is what one hands on: it says what it is, its README's program runs, and nothing private is in it."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import yaml
from peft.utils import save_and_load

from mistral_lib.model import adapter_readme, base_model, demo_model, paired_answers
from mistral_lib.preparation import audit
from mistral_lib.run import Run, files, params
from mistral_lib.training import train
from tests.support.corpora import files_with

QUESTION = "What is a kernel?"  # of the README's program


def handed_on(run: Run) -> Path:
    return run.folder / "training" / "adapter"


def program(readme: str) -> str:
    return re.search(r"^```python\n(.+?)^```$", readme, re.S | re.M)[1]


def texts(value: Any) -> Iterator[str]:
    """Every text in a JSON value, keys included."""
    if isinstance(value, dict):
        for key, part in value.items():
            yield from (key, *texts(part))
    elif isinstance(value, list):
        for part in value:
            yield from texts(part)
    elif isinstance(value, str):
        yield value


@pytest.fixture
def no_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    """peft may not look for the base model's name on the hub."""

    def looked_for(name: str, *_: Any, **__: Any) -> None:
        raise AssertionError(f"peft asks the hub for {name}")

    monkeypatch.setattr(save_and_load, "check_file_exists_on_hf_hub", looked_for)


@pytest.mark.parametrize("quantization", ["none", "nf4"])
def test_the_program_in_the_readme_gives_the_adapters_answer(
    opened: Callable[..., Run], tiny_model: str, no_hub: None, quantization: str
) -> None:
    run = opened(quantization=quantization, validate_every_steps=2)
    train.train(run)
    source = program((handed_on(run) / "README.md").read_text())
    assert 'base = "tiny"  # the folder of your copy of this model' in source, "the only line that a reader has to change"
    done = subprocess.run(
        [sys.executable, "-c", source.replace('"tiny"', repr(tiny_model))], cwd=handed_on(run), capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    model, tokenizer = paired_answers.load(run, print)
    base, adapter = paired_answers.answer(model, tokenizer, QUESTION, 64, lambda texts, ended: False).texts()
    assert done.stdout.strip() == adapter != base


def test_the_folder_names_its_base_and_counts_and_nothing_private(trained_run: Run, tiny_model: str) -> None:
    folder = handed_on(trained_run)
    private = [
        str(trained_run.folder.parents[2]),
        tiny_model,
        str(Path(tiny_model).parent),
        str(Path.home()),
        "corpora",
        "red.",
        "green.part",
    ]
    assert files_with(folder, *private) == [] and files_with(folder, "tiny") != []
    for path in folder.glob("*.json"):
        found = [text for text in texts(files.read_json(path)) if text.startswith(("/", "~", "s3://", "file:"))]
        assert found == [], path.name
    config, provenance = files.read_json(folder / "adapter_config.json"), files.read_json(folder / "provenance.json")
    assert (config["base_model_name_or_path"], config["revision"]) == ("tiny", None)
    assert provenance["base_model"] == provenance["parameters"]["base_model"] == "tiny"
    assert provenance["base_identity"] == base_model.fingerprint(tiny_model)
    assert provenance["parameters"] == {**trained_run.settings.stage("training"), "base_model": "tiny"}, "what an audit needs stays"
    assert {finding.status for finding in audit.audit(folder)} == {"verified"}
    assert {finding.status for finding in audit.audit(trained_run.folder)} == {"verified"}


def test_the_readme_has_metadata_counts_and_no_verdict(trained_run: Run) -> None:
    text = (handed_on(trained_run) / "README.md").read_text()
    head = yaml.safe_load(text.split("---\n")[1])
    assert head == {"base_model": "tiny", "library_name": "peft", "pipeline_tag": "text-generation", "tags": ["lora"]}
    ids = pq.read_table(trained_run.folder / "training" / "record_ids.parquet").to_pylist()
    records = {row["record_id"] for row in ids if row["split"] == "train"}
    report = files.read_json(trained_run.folder / "data" / "report.json")
    assert len(records) == report["split_sizes"]["train"]
    numbers = files.read_json(handed_on(trained_run) / "provenance.json")["trained_on"]
    assert numbers["supervised_tokens"] == report["supervised_tokens"]["train"] and numbers["blocks"] == report["blocks"]["train"]
    passes = 6 * 2 / numbers["blocks"]
    assert (
        f"{len(records)} records, {numbers['supervised_tokens']:,} supervised tokens, in {numbers['blocks']} blocks of 128 tokens" in text
    )
    assert f"6 optimizer steps of 2 blocks: {passes:.2f} passes over the training split" in text and "of step 6; rank 16, alpha 32" in text
    assert (
        "There is no verdict here." in text
        and "evaluation/model_card.md" in text
        and not re.search(r"\bship\b|More Information Needed", text)
    )


@pytest.mark.parametrize(
    ("name", "shown"),
    [("/home/anna/models/tiny", "tiny"), ("~/firm/tiny/", "tiny"), ("s3://firm-bucket/anna/tiny/", "tiny"), ("models/tiny", "tiny")],
)
def test_a_model_of_ones_own_is_named_without_its_path(home: Path, name: str, shown: str) -> None:
    (home / "models" / "tiny").mkdir(parents=True)  # else the last name would be that of a hub model
    assert base_model.shown_name(name) == shown and base_model.portable_id(name) == (shown, None)


def test_the_embedded_model_is_named_as_the_workbook_names_it() -> None:
    settings = params.validate({"base_model": demo_model.NAME, "quantization": "none"})
    assert base_model.portable_id(demo_model.NAME) == (demo_model.NAME, None)
    assert base_model.shown_name(demo_model.NAME) == "smollm2-135m-instruct"
    provenance = {"base_model": demo_model.NAME, "base_revision": None, "base_identity": "f" * 64, "dtype": "float32"}
    source = adapter_readme.loading(settings, provenance)
    assert f'base = base_model.folder("{demo_model.NAME}")' in source
    compile(source, "README", "exec")
