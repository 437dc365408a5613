"""One real training of the embedded model in this process, and the most memory that it held.

Run: python -m tests.benchmarks.measured_memory 512 2 False nf4 bfloat16   (tokens, micro batch, checkpointing, quantization, dtype)
"""

import json
import random
import sys
import time

from mistral_lib import files, hardware, params, training
from mistral_lib.demo_model import NAME
from mistral_lib.run import Run
from mistral_lib.trainer import StopSignal
from mistral_lib.training_log import TrainingLog

SUPERVISED = 0.78  # share of the tokens, as in the embedded corpus
STEPS = 2


def blocks(max_tokens: int, count: int) -> object:
    """Packed blocks of two records each, with tokens drawn at random: memory does not depend on what they say."""
    from datasets import Dataset

    draw = random.Random(0)
    ungraded = round(max_tokens * (1 - SUPERVISED))
    rows = []
    for _ in range(count):
        ids = [draw.randrange(100, 49_000) for _ in range(max_tokens)]
        rows.append({"input_ids": ids, "labels": [-100] * ungraded + ids[ungraded:], "position_ids": [*range(max_tokens // 2)] * 2})
    return Dataset.from_list(rows)


def settings_of(words: list[str]) -> params.Settings:
    max_tokens, micro, checkpointing, quantization, dtype = words
    return params.Settings(
        run_name=f"memory-{'-'.join(words)}", base_model=NAME, max_tokens=int(max_tokens), micro_batch_size=int(micro),
        activation_checkpointing=checkpointing == "True", quantization=quantization, dtype=dtype, max_steps=STEPS, checkpoint_every_steps=STEPS,
        max_validation_tokens=0,
    )  # fmt: skip


def main() -> None:
    settings = settings_of(sys.argv[1:])
    run = Run.open(settings)
    folder = files.fresh_folder(run.folder / "training")
    trainer = training.Training(run, folder, TrainingLog(folder / "log.jsonl"), StopSignal())
    model, _ = trainer.build()
    began = time.perf_counter()
    trainer.step(model, blocks(settings.max_tokens, STEPS * settings.micro_batch_size))
    print(json.dumps({"peak_memory_mib": hardware.peak_memory_mib(), "seconds": round(time.perf_counter() - began, 1)}))


if __name__ == "__main__":
    main()
