"""One training in a process of its own, so that the peak memory of the process is that of the training.

python -m tests.benchmarks.one_training ours_nf4|ours_bf16|trl_packing|trl_packing_no_checkpointing|trl_defaults RUN STEPS FOLDER [profile]
Prints one line of JSON: real tokens, seconds, tokens/s, peak MiB, validation loss. Every variant trains on the same records.
"""

import contextlib
import itertools
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset, load_from_disk
from torch.nn import functional
from transformers import default_data_collator, set_seed
from transformers.trainer_utils import SaveStrategy

from mistral_lib.kernels import installation
from mistral_lib.model import base_model, likelihood
from mistral_lib.run import Run, hardware
from mistral_lib.run.settings import Settings
from mistral_lib.tokens import packed_dataset
from mistral_lib.tokens.chat_format import IGNORED
from mistral_lib.training import train, training_log
from mistral_lib.training.stopping import StopSignal
from mistral_lib.training.trainer import SupervisedTrainer
from tests.support.corpora import short_run

BLOCKS = 2  # per optimizer step, of 512 tokens each


def settings_of(variant: str, steps: int, name: str) -> Settings:
    return short_run(run_name=name, quantization="nf4" if variant == "ours_nf4" else "none", micro_batch_size=BLOCKS, max_steps=steps,
                     learning_rate=1e-3, order="operatives_last")  # fmt: skip


def ours(variant: str, settings: Settings, blocks: Dataset, folder: Path) -> tuple[Any, Any]:
    """The trainer of the training stage, over the blocks as preparation packed them."""
    model = base_model.load_base(settings)
    set_seed(settings.seed)
    model = base_model.attach_lora(model, settings)
    stage = train.Training(Run(folder, settings), folder, training_log.TrainingLog(folder / "log.jsonl"), StopSignal(), "benchmark")
    arguments = stage.steps.arguments(stage.steps.planned(blocks))
    arguments.save_strategy = SaveStrategy.NO
    trainer = SupervisedTrainer(
        stage.steps.stop, model=model, args=arguments, data_collator=default_data_collator,
        train_dataset=blocks.select_columns(list(likelihood.COLUMNS)),
    )  # fmt: skip
    return trainer, model


def trl(variant: str, settings: Settings, blocks: Dataset, folder: Path) -> tuple[Any, Any]:
    """TRL's SFTTrainer with its defaults, or its packing, on the same records, model in bfloat16, rate and schedule."""
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM
    from trl import SFTConfig, SFTTrainer

    rows = Dataset.from_list(records(blocks))
    packing = variant != "trl_defaults"
    options: dict[str, Any] = {} if variant != "trl_packing_no_checkpointing" else {"gradient_checkpointing": False}
    arguments = SFTConfig(
        output_dir=str(folder), max_length=512, packing=packing, num_train_epochs=1, learning_rate=settings.learning_rate,
        per_device_train_batch_size=BLOCKS if packing else max(1, round(len(rows) / len(blocks) * BLOCKS)), lr_scheduler_type="cosine",
        warmup_steps=settings.warmup_share, seed=settings.seed, logging_steps=1, report_to="none", save_strategy="no",
        disable_tqdm=True, use_cpu=True, **options,
    )  # fmt: skip
    place = base_model.folder(settings.base_model)
    model = AutoModelForCausalLM.from_pretrained(place, dtype=torch.bfloat16)
    lora = LoraConfig(
        r=settings.lora_rank, lora_alpha=settings.lora_alpha, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    tokenizer = base_model.load_tokenizer(settings.base_model)
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=rows, processing_class=tokenizer, peft_config=lora)
    return trainer, trainer.model


def records(blocks: Dataset) -> list[dict[str, list[int]]]:
    """The records in packed blocks, each with its token ids and labels, without padding."""
    found = []
    for block in blocks:
        starts = [place for place, position in enumerate(block["position_ids"]) if position == 0] + [len(block["input_ids"])]
        spans = list(itertools.pairwise(starts))[: len(block["record_ids"])]
        found += [{"input_ids": block["input_ids"][a:b], "labels": block["labels"][a:b]} for a, b in spans]
    return found


