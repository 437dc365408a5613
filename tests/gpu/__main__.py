"""Runs the checks in turn and writes gpu.json and gpu.md; without CUDA it says so and runs nothing."""

import argparse
import gc
import tempfile
import time
import traceback
from collections.abc import Callable
from os import environ
from pathlib import Path
from typing import Any

import torch

from tests.gpu import kernels_checks, memory_checks, results, speed_checks, training_checks
from tests.gpu.bench import Bench, Skipped
from tests.gpu.results import Result

CHECKS: list[Callable[[Bench], dict[str, Any]]] = [
    *kernels_checks.CHECKS, *training_checks.CHECKS, *memory_checks.CHECKS, *speed_checks.CHECKS,
]  # fmt: skip


def outcome(check: Callable[[Bench], dict[str, Any]], bench: Bench) -> Result:
    """One check. It fails by an error; what it measured until then is lost, its message stays."""
    name, question, began = check.__name__, str(check.__doc__).splitlines()[0], time.perf_counter()
    try:
        figures, word, because = check(bench), "passed", ""
    except Skipped as reason:
        figures, word, because = {}, "skipped", str(reason)
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        figures, word, because = {}, "failed", f"{type(error).__name__} in {where.name}, line {where.lineno}: {str(error)[:400]}"
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    return Result(name, question, word, round(time.perf_counter() - began, 1), because, figures)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("gpu-results"), help="the folder of gpu.json and gpu.md")
    parser.add_argument("--only", nargs="+", choices=[check.__name__ for check in CHECKS], metavar="NAME", help="these checks alone")
    arguments = parser.parse_args()
    if not torch.cuda.is_available():
        print(f"no usable CUDA device (torch {torch.__version__}): no check was run, and nothing is claimed about a GPU")
        return 0
    found: list[Result] = []
    with tempfile.TemporaryDirectory(prefix="mistral-workbook-gpu-") as home:
        environ["MISTRAL_WORKBOOK_HOME"] = home
        bench = Bench("cuda")
        for check in CHECKS:
            if arguments.only and check.__name__ not in arguments.only:
                continue
            found.append(outcome(check, bench))
            print(f"{found[-1].outcome:<8} {found[-1].seconds:>6.1f} s  {found[-1].question}  {found[-1].because}", flush=True)
            place = results.write(arguments.out, found)  # after each: a killed run keeps what it has
    print(place.read_text())
    return 1 if any(one.outcome == "failed" for one in found) else 0


if __name__ == "__main__":
    raise SystemExit(main())
