"""Memory and processor time of the process that decides about all rows (docs/many_rows.md), for synthetic rows.

Each number of rows is prepared in a process of its own. Time is printed, never asserted; memory is asserted.

make bench                                      small, seconds
ROWS=1000000,3000000,10000000 make bench        what docs/many_rows.md says; 2 GB of disk for a million rows, deleted at the end
FIGURES=folder                                  also draws rows_memory_time.png there

Alone: ROWS=1000000 python -m pytest -s tests/benchmarks/test_driver_memory.py
"""

import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import orjson

from mistral_lib.run import files, paths
from tests.benchmarks import synthetic_parts
from tests.benchmarks.driver_steps import WORKERS

SMALL = "50000,100000,200000"
MIB, GIB = 2**20, 2**30
MACHINES = (64, 256)  # GiB
LIBRARIES, MOST = 330 * MIB, 120  # bytes without rows, and for each row: the limit


def measured(count: int, folder: Path) -> dict[str, Any]:
    """The result of driver_steps for `count` rows."""
    work = files.fresh_folder(folder / "work")
    command = [sys.executable, "-m", "tests.benchmarks.driver_steps", str(count), str(folder / "parts"), str(work)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(paths.project())}
    done = subprocess.run(command, capture_output=True, cwd=paths.project(), env=environment)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    return orjson.loads(done.stdout.splitlines()[-1])


def seconds_of(result: dict[str, Any]) -> float:
    """Processor seconds of the driver alone."""
    return sum(value for name, value in result["seconds"].items() if name != WORKERS)


def peak_of(result: dict[str, Any]) -> int:
    return max(result["peak"].values())


def line(rows: list[int], values: list[float]) -> tuple[float, float]:
    """(value without rows, value per row) of the least-squares line, weighted so that each size counts by its relative error."""
    slope, first = np.polyfit(rows, values, 1, w=1 / np.array(values)) if len(rows) > 1 else (values[0] / rows[0], 0.0)
    return float(first), float(slope)


def table(results: list[dict[str, Any]]) -> str:
    """Processor seconds and peak of each step, a column for each number of rows."""
    names = [name for name in results[-1]["seconds"] if name != WORKERS]
    lines = [f"  {'rows':22}" + "".join(f"{result['rows']:>24,}" for result in results)]
    for name in names:
        cells = (f"{result['seconds'][name]:9,.1f} s {result['peak'][name] / MIB:8,.0f} MiB" for result in results)
        lines.append(f"  {name:22}" + "".join(f"{cell:>24}" for cell in cells))
    cells = (f"{seconds_of(result):9,.1f} s {peak_of(result) / MIB:8,.0f} MiB" for result in results)
    return "\n".join([*lines, f"  {'all':22}" + "".join(f"{cell:>24}" for cell in cells)])


def draw(rows: list[int], memory: list[float], seconds: list[float], folder: Path) -> None:
    """Rows against memory and time, with the fitted lines."""
    from matplotlib.figure import Figure

    figure = Figure((11, 3.8), layout="constrained")
    for axes, values, unit, of in zip(figure.subplots(1, 2), (memory, seconds), ("GiB", "processor minutes"), (GIB, 60), strict=True):
        first, slope = line(rows, values)
        ends = np.array([0, max(rows)])
        axes.plot(
            ends / 1e6, (first + slope * ends) / of, color="gray", label=f"{first / of:.2f} + {1e6 * slope / of:.3f} {unit} a million rows"
        )
        axes.plot(np.array(rows) / 1e6, np.array(values) / of, "o", label="measured")
        axes.set(xlabel="rows, millions", ylabel=f"{'peak memory' if of == GIB else 'time'}, {unit}", ylim=(0, 1.3 * max(values) / of))
        axes.legend(loc="upper left")
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "rows_memory_time.png", dpi=120)


def test_memory_and_time_of_the_driver_by_the_number_of_rows(tmp_path: Path) -> None:
    counts = sorted(int(count) for count in os.environ.get("ROWS", SMALL).split(","))
    with TemporaryDirectory(dir=tmp_path) as folder:  # gigabytes, and pytest keeps its folders
        synthetic_parts.write_full_parts(counts[-1], Path(folder) / "parts")
        results = [measured(count, Path(folder)) for count in counts]
    memory, seconds = [float(peak_of(result)) for result in results], [seconds_of(result) for result in results]
    print(f"\n{table(results)}")
    (bytes_first, bytes_row), (seconds_first, seconds_row) = line(counts, memory), line(counts, seconds)
    print(
        f"  memory = {bytes_first / MIB:,.0f} MiB + {bytes_row:,.0f} bytes a row, processor time = {seconds_first:.1f} s + {1e6 * seconds_row:,.1f} s a million rows"
    )
    for machine in MACHINES:
        print(f"  {machine} GiB end at {(machine * GIB - bytes_first) / bytes_row / 1e6:,.0f} million rows")
    if folder := os.environ.get("FIGURES"):
        draw(counts, memory, seconds, Path(folder))
    for result in results:
        report = result["report"]
        assert result["repeated"] == result["rows"] // 50
        assert peak_of(result) < LIBRARIES + MOST * result["rows"]
        assert report["leaked_exact"] == report["leaked_near"] == report["leaked_document"] == 0
        assert 0.08 * result["rows"] < report["duplicates_near"] < 0.1 * result["rows"], "nearly all near-duplicates are found"
