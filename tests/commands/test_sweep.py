"""Sweeps: all faults of a file at once, alternatives one after another with shared data, and a failed one does not stop the others."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from mistral_lib.commands import stage_reuse, sweep, sweep_comparison, sweep_runs
from mistral_lib.preparation import audit, prepare
from mistral_lib.run import Run, RunInUseError, files, params, paths
from mistral_lib.run.params import ParameterError
from mistral_lib.run.paths import project
from mistral_lib.run.settings import Settings
from tests.support.corpora import other


def sweep_file(folder: Path, text: str) -> Path:
    path = folder / "try.yaml"
    path.write_text(text)
    return path


@pytest.mark.parametrize("path", sorted((paths.params() / "sweeps").glob("*.yaml")), ids=lambda path: path.name)
def test_every_shipped_sweep_can_be_loaded(path: Path) -> None:
    assert len(sweep.load(path).alternatives) > 1


def test_the_committed_sweeps_are_sound(home: Path) -> None:
    paths = sorted((project() / "params" / "sweeps").glob("*.yaml"))
    assert "demo_rank_learning_rate.yaml" in [path.name for path in paths]
    for path in paths:
        assert len(sweep.load(path).alternatives) >= 2


def test_a_grid_and_named_alternatives_become_runs(home: Path) -> None:
    text = "params_file: params/demo.yaml\ncommon: {max_steps: 4, checkpoint_every_steps: 4}\ngrid: {lora_rank: [4, 8], learning_rate: [1e-3]}\nalternatives: {more steps: {max_steps: 9}}"
    found = sweep.load(sweep_file(home, text))
    expected = {"lora_rank-4_learning_rate-1e-3": (4, 4), "lora_rank-8_learning_rate-1e-3": (8, 4), "more-steps": (16, 9)}
    assert {one.name: (one.settings.lora_rank, one.settings.max_steps) for one in found.alternatives} == expected
    assert [one.settings.run_name for one in found.alternatives] == [f"try-{name}" for name in expected]
    assert (
        sweep_comparison.varied(found) == ["lora_rank", "learning_rate", "max_steps"]
        and found.alternatives[0].settings.learning_rate == 1e-3
    )


def test_every_fault_of_a_sweep_file_is_named_at_once_and_nothing_runs(home: Path) -> None:
    text = (
        "params_file: params/demo.yaml\ncommn: {}\ncommon: {lerning_rate: 3, run_name: z}\ngrid: {lora_rank: [0, 16], lora_rnk: [3], max_steps: 4}\n"
        "alternatives: {one: {lora_alpha: -3}, two: 7, three: {seed: 1}, four: {seed: 1}}"
    )
    path = sweep_file(home, text)
    done = subprocess.run([sys.executable, "-m", "mistral_lib", "sweep", str(path)], capture_output=True, text=True)
    expected = ["unknown key 'commn'; did you mean 'common'?", "unknown parameter 'lerning_rate'; did you mean 'learning_rate'?",
                "unknown parameter 'lora_rnk'; did you mean 'lora_rank'?", "max_steps = 4: expected a list", "two = 7: expected {parameter: value}",
                "lora_rank = 0: ", "lora_alpha = -3: ", "run_name is given by the sweep"]  # fmt: skip
    lines = done.stderr.removeprefix("ParameterError: ").splitlines()
    assert done.returncode == 1 and len(lines) == len(expected), done.stderr
    assert all(sum(words in line for line in lines) == 1 for words in expected) and all(line.startswith("try.yaml: ") for line in lines)
    assert not (home / "runs").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("params_file: params/demo.yaml", "no alternatives: give a grid"),
        ("grid: {seed: [1, 2]}", "params_file = None: expected"),
        ("params_file: params/dmo.yaml\ngrid: {seed: [1, 2]}", "params_file: .*no such parameter file"),
        (
            "params_file: params/demo.yaml\ngrid: {seed: [1, 2]}\nalternatives: {again: {seed: 2}}",
            "'seed-2' and 'again' are the same parameters",
        ),
        ("params_file: params/demo.yaml\ngrid: {seed: [1, 1]}", "two alternatives would be named 'seed-1'"),
        ("params_file: params/demo.yaml\ngrid: [1]", "grid: expected parameter: \\[values\\]"),
        (
            "params_file: params/demo.yaml\ngrid: {seed: [" + ", ".join(map(str, range(201))) + "]}",
            "201 alternatives, expected at most 200",
        ),
    ],
)
def test_a_fault_is_reported_with_what_was_expected(home: Path, text: str, words: str) -> None:
    with pytest.raises(ParameterError, match=words):
        sweep.load(sweep_file(home, text))


def taken(run: Run, *others: Run) -> dict[str, str]:
    return stage_reuse.take_over(run, others)


def test_a_stage_is_taken_over_if_it_would_be_the_same(prepared: Run, capsys) -> None:
    sibling = other(prepared, run_name="sibling", learning_rate=1e-3)
    assert taken(sibling, prepared) == {"data": "small"} and "verified: same parameters, same inputs" in capsys.readouterr().err
    assert sibling.entry("data")["taken_over"]["from"] == "runs/small"
    assert [str(found) for found in audit.audit(sibling.folder) if found.status != "verified"] == []
    one = next((sibling.folder / "data" / "train").glob("*.arrow"))
    assert one.samefile(prepared.folder / "data" / "train" / one.name), "a hard link, no second copy"
    prepare.prepare(sibling)
    assert "data: unchanged" in capsys.readouterr().err
    changed = prepared.folder.parent.parent / "corpora" / "small" / "red.jsonl"
    changed.write_text(changed.read_text() + changed.read_text().splitlines()[0].replace("red", "pink") + "\n")
    prepare.prepare(sibling)
    assert "input corpus/red.jsonl changed" in capsys.readouterr().err, "inputs are compared again when the stage runs"
    assert sibling.entry("data")["taken_over"] is None and prepared.entry("data")["outputs"] != sibling.entry("data")["outputs"]
    assert [str(found) for found in audit.audit(prepared.folder) if found.status not in ("verified", "stale")] == []


def test_a_stage_is_not_taken_over_if_it_would_differ_or_is_damaged(prepared: Run, capsys) -> None:
    assert taken(other(prepared, run_name="shorter", max_tokens=64), prepared) == {}
    sibling = other(prepared, run_name="sibling")
    path = next((prepared.folder / "data" / "test").glob("*.arrow"))
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    assert taken(sibling, prepared) == {} and "whose files are not those that it recorded" in capsys.readouterr().err
    assert sibling.status("data") == "not started" and not (sibling.folder / "data").exists()


def two(home: Path, settings: Settings) -> sweep.Sweep:
    (home / "base.yaml").write_text(params.to_yaml(settings))
    return sweep.load(sweep_file(home, "params_file: base.yaml\ngrid: {seed: [1, 2]}"))


def test_a_sweep_does_not_start_while_one_of_its_runs_is_in_use(home: Path, settings: Settings) -> None:
    found = two(home, settings)
    busy = Run.open(found.alternatives[1].settings)
    with (
        busy.lock("stage training"),
        pytest.raises(RunInUseError, match=r"runs/try-seed-2 is in use by process \d+ on \S+ \(stage training, since .*\); wait"),
    ):
        sweep_runs.run(found)
    assert not (home / "runs" / "try").exists() and not (home / "runs" / "try-seed-1").exists()


def test_the_comparison_gets_the_error_of_the_failed_stage(home: Path, settings: Settings) -> None:
    run = Run.open(two(home, settings).alternatives[0].settings)
    assert "see the executed copy in runs/try-seed-1/notebooks/" in sweep_runs.last_error(run)
    with pytest.raises(OSError), run.lock("stage training"), run.recording("training", {}):
        raise OSError("No space left on device")
    assert sweep_runs.last_error(run) == "training failed: OSError: No space left on device"


def command(path: Path) -> subprocess.CompletedProcess:
    words = [sys.executable, "-m", "mistral_lib", "sweep", str(path), "--only", "03", "04"]
    return subprocess.run(words, capture_output=True, text=True, timeout=600)


@pytest.mark.long
def test_a_sweep_runs_compares_continues_after_a_failure_and_skips_what_is_done(prepared: Run, settings: Settings, home: Path) -> None:
    (home / "base.yaml").write_text(params.to_yaml(settings.model_copy(update={"sample_count": 0, "general_prompts": 0})))
    path = sweep_file(
        home,
        "params_file: base.yaml\nalternatives:\n  fast: {learning_rate: 5.0e-3}\n  lost: {corpus_paths: [corpora/nowhere]}\n  slow: {learning_rate: 1.0e-4}",
    )
    first = command(path)
    assert first.returncode == 1, first.stderr[-3000:]
    assert first.stderr.count("data: taken over from runs/small") == first.stderr.count("data: taken over from runs/try-fast") == 1
    assert "FAILED lost: SourceError: corpus_paths: 'corpora/nowhere'" in first.stderr and "1 of 3 alternatives failed" in first.stderr
    found = json.loads((home / "runs" / "try" / "comparison.json").read_text())
    rows = {row["alternative"]: row for row in found["rows"]}
    assert [row["alternative"] for row in found["rows"]] == ["fast", "slow", "lost"] and [row["status"] for row in found["rows"]] == [
        "complete",
        "complete",
        "failed",
    ]
    for name in ("fast", "slow"):
        folder = home / "runs" / f"try-{name}"
        trained, evaluated = files.read_json(folder / "training" / "result.json"), files.read_json(folder / "evaluation" / "result.json")
        assert rows[name]["validation"] == trained["validation_loss"]["adapter"] and rows[name]["minutes"] == trained["seconds"] / 60
        assert rows[name]["test"] == evaluated["overall"]["adapter"] and rows[name]["verdict"] == evaluated["verdict"]
        assert f"{rows[name]['validation']:.4f}" in first.stdout
    assert rows["fast"]["validation"] < rows["slow"]["validation"] and "Lowest validation loss: fast" in first.stdout
    page = (home / "runs" / "try" / "comparison.html").read_text()
    assert "data:image/png;base64," in page and "<td>slow</td>" in page and "corpora/nowhere" in page
    result = home / "runs" / "try-slow" / "evaluation" / "result.json"
    path.write_text(path.read_text().replace("  lost: {corpus_paths: [corpora/nowhere]}\n", ""))
    second = command(path)
    assert second.returncode == 0 and second.stderr.count("done already, skipped") == 4
    result.write_text("{}")
    assert "evaluation altered" in sweep_comparison.text(
        sweep_comparison.write(sweep.load(path), {one.name: sweep_comparison.row(one) for one in sweep.load(path).alternatives})
    )


def test_what_may_be_concluded_from_losses() -> None:
    row = {"alternative": "a", "validation": 2.0, "validation_base": 2.5, "measured_on": "1"}
    assert "cannot be compared" in sweep_comparison.advice([row, {**row, "measured_on": "2"}])[0]
    assert "within 0.5 %" in sweep_comparison.advice([row, {**row, "alternative": "b", "validation": 2.009}])[1]
    assert "no better than the base model" in sweep_comparison.advice([{**row, "validation_base": 1.9}])[1]
