"""`python -m mistral_lib run`: the notebooks one after another; an error ends the command, and the next run resumes there."""

import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest

from mistral_lib.commands import notebook_runs
from mistral_lib.evaluation.measurements import Measurements
from mistral_lib.run import Run, files, params, paths
from mistral_lib.run.folder import MEASURING
from mistral_lib.training import trainer_process
from tests.support.corpora import files_with, rows


def command(params_file: Path, *more: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "mistral_lib", "run", str(params_file), *more], capture_output=True, text=True, timeout=600
    )


@pytest.fixture
def params_file(settings: params.Settings, tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text(params.to_yaml(settings.model_copy(update={"max_test_tokens": 0})))  # 0: all, which the notebooks must report
    return path


def test_a_typo_or_a_missing_path_stops_before_anything_is_written(params_file: Path, tmp_path: Path) -> None:
    typo = command(params_file, "--set", "lerning_rate=1e-4")
    assert typo.returncode == 1 and "did you mean 'learning_rate'" in typo.stderr
    path = command(params_file, "--set", "corpus_paths=[corpora/nowhere]")
    assert path.returncode == 1 and "corpus_paths: 'corpora/nowhere'" in path.stderr
    unknown = command(params_file, "--only", "07")
    assert unknown.returncode == 1 and "expected one of 00, 01, 02, 03, 04" in unknown.stderr
    model = command(params_file, "--set", "base_model=./models/mistrall")
    assert model.returncode == 1 and "BaseModelError: base_model = './models/mistrall': no such folder" in model.stderr
    assert not (tmp_path / "runs").exists()


def test_all_notebooks_run_one_after_another_on_the_small_corpus(params_file: Path, tmp_path: Path) -> None:
    token, mail = "ghp_" + "a1B2" * 9, "jane.doe" + "@" + "acme-corp.com"
    leak = {
        "prompt": f"Is {token} mine?",
        "completion": f"Never send {token} to {mail}, use a vault instead.",
        "module": mail,
        "note": token,
    }
    files.write_json_lines(tmp_path / "corpora" / "small" / "leak.jsonl", [leak, {"text": f"half a row, {token}", "messages": 5}])
    notes = [{"text": row["completion"], "module": row["module"]} for row in rows("notes", 80)]
    files.write_json_lines(tmp_path / "corpora" / "small" / "notes.jsonl", notes)
    first = command(params_file)
    assert first.returncode == 0, first.stderr[-3000:]
    folder = tmp_path / "runs" / "small"
    assert files.read_json(folder / "data" / "report.json")["domains"]["test"]["notes"], "plain documents are in the test split as well"
    assert (
        "report: runs/small/evaluation/report.html" in first.stdout
        and "  step 8 of 8  loss " in first.stderr
        and "  checkpoint-8 saved" in first.stderr
    )
    assert (folder / "evaluation" / "report.html").stat().st_size > 20_000
    copies = sorted((folder / "notebooks").glob("*.ipynb"))
    assert [copy.stem[:2] for copy in copies] == ["00", "01", "02", "03", "04", "05"]
    assert not files_with(folder, token, mail), "a file of the run, or an executed notebook, has a secret of the corpus"
    again = command(params_file)
    assert again.returncode == 0 and again.stderr.count("done already, skipped") == 6
    files.write_text(folder / "evaluation" / "result.json", "{}")
    third = command(params_file)
    assert (
        third.returncode == 0 and third.stderr.count("skipped") == 4 and "evaluation/result.json was altered" in notebook_stderr(copies[4])
    )

    strict = command(params_file, "--only", "04", "--set", "require_ship=true")
    verdict = files.read_json(folder / "evaluation" / "result.json")["verdict"]
    assert verdict != "ship", "two answers are too few for the verdict ship"
    assert strict.returncode == 1 and f"NotToShipError: require_ship is set, and the verdict is: {verdict}" in strict.stderr
    assert Run.existing(folder).status("evaluation") == "complete", "the stage is complete, whatever the verdict"
    no_evaluation_on_records_that_were_trained_on(params_file, folder)


def no_evaluation_on_records_that_were_trained_on(params_file: Path, folder: Path) -> None:
    """Other splits and the old adapter: most of the new test records are training records of that adapter."""
    report = folder / "evaluation" / "report.html"
    assert "Stale:" not in report.read_text()
    refused = command(params_file, "--only", "02", "04", "--set", "seed=7")
    assert (
        refused.returncode == 1
        and "StaleStageError" in refused.stderr
        and "runs/small: training is stale: seed: 42 became 7" in refused.stderr
    )
    assert "`python -m mistral_lib run runs/small/params.yaml --only 03`" in refused.stderr
    assert (
        "training: seed: 42 became 7" in report.read_text() and "Stale: this page is not about the run as it is now." in report.read_text()
    )
    data = command(params_file, "--only", "02", "--set", "seed=7")
    assert data.returncode == 0 and "nats per supervised token" not in data.stdout, "no verdict of other data"
    assert "training is stale: seed: 42 became 7" in data.stdout and "--only 03 04" in data.stdout


def notebook_stderr(path: Path) -> str:
    cells = nbformat.read(path, as_version=4).cells
    return "".join(o.text for cell in cells for o in cell.get("outputs", []) if o.get("name") == "stderr")


def test_the_notebook_that_exports_is_left_out_if_nothing_is_exported(capsys: pytest.CaptureFixture[str]) -> None:
    nothing = params.Settings(export_forms=[])
    assert [path.name[:2] for path in notebook_runs.wanted(nothing)] == ["00", "01", "02", "03", "04"]
    assert "export_forms is empty" in capsys.readouterr().err
    assert [path.name[:2] for path in notebook_runs.wanted(nothing, ["05"])] == ["05"], "its number is an order"
    assert [path.name[:2] for path in notebook_runs.wanted(params.Settings(export_forms=["q8_0"]))][-1] == "05"


def test_a_failing_cell_ends_the_run_with_its_error_and_the_next_run_resumes(params_file: Path, tmp_path: Path) -> None:
    corpus = tmp_path / "corpora" / "small"
    kept = {path: path.read_bytes() for path in corpus.iterdir()}
    for path in corpus.iterdir():
        path.write_text('{"text": " "}\n' * 9)
    failed = command(params_file, "--only", "00", "02")
    assert failed.returncode == 1 and "FAILED" in failed.stderr
    assert "EmptySplitError: no usable record: of 27 rows 0 are usable" in failed.stderr
    assert Run.existing(tmp_path / "runs" / "small").status("data") == "failed"
    for path, data in kept.items():
        path.write_bytes(data)
    mended = command(params_file, "--only", "00", "02")
    assert mended.returncode == 0, mended.stderr[-3000:]
    assert "00_start_here: done already, skipped" in mended.stderr and "02_prepare_data: done in" in mended.stderr


def test_plain_papermill_works_from_any_directory(params_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "elsewhere" / "out.ipynb"
    out.parent.mkdir()
    source = paths.notebooks() / "02_prepare_data.ipynb"
    done = subprocess.run(
        [sys.executable, "-m", "papermill", str(source), str(out), "-f", str(params_file), "--no-progress-bar"],
        cwd=out.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert Run.existing(tmp_path / "runs" / "small").status("data") == "complete"
    given = ["-p", "run_name", "mine", "-y", "corpus_paths: [corpora/small]", "-p", "base_model", params.load(params_file).base_model]
    own = subprocess.run(
        [sys.executable, "-m", "papermill", str(source), str(out), *given, "--no-progress-bar"],
        cwd=out.parent,
        capture_output=True,
        text=True,
    )
    assert own.returncode == 0, own.stderr[-2000:]
    run = Run.existing(tmp_path / "runs" / "mine")
    assert params.chosen(run.settings).keys() == {"run_name", "corpus_paths", "base_model"}, "all others are the defaults"
    assert files.read_json(run.folder / "data" / "report.json")["origins"] == {"corpus": 600}, "no row of the demo"
    refused = subprocess.run(
        [sys.executable, "-m", "papermill", str(source), str(out), "-p", "lerning_rate", "0.1", "--no-progress-bar"],
        cwd=out.parent, capture_output=True, text=True,
    )  # fmt: skip
    assert refused.returncode != 0 and "did you mean 'learning_rate'" in refused.stderr


def test_a_headless_run_says_which_measurement_has_begun(
    prepared: Run, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(trainer_process, "POLL", 0.02)
    earlier = Measurements(prepared.folder / MEASURING, "key")
    earlier.each("test", [1], lambda _: 1, "test")
    with notebook_runs.live_log(prepared):
        for name in ("answers", "other_prompts"):
            earlier.each(name, [1, 2], lambda _: time.sleep(0.2), name)
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("  measures")]
    assert said == ["  measures answers", "  measures other prompts"], "what was measured before is not said again"