def flops(model: Any, blocks: Dataset) -> int:
    """Operations of the matrix products that this training needs, without recomputation and padding.

    Frozen projections: forward and the gradient of their input, 4 per weight and token; LoRA: 6; the head: 4 per weight and
    supervised token; causal attention: half of 4 n² times the width of all heads forward, 2.5 times that backward.
    """
    config = model.config
    lora = sum(p.numel() for p in model.parameters() if p.requires_grad)
    shapes = [(m.in_features, m.out_features) for name, m in model.named_modules() if name.endswith("base_layer")]
    rows = records(blocks)
    tokens = sum(len(row["input_ids"]) for row in rows)
    supervised = sum(label != IGNORED for row in rows for label in row["labels"])
    width = config.num_attention_heads * config.head_dim * config.num_hidden_layers
    attention = sum(len(row["input_ids"]) ** 2 for row in rows) * 2 * width * 3.5
    return int(
        tokens * (4 * sum(a * b for a, b in shapes) + 6 * lora) + supervised * 4 * config.vocab_size * config.hidden_size + attention
    )


def matrix_rate(model: Any) -> float:
    """Operations per second of bfloat16 matrix products, best of 5, in the shapes of the model and weighted by their number in it."""
    shapes = [(m.in_features, m.out_features) for name, m in model.named_modules() if name.endswith("base_layer")]
    work = seconds = 0.0
    for features, out in sorted(set(shapes)):
        x, weight = torch.randn(BLOCKS * 512, features).bfloat16(), torch.randn(out, features).bfloat16()
        share = shapes.count((features, out))
        work += share * 2 * BLOCKS * 512 * features * out
        seconds += share * min(_seconds(x, weight) for _ in range(5))
    return work / seconds


def _seconds(x: torch.Tensor, weight: torch.Tensor, repeats: int = 5) -> float:
    started = time.perf_counter()
    for _ in range(repeats):
        functional.linear(x, weight)
    return (time.perf_counter() - started) / repeats


def main(variant: str, source: str, steps: int, folder: Path, profile: bool = False) -> dict[str, Any]:
    blocks = load_from_disk(Path(source) / "data" / "train").select(range(steps * BLOCKS))
    real = sum(len(record["input_ids"]) for record in records(blocks))
    settings = settings_of(variant, steps, folder.name)
    trainer, model = (trl if variant.startswith("trl") else ours)(variant, settings, blocks, folder)
    with torch.profiler.profile() if profile else contextlib.nullcontext() as profiler:
        started, cpu_started = time.perf_counter(), time.process_time()
        trainer.train()
        seconds, cpu_seconds, peak = time.perf_counter() - started, time.process_time() - cpu_started, hardware.peak_memory_mib()
    if profile:
        return {"profile": profiler.key_averages().table(sort_by="self_cpu_time_total", row_limit=18, max_name_column_width=60)}
    rates = {"flops": flops(model, blocks), "matrix_rate": matrix_rate(model)} if variant.startswith("ours") else {}
    validation = packed_dataset.first_blocks(load_from_disk(Path(source) / "data" / "validation"), settings.max_validation_tokens)
    model = installation.install(trainer.accelerator.unwrap_model(model)) if variant.startswith("trl") else model
    loss = likelihood.mean(likelihood.record_losses(model, validation, BLOCKS))
    return {"variant": variant, "tokens": real, "seconds": seconds, "cpu_seconds": cpu_seconds, "tokens_per_second": real / seconds,
            "peak_mib": peak, "steps": trainer.state.global_step, "validation_loss": loss, **rates}  # fmt: skip


if __name__ == "__main__":
    with contextlib.redirect_stdout(sys.stderr):
        outcome = main(sys.argv[1], sys.argv[2], int(sys.argv[3]), Path(sys.argv[4]), "profile" in sys.argv[5:])
    print(json.dumps(outcome))
