"""One whole training stage of the embedded model, as its users run it, and the most memory that its process held.

Run: python -m tests.benchmarks.measured_memory 512 2 False nf4 bfloat16   (tokens, micro batch, checkpointing, quantization, dtype)
"""

import os
import subprocess
import sys

from mistral_lib import files, fit_plan, home, params, planned_work, preparation
from mistral_lib.model_memory import MIB
from mistral_lib.run import Run

STEPS = 2


def settings_of(words: list[str]) -> params.Settings:
    max_tokens, micro, checkpointing, quantization, dtype = words
    return params.Settings(
        run_name=f"memory-{'-'.join(words)}", max_tokens=int(max_tokens), micro_batch_size=int(micro), quantization=quantization, dtype=dtype,
        activation_checkpointing=checkpointing == "True", max_steps=STEPS, checkpoint_every_steps=STEPS, warmup_share=0.0,
        max_validation_tokens=int(micro) * int(max_tokens),
    )  # fmt: skip


def planned_and_measured(words: list[str]) -> tuple[float, int]:
    """MiB by the plan, and by the training's own result. Both from the same prepared data."""
    run = Run.open(settings_of(words))
    preparation.prepare(run)
    planned = fit_plan.as_set(run.settings, planned_work.work_of(run.settings), "cpu").needed / MIB
    command = [sys.executable, "-m", "mistral_lib", "train", str(run.folder)]
    subprocess.run(command, check=True, capture_output=True, cwd=home.project(), env={**os.environ, "OMP_NUM_THREADS": "2"})
    return planned, files.read_json(run.folder / "training" / "result.json")["peak_memory_mib"]


def main() -> None:
    planned, measured = planned_and_measured(sys.argv[1:])
    print(f"{' '.join(sys.argv[1:]):<28} planned {planned:>6.0f} MiB   measured {measured:>6} MiB   {planned / measured - 1:+.1%}")


if __name__ == "__main__":
    main()
