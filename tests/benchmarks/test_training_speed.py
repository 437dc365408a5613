"""Speed and memory of a training, compared with TRL's SFTTrainer on the same records.

make bench                  10 steps of 2 x 512 tokens, SmolLM2-135M as Mistral, LoRA r 16 on all linears, medians of 3
STEPS=20 REPEATS=5 ...      more of them        PROFILE=1 ...   also where our time is spent, unquantized and on one thread

All variants compute in bfloat16 with LoRA weights in float32, on the same records, with the same effective batch, seed, rate and schedule.
TRL gets its model in bfloat16 without quantization, which is its faster setting, and otherwise its defaults, with activation checkpointing;
one variant is TRL's packing without it. Variants take turns, each in a process of its own. Rates count tokens without padding. The figures
are printed; the test asserts what does not depend on the machine's load: the same loss, and no more memory than TRL.
"""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from statistics import median

import pytest

from mistral_lib.preparation import prepare
from mistral_lib.run import Run
from tests.support.corpora import short_run

VARIANTS = ("ours_nf4", "ours_bf16", "trl_packing", "trl_packing_no_checkpointing", "trl_defaults")
STEPS, REPEATS = int(os.environ.get("STEPS", "10")), int(os.environ.get("REPEATS", "3"))


def train_once(variant: str, run: Run, folder: Path, *more: str, **environment: str) -> dict:
    command = [sys.executable, "-m", "tests.benchmarks.one_training", variant, str(run.folder), str(STEPS), str(folder), *more]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "HF_HUB_OFFLINE": "1", **environment})
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.skipif(importlib.util.find_spec("trl") is None, reason="needs TRL as well: .venv/bin/pip install --no-deps trl==1.16.0")
def test_training_beside_trl(tmp_path: Path) -> None:
    run = Run.open(short_run(run_name="bench_training"))
    prepare.prepare(run)
    found: dict[str, list[dict]] = {variant: [] for variant in VARIANTS}
    for repeat in range(REPEATS):
        for variant in VARIANTS:
            found[variant].append(train_once(variant, run, tmp_path / f"{variant}_{repeat}"))
    middle = {variant: {key: median(one[key] for one in ones) for key in ones[0] if key != "variant"} for variant, ones in found.items()}
    show(middle)
    if "PROFILE" in os.environ:
        print(train_once("ours_bf16", run, tmp_path / "profiled", "profile", OMP_NUM_THREADS="1")["profile"])
    ours, theirs = middle["ours_bf16"], middle["trl_packing"]
    assert ours["validation_loss"] == pytest.approx(theirs["validation_loss"], rel=0.01), "the same loss after the same tokens"
    assert middle["ours_nf4"]["peak_mib"] <= theirs["peak_mib"] and ours["peak_mib"] <= theirs["peak_mib"]


def show(middle: dict[str, dict]) -> None:
    print(
        f"\n{STEPS} steps, {middle['ours_bf16']['tokens']:,.0f} tokens, medians of {REPEATS}, threads: {os.environ.get('OMP_NUM_THREADS', 'all')}"
    )
    print(f"  {'':30} tokens/s  tokens per CPU second  peak MiB  validation loss")
    for variant, m in middle.items():
        print(
            f"  {variant:30} {m['tokens_per_second']:8.0f}  {m['tokens'] / m['cpu_seconds']:21.0f}  {m['peak_mib']:8,.0f}  {m['validation_loss']:15.4f}"
        )
    speed, cpu = ({v: m["tokens"] / m[key] for v, m in middle.items()} for key in ("seconds", "cpu_seconds"))
    for one, base in (("ours_nf4", "trl_packing"), ("ours_nf4", "trl_defaults"), ("ours_bf16", "trl_packing"), ("ours_bf16", "trl_defaults"),
                      ("ours_bf16", "trl_packing_no_checkpointing"), ("ours_nf4", "ours_bf16")):  # fmt: skip
        print(f"  {one} : {base:30} {speed[one] / speed[base]:5.2f} by the clock, {cpu[one] / cpu[base]:5.2f} by CPU time")
    for variant in ("ours_nf4", "ours_bf16"):
        m = middle[variant]
        print(f"  {variant}: {m['flops'] / m['seconds'] / 1e9:,.0f} of {m['matrix_rate'] / 1e9:,.0f} GFLOP/s, "
              f"{m['flops'] / m['seconds'] / m['matrix_rate']:.0%} of the rate of bfloat16 matrix products in these shapes")  # fmt: skip
