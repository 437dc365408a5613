"""The training stage: a process of its own that measures, trains, saves, loads again and only then says `complete`.

Started with `python -m mistral_lib train runs/<name>`; it survives the notebook that started it. Killed, it resumes from
the last whole checkpoint; told to stop (SIGTERM), it saves and ends as `interrupted`.
"""

import os
import shutil
import time
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import TrainingArguments, default_data_collator, set_seed

from mistral_lib import base_model, checkpoints, files, hardware, likelihood, params
from mistral_lib.run import Run, summary
from mistral_lib.trainer import Chronicle, Stopped, StopSignal, SupervisedTrainer
from mistral_lib.training_log import TrainingLog

SAME_LOSS = 1e-3  # relative: how closely the reloaded adapter must repeat the validation loss


class TrainingFailed(RuntimeError):
    """A training whose result cannot be vouched for; the message says what was seen, expected and to do."""


def inputs_of(run: Run) -> dict[str, str]:
    """What training depends on: the packed splits and the base model. Errors: RuntimeError if the data stage is not complete."""
    outputs = run.require("data", "run notebook 02_prepare_data first")["outputs"]
    wanted = {name: fact["sha256"] for name, fact in outputs.items() if name.startswith(("data/train/", "data/validation/"))}
    return {**wanted, "base_model": base_model.identity(run.settings.base_model)}


def train(run: Run) -> dict[str, Any]:
    """Do the training stage unless it is done, and return training/result.json.

    Errors: RunInUse, TrainingFailed, Stopped; RuntimeError if the data stage is missing.
    """
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    inputs = inputs_of(run)
    folder = run.folder / "training"
    if reasons := run.reasons_to_run("training", inputs):
        with run.lock("stage training"):
            changed = run.changes("training", inputs)
            make_way(run, folder, changed)
            stop = StopSignal()
            log = TrainingLog(folder / "log.jsonl")
            log.write("process", pid=os.getpid(), because=summary(reasons))
            with run.recorded("training", inputs):
                result = Training(run, folder, log, stop).carry_out()
                log.write("verified")
                run.complete("training", result)
    return files.read_json(folder / "result.json")


def make_way(run: Run, folder: Path, changed: list[str]) -> None:
    """An unfinished training with the same settings and data goes on; any other earlier one is moved to previous/."""
    finished = (folder / "result.json").exists()
    if folder.exists() and (changed or finished):
        target = run.previous("training")
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)


