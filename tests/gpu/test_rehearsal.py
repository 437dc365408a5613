"""The checks of `make gpu` as far as a CPU goes, on a tiny model; and the program around them."""

import subprocess
import sys
from pathlib import Path

import orjson
import pytest
import torch

from mistral_lib.run import paths
from tests.gpu import __main__ as program
from tests.gpu import kernels_checks, results, training_checks
from tests.gpu.bench import Bench, Skipped

CUDA_ALONE = {
    "loading",
    "plan_against_measured",
    "out_of_memory",
    "memory_before_the_reload",
    "trl_on_the_same_card",
    "overflow_of_float16",
}
ELSEWHERE = {"stop_and_resume"}  # tests/training stops and resumes on a CPU, many times


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MISTRAL_WORKBOOK_HOME", str(tmp_path_factory.mktemp("gpu")))
        yield Bench("cpu")


@pytest.mark.parametrize("check", [one for one in program.CHECKS if one.__name__ not in ELSEWHERE], ids=lambda one: one.__name__)
def test_each_check_runs_on_a_cpu_or_says_what_it_needs(bench: Bench, check) -> None:
    found = program.outcome(check, bench)
    assert found.outcome == ("skipped" if check.__name__ in CUDA_ALONE else "passed"), found.because
    assert found.question.endswith("?") and ("CUDA" in found.because or found.figures)


def test_a_wrong_kernel_fails_the_check_of_attention(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from mistral_lib.kernels import cpu_attention

    monkeypatch.setattr(cpu_attention, "attended", lambda query, key, value, scale: query)
    found = program.outcome(kernels_checks.attention_by_record, bench)
    assert found.outcome == "failed" and "a token's loss is off by" in found.because


def test_results_are_written_as_json_and_as_a_table(tmp_path: Path) -> None:
    found = [
        results.Result("a", "Is it so?", "passed", 1.25, figures={"loss": 0.123456, "x|y": "z"}),
        results.Result("b", "And this?", "skipped", 0.0, "needs CUDA"),
    ]
    text = results.write(tmp_path / "out", found).read_text()
    assert "| Is it so? | passed | 1.2 | loss 0.1235; x/y z |" in text and "| And this? | skipped | 0.0 | needs CUDA |" in text
    written = orjson.loads((tmp_path / "out" / "gpu.json").read_bytes())
    assert [one["outcome"] for one in written["results"]] == ["passed", "skipped"] and written["machine"]["torch"] == torch.__version__


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_without_cuda_nothing_is_run_and_nothing_is_claimed(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.gpu", "--out", str(tmp_path / "out")]
    done = subprocess.run(command, cwd=paths.project(), capture_output=True, text=True)
    assert (
        done.returncode == 0 and "no check was run, and nothing is claimed about a GPU" in done.stdout and not (tmp_path / "out").exists()
    )


def test_a_check_that_fails_is_told_from_one_that_cannot_run(bench: Bench) -> None:
    def broken(_: Bench) -> dict:
        """Is it broken?"""
        raise AssertionError("it is")

    def impossible(_: Bench) -> dict:
        """Can it run?"""
        raise Skipped("no card")

    assert program.outcome(broken, bench).outcome == "failed" and "it is" in program.outcome(broken, bench).because
    assert program.outcome(impossible, bench).outcome == "skipped"
    assert training_checks.compute_type(bench) == "float32"
