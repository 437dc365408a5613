"""Parameters: what is accepted, what is refused and with which message, and that every committed file is valid."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mistral_lib.run import current_file, files, params, settings
from mistral_lib.run import paths as places
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import Settings

FILES = sorted(p for p in places.params().glob("*.yaml") if p.name != "instances.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_file_has_each_parameter_with_its_meaning(path: Path) -> None:
    loaded = params.load(path)
    body = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#"))
    assert body == params.to_yaml(loaded)


def test_the_demo_file_is_the_defaults() -> None:
    assert params.load(places.params() / "demo.yaml") == Settings()


def test_gpu_files_choose_a_compute_type_that_their_gpu_supports() -> None:
    machines = params.instances()
    for path in FILES:
        settings = params.load(path)
        assert settings.dtype in ("auto", machines[settings.instance]["dtype"])


def test_an_unknown_key_names_the_nearest() -> None:
    with pytest.raises(ParameterError, match=r"mine\.yaml: unknown parameter 'lerning_rate'; did you mean 'learning_rate'\?"):
        params.validate({"lerning_rate": 1e-4}, "mine.yaml")


def test_all_faults_are_named_at_once() -> None:
    bad = {"max_steps": "many", "seed": True, "micro_batch_size": 0, "instance": "g5.xlarg", "validation_share": 0.45, "test_share": 0.45}
    with pytest.raises(ParameterError) as caught:
        params.validate(bad, "mine.yaml")
    lines = str(caught.value).splitlines()
    assert all(line.startswith("mine.yaml: ") for line in lines)
    for key in (
        "max_steps = 'many'",
        "seed = True",
        "micro_batch_size = 0",
        "unknown instance 'g5.xlarg'; did you",
        "validation_share + test_share",
    ):
        assert sum(key in line for line in lines) == 1


def test_a_number_that_yaml_takes_for_text_is_understood(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("learning_rate: 2e-4\n")
    assert params.load(path).learning_rate == 2e-4


@pytest.mark.parametrize(
    ("text", "words"),
    [("max_steps: [", "not valid YAML"), ("- a\n- b\n", "found list"), ("quantization: off\n", "true/false is not a value")],
)
def test_a_broken_file_is_explained(tmp_path: Path, text: str, words: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    with pytest.raises(ParameterError, match=words):
        params.load(path)


def test_a_key_that_yaml_does_not_read_as_text_is_reported_with_the_other_faults(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("on: x\n7: y\nnull: z\nmax_steps: many\n")
    with pytest.raises(ParameterError) as caught:
        params.load(path)
    lines = str(caught.value).splitlines()
    assert len(lines) == 4 and all(any(f"mine.yaml: {key} is no parameter name" in line for line in lines) for key in ("True", "7", "None"))
    assert "YAML reads on, off, yes and no as true/false" in lines[0] and "max_steps = 'many'" in lines[3]


@pytest.mark.parametrize("text", ["epochs: .inf", "domain_weights: {red: .nan}", "max_retention_loss: .inf", "max_hours: .nan"])
def test_numbers_that_are_not_finite_are_refused(tmp_path: Path, text: str) -> None:
    """An infinite limit has no effect, and a share of NaN passes every check of its range."""
    path = tmp_path / "mine.yaml"
    path.write_text(text + "\n")
    with pytest.raises(ParameterError, match=rf"mine\.yaml: {text.split(':')[0]} = (inf|nan): Input should be a finite number"):
        params.load(path)


def test_the_error_for_a_missing_file_names_the_existing_ones() -> None:
    with pytest.raises(ParameterError, match=r"demo\.yaml"):
        params.load("params/dmeo.yaml")


@pytest.mark.parametrize(
    "bad", [{"max_test_tokens": 100}, {"max_steps": 3, "checkpoint_every_steps": 4}, {"run_name": "../other"}, {"corpus_paths": []}]
)
def test_contradictions_and_dangerous_names_are_refused(bad: dict) -> None:
    with pytest.raises(ParameterError, match=next(reversed(bad))):
        params.validate(bad)


def test_every_parameter_has_a_meaning_and_a_stage() -> None:
    for name in Settings.names():
        assert params.meaning(name)
        assert set(settings.stages_of(name)) <= set(settings.STAGES)
        assert settings.stages_of(name) or name in ("run_name", "require_ship", "report_to")


def test_a_parameter_keeps_the_work_of_a_stage_that_it_influences() -> None:
    for stage in settings.STAGES:
        kept, used = settings.keeping_work(stage), Settings().work_depends_on(stage)
        assert kept | set(used) == set(Settings().stage(stage)) and not kept & set(used)
    assert all(field.json_schema_extra["keeps"] in ("", *settings.STAGES) for field in Settings.model_fields.values())


def test_a_notebook_overrides_the_run_folder_which_overrides_the_defaults(home: Path) -> None:
    recorded = Settings(run_name="mine", max_tokens=64, learning_rate=1e-4)
    (home / "runs" / "mine").mkdir(parents=True)
    (home / "runs" / "mine" / "params.yaml").write_text(params.to_yaml(recorded))
    cell = 'run_name = "mine"\nlearning_rate = 3e-4'
    got = params.from_notebook({"run_name": "mine", "learning_rate": 3e-4, "In": ["", cell]})
    assert (got.max_tokens, got.learning_rate, got.seed) == (64, 3e-4, 42)


def test_a_notebook_refuses_a_name_that_papermill_only_warns_about(home: Path) -> None:
    names = {"run_name": "demo", "lerning_rate": 1e-4, "rows": 5}
    with pytest.raises(ParameterError, match="did you mean 'learning_rate'"):
        params.from_notebook({**names, "In": ["# Parameters\nlerning_rate = 0.0001\n", "rows = len([1])"]})


def form_saves(settings: Settings) -> Path:
    """Save settings as the form of notebook 00 does."""
    path = places.runs() / f"{settings.run_name}.yaml"
    params.save(settings, path, replace=True)
    current_file.write(path)
    return path


def opened(capsys: pytest.CaptureFixture, cell: str, injected: str = "") -> tuple[Settings, str]:
    """The settings of a notebook with this parameters cell, and what it prints about them."""
    names: dict = {"In": ["", cell, *([f"# Parameters\n{injected}\n"] if injected else [])]}
    exec(cell + "\n" + injected, {}, names)
    return params.from_notebook(names), capsys.readouterr().out


CELL = 'params_file = ""\nrun_name = "demo"\nmax_tokens = 512\nlora_rank = 16'


def test_the_last_saved_file_replaces_a_cells_defaults_and_is_named(home: Path, capsys: pytest.CaptureFixture) -> None:
    assert opened(capsys, CELL) == (Settings(), ""), "no file is saved, so nothing is printed"
    form_saves(Settings(run_name="mine", max_tokens=256, lora_rank=8, epochs=3))
    got, text = opened(capsys, CELL)
    assert (got.run_name, got.max_tokens, got.lora_rank, got.epochs) == ("mine", 256, 8, 3)
    assert "runs/mine.yaml" in text and "max_tokens = 256" in text and "Typed in this cell" not in text
    got, text = opened(capsys, CELL.replace("16", "32"))
    assert (got.max_tokens, got.lora_rank) == (256, 32) and "stronger than the file: lora_rank = 32." in text
    assert opened(capsys, CELL.replace('""', '"none"')) == (Settings(), ""), "the saved file can be ignored"
    got, text = opened(capsys, CELL.replace('""', '"params/quick.yaml"'))
    assert got == params.load(places.params() / "quick.yaml") and "params/quick.yaml" in text


def test_a_file_is_found_from_any_directory(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    form_saves(Settings(run_name="mine", max_tokens=256))
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert params.load("runs/mine.yaml").max_tokens == 256, "as the form prints the command"
    assert params.load("params/quick.yaml") == params.load(places.params() / "quick.yaml")


def test_a_typed_run_name_uses_the_file_of_that_run_or_none(home: Path, capsys: pytest.CaptureFixture) -> None:
    form_saves(Settings(run_name="mine", max_tokens=256))
    form_saves(Settings(run_name="later", max_tokens=128))
    assert opened(capsys, CELL.replace("demo", "mine"))[0].max_tokens == 256
    assert opened(capsys, CELL.replace("demo", "new")) == (Settings(run_name="new"), "")


def test_a_batch_run_looks_for_no_saved_file(home: Path, capsys: pytest.CaptureFixture) -> None:
    form_saves(Settings(run_name="mine", max_tokens=256))
    assert opened(capsys, CELL, "lora_rank = 8") == (Settings(lora_rank=8), "")
    got, _ = opened(capsys, CELL, 'params_file = "runs/mine.yaml"\nlora_rank = 16')
    assert (got.max_tokens, got.lora_rank) == (256, 16), (
        "the file that it names is used; values from papermill win, even if they equal the default"
    )


def test_a_value_typed_in_an_earlier_notebook_counts_until_the_form_saves_again(home: Path, capsys: pytest.CaptureFixture) -> None:
    saved = Settings(run_name="mine", max_tokens=256)
    record = home / "runs" / "mine" / "params.yaml"
    files.write_text(record, params.to_yaml(saved.model_copy(update={"near_duplicate_threshold": 0.9})))
    form_saves(saved)
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.8, "the file saved later is used"
    record.write_text(params.to_yaml(saved.model_copy(update={"near_duplicate_threshold": 0.7})))
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.7, "typed in notebook 02, used in notebook 03"
    os.utime(record, (0, 0))
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.7, "whatever the time of the file is"
    form_saves(saved)
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.8
    record.write_text(params.to_yaml(saved.model_copy(update={"near_duplicate_threshold": 0.7})))
    (home / "runs" / "mine.yaml").write_text(params.to_yaml(saved.model_copy(update={"near_duplicate_threshold": 0.6})))
    assert opened(capsys, CELL)[0].near_duplicate_threshold == 0.6, "a file that was edited after the form saved it is used"


def test_the_file_that_the_form_saved_last_counts_and_not_the_newest(home: Path, capsys: pytest.CaptureFixture) -> None:
    newer = form_saves(Settings(run_name="newer", max_tokens=128))
    last = form_saves(Settings(run_name="last", max_tokens=256))
    os.utime(last, (1, 1))
    params.save(Settings(run_name="copied", max_tokens=64), home / "runs" / "copied.yaml")
    got, text = opened(capsys, CELL)
    assert (got.run_name, got.max_tokens) == ("last", 256) and "runs/last.yaml" in text and newer.stat().st_mtime > 1
    last.unlink()
    with pytest.raises(ParameterError, match=r'runs/last\.yaml is missing; the form of notebook 00 saved it last.*params_file = "none"'):
        opened(capsys, CELL)
    assert opened(capsys, CELL.replace('""', '"none"')) == (Settings(), "")
    assert opened(capsys, CELL, "lora_rank = 8") == (Settings(lora_rank=8), ""), "a batch run does not need the file"


def test_a_saved_file_that_cannot_be_used_is_named(home: Path, capsys: pytest.CaptureFixture) -> None:
    form_saves(Settings(run_name="mine")).write_text("lerning_rate: 1\n")
    with pytest.raises(ParameterError, match=r"runs/mine\.yaml: unknown parameter 'lerning_rate'"):
        opened(capsys, CELL)
    with pytest.raises(ParameterError, match="no such parameter file"):
        opened(capsys, CELL.replace('""', '"params/dmeo.yaml"'))


def test_a_corrected_misspelling_is_no_longer_refused(home: Path) -> None:
    wrong, right = 'run_name = "mine"\nlerning_rate = 3e-4', 'run_name = "mine"\nlearning_rate = 3e-4'
    names = {"run_name": "mine", "lerning_rate": 3e-4, "learning_rate": 3e-4}
    call = "settings = params.from_notebook(globals())"
    with pytest.raises(ParameterError, match="lerning_rate"):
        params.from_notebook({**names, "In": ["", wrong, call]})
    assert params.from_notebook({**names, "In": ["", wrong, call, right, call]}).learning_rate == 3e-4
    with pytest.raises(ParameterError, match="lerning_rate"):
        params.from_notebook({**names, "In": ["", wrong, "# Parameters\n" + right, call]})


def test_a_run_name_that_cannot_be_a_folder_is_explained_in_words() -> None:
    with pytest.raises(ParameterError, match="run_name = 'my first run!': letters, digits and") as caught:
        params.validate({"run_name": "my first run!"})
    assert "pattern" not in str(caught.value)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("columns={prompt: x", "not valid YAML; expected a value as in max_steps=20"),
        ("corpus_paths=corpora/mine", r"a list is expected, such as \[corpora/mine\]"),
    ],
)
def test_the_error_for_a_malformed_override_shows_a_valid_one(override: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        params.load(places.params() / "demo.yaml", [override])


def test_the_command_line_refuses_a_typo_and_prints_the_resolved_parameters() -> None:
    command = [sys.executable, "-m", "mistral_lib", "check", str(places.params() / "demo.yaml"), "--set"]
    refused = subprocess.run([*command, "lerning_rate=1e-4"], capture_output=True, text=True)
    assert refused.returncode == 1 and "did you mean 'learning_rate'" in refused.stderr
    shown = subprocess.run([*command, "learning_rate=1e-4"], capture_output=True, text=True)
    assert shown.returncode == 0 and "learning_rate: 0.0001  #" in shown.stdout