class Training:
    """The numbered steps of one training."""

    def __init__(self, run: Run, folder: Path, log: TrainingLog, stop: StopSignal):
        self.run, self.settings, self.folder, self.log, self.stop = run, run.settings, folder, log, stop
        self.began = time.perf_counter()
        self.usd_per_hour = params.instances()[self.settings.instance]["usd_per_hour"]

    def carry_out(self) -> dict[str, Any]:
        from datasets import load_from_disk

        data = self.run.folder / "data"
        blocks = load_from_disk(data / "train")
        self.validation = likelihood.first_blocks(load_from_disk(data / "validation"), self.settings.max_validation_tokens)
        model, initial = self.build()  # 1
        before = self.measure(model, "baseline", without_adapter=True)  # 2
        steps = self.step(model, blocks)  # 3
        after = self.measure(model, "after training")  # 4
        adapter = self.save(model, initial)  # 5
        del model
        reloaded = self.check(adapter, initial, after)  # 6
        return self.report(before, after, reloaded, steps, initial)  # 7

    def build(self) -> tuple[Any, str]:
        """The quantised base with a fresh adapter, seeded; and the hash of that adapter."""
        dtype, why = hardware.choose_dtype(self.settings.dtype)
        self.log.write("loading", base_model=self.settings.base_model, dtype=dtype, why=why, device=hardware.device())
        base = base_model.load_base(self.settings)
        set_seed(self.settings.seed)
        model = base_model.attach_lora(base, self.settings)
        self.trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        return model, base_model.adapter_hash(model)

    def measure(self, model: Any, when: str, without_adapter: bool = False) -> list[likelihood.RecordLoss]:
        self.log.write("measuring", what=when, blocks=len(self.validation))
        found = likelihood.record_losses(model, self.validation, self.settings.micro_batch_size, without_adapter, when)
        self.log.write("validation", what=when, loss=likelihood.mean(found))
        return found

    def step(self, model: Any, blocks: Any) -> int:
        """Train from the last whole checkpoint, or from the start; returns the number of steps."""
        last = checkpoints.last_whole(self.folder / "checkpoints")
        self.log.write("started", from_step=checkpoints.step_of(last) if last else 0)
        tokens = self.settings.micro_batch_size * self.settings.gradient_accumulation_steps * len(blocks[0]["input_ids"])
        trainer = SupervisedTrainer(
            in_order=self.settings.order == "operatives_last",
            model=model, args=self.arguments(), data_collator=default_data_collator,
            train_dataset=blocks.select_columns(list(likelihood.COLUMNS)),
            callbacks=[Chronicle(self.log, self.stop, tokens, self.usd_per_hour)],
        )  # fmt: skip
        self.stop.stepping = True
        trainer.train(resume_from_checkpoint=str(last) if last else None)
        self.stop.stepping = False
        if self.stop.wished:
            raise Stopped(f"told to stop; saved at step {trainer.state.global_step}")
        return trainer.state.global_step

    def arguments(self) -> TrainingArguments:
        s, cuda = self.settings, hardware.device() == "cuda"
        dtype = hardware.choose_dtype(s.dtype)[0]
        return TrainingArguments(
            output_dir=str(self.folder / "checkpoints"), seed=s.seed, data_seed=s.seed, report_to="none", disable_tqdm=True,
            per_device_train_batch_size=s.micro_batch_size, gradient_accumulation_steps=s.gradient_accumulation_steps,
            max_steps=s.max_steps or -1, num_train_epochs=s.epochs, learning_rate=s.learning_rate, lr_scheduler_type="cosine",
            warmup_steps=s.warmup_share, activation_checkpointing=s.activation_checkpointing, use_cpu=not cuda,
            bf16=cuda and dtype == "bfloat16", fp16=cuda and dtype == "float16", dataloader_pin_memory=cuda,
            logging_steps=1, logging_nan_inf_filter=False, save_strategy="steps", save_steps=s.checkpoint_every_steps,
            save_total_limit=2, remove_unused_columns=False, label_names=["labels"],
        )  # fmt: skip

    def save(self, model: Any, initial: str) -> Path:
        """The adapter with its provenance, written beside its place and renamed."""
        partial, place = files.fresh_folder(self.folder / ".adapter.partial"), self.folder / "adapter"
        model.save_pretrained(partial)
        weights = files.sha256(partial / "adapter_model.safetensors")
        provenance = {"base_model": self.settings.base_model, "base_identity": base_model.identity(self.settings.base_model),
                      "initial_adapter_sha256": initial, "weights_sha256": weights, "parameters": self.settings.stage("training")}  # fmt: skip
        files.write_json(partial / "provenance.json", provenance)
        shutil.rmtree(place, ignore_errors=True)  # of an attempt that was cut off before it was complete
        partial.rename(place)
        return place

    def check(self, adapter: Path, initial: str, after: list[likelihood.RecordLoss]) -> float:
        """Load what was saved into a fresh base model and measure again. Errors: TrainingFailed."""
        model = base_model.load_adapter(self.settings, adapter)
        vouch_for(model, initial)
        repeated, expected = likelihood.mean(self.measure(model, "reloaded from disk")), likelihood.mean(after)
        if not abs(repeated - expected) <= SAME_LOSS * expected:
            raise TrainingFailed(
                f"the adapter read back from disk has a validation loss of {repeated:.5f}, the trained one had {expected:.5f}: "
                "what was saved is not what was trained; check the disk and the peft version"
            )
        return repeated

    def report(self, before: Any, after: Any, reloaded: float, steps: int, initial: str) -> dict[str, Any]:
        seconds = time.perf_counter() - self.began
        curve = (likelihood.by_domain(before), likelihood.by_domain(after))
        result = {
            "status": "complete",
            "validation_loss": {"base": likelihood.mean(before), "adapter": likelihood.mean(after), "adapter_reloaded": reloaded},
            "domains": {
                domain: {
                    "base": likelihood.mean(curve[0][domain]),
                    "adapter": likelihood.mean(curve[1][domain]),
                    "records": len(curve[0][domain]),
                }
                for domain in curve[0]
            },
            "validation_records": len(before),
            "validation_supervised_tokens": sum(loss.tokens for loss in before),
            "steps": steps,
            "trainable_parameters": self.trainable,
            "initial_adapter_sha256": initial,
            "dtype": hardware.choose_dtype(self.settings.dtype)[0],
            "seconds": round(seconds, 1),
            "usd": round(seconds / 3600 * self.usd_per_hour, 4),
            "peak_memory_mib": hardware.peak_memory_mib(),
        }
        files.write_json(self.folder / "result.json", result)
        return result


def vouch_for(model: Any, initial: str) -> None:
    """Errors: TrainingFailed if the adapter holds a value that is no number, or is what it was before training."""
    weights = {name: p for name, p in model.named_parameters() if "lora_" in name}
    broken = [name for name, p in weights.items() if not torch.isfinite(p).all()]
    if broken:
        raise TrainingFailed(
            f"{len(broken)} of {len(weights)} adapter tensors hold NaN or infinity ({broken[0]}, ...); lower learning_rate and train anew"
        )
    if base_model.adapter_hash(model) == initial:
        raise TrainingFailed(
            "the adapter is what it was before training; check that the data has supervised tokens and learning_rate is not tiny"
        )
