"""Parameters: what is accepted, what is refused and in which words, and that every committed file is sound."""

import subprocess
import sys
from pathlib import Path

import pytest

from mistral_lib import home, params, settings
from mistral_lib.params import ParameterError
from mistral_lib.settings import Settings

FILES = sorted(p for p in home.params().glob("*.yaml") if p.name != "instances.yaml")


@pytest.mark.parametrize("path", FILES, ids=lambda p: p.name)
def test_every_file_says_each_parameter_with_its_meaning(path: Path) -> None:
    loaded = params.load(path)
    body = "".join(line for line in path.read_text().splitlines(keepends=True) if not line.startswith("#"))
    assert body == params.to_yaml(loaded)


def test_the_demo_file_is_the_defaults() -> None:
    assert params.load(home.params() / "demo.yaml") == Settings()


def test_gpu_files_choose_the_type_that_their_gpu_multiplies() -> None:
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
    for key in ("max_steps = 'many'", "seed = True", "micro_batch_size = 0", "instance = 'g5.xlarg'", "validation_share + test_share"):
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


def test_a_file_that_is_not_there_names_those_that_are() -> None:
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
        assert settings.stages_of(name) or name in ("run_name", "require_ship")


def test_a_notebook_overrides_the_run_folder_and_that_the_defaults(home: Path) -> None:
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


def test_a_corrected_misspelling_is_refused_no_more(home: Path) -> None:
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


def test_the_command_line_refuses_a_typo_and_shows_what_is_resolved() -> None:
    command = [sys.executable, "-m", "mistral_lib", "check", str(home.params() / "demo.yaml"), "--set"]
    refused = subprocess.run([*command, "lerning_rate=1e-4"], capture_output=True, text=True)
    assert refused.returncode == 1 and "did you mean 'learning_rate'" in refused.stderr
    shown = subprocess.run([*command, "learning_rate=1e-4"], capture_output=True, text=True)
    assert shown.returncode == 0 and "learning_rate: 0.0001  #" in shown.stdout
