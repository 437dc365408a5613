"""Complete training stages of the embedded model, as users run them, and the peak memory of each process.

Run: python -m tests.benchmarks.measured_memory             prints the table of docs/fit_plan.md, ten minutes on two cores
     python -m tests.benchmarks.measured_memory 512 2 False nf4 bfloat16    one configuration
"""

import os
import shutil
import subprocess
import sys

from mistral_lib.commands import stage_reuse
from mistral_lib.model.step_memory import MIB
from mistral_lib.preparation import prepare
from mistral_lib.run import Run, files, params, paths
from mistral_lib.training import fit_plan, workload
from tests.support.corpora import short_run

STEPS = 4  # by then the memory of a training on a CPU has stopped growing
CONFIGURATIONS = [  # tokens, micro batch, checkpointing, quantization, dtype
    "512 2 False nf4 bfloat16",
    "256 4 False none bfloat16",
    "1024 1 False nf4 bfloat16",
    "512 2 False none float32",
    "1024 2 True nf4 bfloat16",
    "512 4 True none float32",
]
HELD_OUT = ["512 3 False nf4 bfloat16", "256 2 True nf4 float32", "1024 2 False none bfloat16"]  # not used for the plan's constants


def settings_of(words: list[str]) -> params.Settings:
    max_tokens, micro, checkpointing, quantization, dtype = words
    return short_run(
        run_name=f"memory-{'-'.join(words)}", max_tokens=int(max_tokens), micro_batch_size=int(micro), quantization=quantization, dtype=dtype,
        activation_checkpointing=checkpointing == "True", max_steps=STEPS, checkpoint_every_steps=STEPS, validate_every_steps=STEPS,
        warmup_share=0.0, max_validation_tokens=int(micro) * int(max_tokens),
    )  # fmt: skip


def planned_and_measured(words: list[str]) -> tuple[float, int]:
    """Peak memory in MiB: planned, and measured by a training on the same data. Configurations of equal length share prepared data."""
    settings = settings_of(words)
    shutil.rmtree(paths.runs() / settings.run_name, ignore_errors=True)
    run = Run.open(settings)
    stage_reuse.take_over(run, [Run.existing(folder) for folder in sorted(paths.runs().glob("memory-*")) if folder != run.folder])
    prepare.prepare(run)
    planned = fit_plan.as_set(run.settings, workload.work_of(run.settings), "cpu").peak / MIB
    command = [sys.executable, "-m", "mistral_lib", "train", str(run.folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=paths.project(), env={"OMP_NUM_THREADS": "2", **os.environ})
    return planned, files.read_json(run.folder / "training" / "result.json")["peak_memory_mib"]


def row(configuration: str) -> str:
    words = configuration.split()
    planned, measured = planned_and_measured(words)
    checkpointing, weights = "yes" if words[2] == "True" else "no", "NF4" if words[3] == "nf4" else "unquantized"
    return f"| {words[0]} x {words[1]} | {checkpointing} | {weights} | {words[4]} | {planned:,.0f} | {measured:,} | {planned / measured - 1:+.1%} |"


def main() -> None:
    print(
        "| tokens x micro batch | checkpointing | weights | compute type | planned, MiB | measured, MiB | off |\n|---|---|---|---|---|---|---|"
    )
    for configuration in [" ".join(sys.argv[1:])] if sys.argv[1:] else CONFIGURATIONS + HELD_OUT:
        print(row(configuration), flush=True)


if __name__ == "__main__":
    main()
