"""The plan's peak against the resident peak of real trainings on this CPU, each in a process of its own."""

import json
import os
import subprocess
import sys

import pytest

from mistral_lib import fit_plan, home
from mistral_lib.model_memory import MIB
from mistral_lib.training_time import Work
from tests.benchmarks import measured_memory

CONFIGURATIONS = [  # tokens, micro batch, checkpointing, quantization, dtype
    "512 2 False nf4 bfloat16",
    "256 4 False none bfloat16",
    "1024 1 False nf4 bfloat16",
    "512 2 False none float32",
    "1024 2 True nf4 bfloat16",
    "512 4 True none float32",
]


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_planned_peak_is_within_a_tenth_of_the_measured(configuration: str) -> None:
    planned = planned_mib(configuration)
    command = [sys.executable, "-m", "tests.benchmarks.measured_memory", *configuration.split()]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=home.project(), env={**os.environ, "OMP_NUM_THREADS": "2"}, check=True
    )
    measured = json.loads(done.stdout.splitlines()[-1])["peak_memory_mib"]
    print(f"\n{configuration:<28} planned {planned:>6.0f} MiB   measured {measured:>6} MiB   {planned / measured - 1:+.1%}")
    assert planned == pytest.approx(measured, rel=0.1)


def planned_mib(configuration: str) -> float:
    """The plan of a configuration on the machine `cpu`."""
    settings = measured_memory.settings_of(configuration.split())
    work = Work(1, 1, measured_memory.SUPERVISED, "synthetic blocks")
    return fit_plan.as_set(settings, work, "cpu").needed / MIB
