"""The training stage: a process of its own that measures, trains, saves, loads again and only then says `complete`.

Started with `python -m mistral_lib train runs/<name>`; it survives the notebook that started it. Killed, it resumes from
the last whole checkpoint; told to stop (SIGTERM), it saves and ends as `interrupted`; short of memory, it goes on with a
smaller micro batch and the same effective batch.
"""

import dataclasses
import os
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from transformers import set_seed

from mistral_lib.model import base_model, likelihood
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import (
    Run,
    allocator,
    disk,
    files,
    hardware,
    params,  # fmt: skip
)
from mistral_lib.run.folder import summary
from mistral_lib.tokens import packed_dataset
from mistral_lib.training import adapter_check, checkpoints, distributed, hang_detection, largest_batch, out_of_memory, training_log
from mistral_lib.training.optimizer_steps import OptimizerSteps
from mistral_lib.training.stop_signal import StopSignal
from mistral_lib.training.stopping_rules import Spending
from mistral_lib.training.training_log import NoLog, TrainingLog

# Parameters that may change between an attempt and its continuation: they do not change what is trained.
CONTINUE = ("activation_checkpointing", "checkpoint_every_steps", "early_stopping_patience", "instance", "max_hours", "max_usd",
            "validate_every_steps")  # fmt: skip


def train(run: Run) -> dict[str, Any]:
    """Do the training stage unless it is done, and return training/result.json.

    Of several processes the first one leads; the others only help it to step, and return nothing.
    Errors: RunInUse, TrainingFailed, OutOfMemory, Diverged, NothingToLearn, DiskFull, Stopped; RuntimeError if the data stage is missing.
    """
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    distributed.join(hardware.device())
    inputs = stage_inputs.of(run, "training")
    folder = run.folder / "training"
    reasons = distributed.from_first(lambda: run.reasons_to_run("training", inputs))
    if not distributed.is_first():
        return Training(run, folder, NoLog(), StopSignal(), "").assist() if reasons else {}
    if reasons:
        with run.lock("stage training"):
            changed = run.changes("training", inputs)
            make_way(run, folder, changed)
            stop = StopSignal()
            log = TrainingLog(folder / "log.jsonl")
            with run.recorded("training", inputs), end_noted(log):
                result = Training(run, folder, log, stop, summary(reasons)).train_all()
                log.write("verified")
                run.complete("training", result)
    return files.read_json(folder / "result.json")


@contextmanager
def end_noted(log: TrainingLog) -> Iterator[None]:
    """An end that is not a kill leaves its word in the log, disk permitting."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                log.write("stopping", by="stop signal", because=str(error))
            else:
                log.write("failed", error=f"{type(error).__name__}: {error}")
        raise


def can_resume(folder: Path, changed: list[str]) -> bool:
    """Whether the steps that an earlier training made stand: nothing that is trained changed, and where it came to a result there
    is a checkpoint to verify it again from, or to go on from if what had ended it was raised."""
    same = all(reason.split(":")[0] in CONTINUE for reason in changed)
    return same and (not (folder / "result.json").exists() or checkpoints.last_complete(folder / "checkpoints") is not None)


def make_way(run: Run, folder: Path, changed: list[str]) -> None:
    """Of a training that goes on, result and adapter are moved to previous/; any other earlier one is moved there as a whole."""
    if not folder.exists():
        return
    target = run.previous("training")
    if not can_resume(folder, changed):
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
    elif (folder / "result.json").exists():
        target.mkdir(parents=True)
        for name in ("adapter", "result.json"):  # the result last: killed in between, this is done again
            if (folder / name).exists():
                (folder / name).rename(target / name)


class Training(OptimizerSteps):
    """The numbered steps of one training."""

    def __init__(self, run: Run, folder: Path, log: TrainingLog, stop: StopSignal, because: str):
        self.run, self.settings, self.folder, self.log, self.stop = run, run.settings, folder, log, stop
        self.place = folder / "checkpoints"
        self.known: dict[str, list[likelihood.RecordLoss]] = {}
        events = log.events()
        usd_per_hour = params.instances()[self.settings.instance]["usd_per_hour"]
        self.spending = Spending(training_log.seconds_at_work(events), usd_per_hour)
        self.shape = out_of_memory.shape_now(self.settings, events)
        killed = out_of_memory.killed_for_memory(events, folder)
        log.write("process", pid=os.getpid(), because=because, **dataclasses.asdict(self.shape), **out_of_memory.counters())
        out_of_memory.refuse_if_loading(killed, events, self.settings)
        if killed and (self.shape.smaller() or not out_of_memory.made_progress(events)):
            self.shrink(killed)

    def train_all(self) -> dict[str, Any]:
        data = self.run.folder / "data"
        blocks = largest_batch.loaded(data / "train", "training")
        held_out = largest_batch.loaded(data / "validation", "validation")
        self.validation = packed_dataset.first_blocks(held_out, self.settings.max_validation_tokens)
        counts = largest_batch.refuse_useless(blocks, "training")  # 1
        largest_batch.refuse_useless(self.validation, "validation")
        model, initial = self.build()  # 2
        disk.require(self.folder, self.missing_bytes(), "a training with its checkpoints")
        with hang_detection.noted(model, self.folder):
            self.try_largest(model, blocks, counts)  # 3
            before = self.baseline(model)  # 4
            steps, best_step = self.step_to_the_end(model, blocks, likelihood.mean(before))  # 5
            after = self.known.get(f"after step {best_step}") or self.measure(model, "after training")  # 6
        adapter = adapter_check.save(model, self.settings, self.folder, initial)  # 7
        del model  # and what it held is given back: no two models at a time
        allocator.release_unused_memory()
        reloaded = self.check(adapter, initial, after)  # 8
        return self.report(before, after, reloaded, steps, best_step, initial)  # 9

    def assist(self) -> dict[str, Any]:
        """What a process other than the first does: build the same model, and take its share of the steps, as the first one says."""
        blocks = largest_batch.loaded(self.run.folder / "data" / "train", "training")
        model, _ = self.build()

        def attempt() -> None:
            self.shape, last = distributed.from_first(lambda: None)
            if last is not None:
                with self.stop.after_saving():
                    self.trainer(model, blocks).train(resume_from_checkpoint=last or None)

        out_of_memory.retry_on_out_of_memory(attempt, lambda why: None, together=True)
        return {}

    def build(self) -> tuple[Any, str]:
        """The quantised base with a fresh adapter, seeded; and the hash of that adapter."""
        began = time.perf_counter()
        dtype, why = hardware.choose_dtype(self.settings.dtype)
        self.log.write("loading", base_model=self.settings.base_model, dtype=dtype, why=why, device=hardware.device())
        base = base_model.load_base(self.settings)
        set_seed(self.settings.seed)
        model = base_model.attach_lora(base, self.settings)
        allocator.release_free_memory(0)  # loading leaves gaps, ever other ones
        if self.settings.activation_checkpointing and hardware.device() == "cpu":
            allocator.release_between_layers(model)
        self.trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self.spending.loading_seconds = time.perf_counter() - began
        return model, base_model.adapter_hash(model)

    def missing_bytes(self) -> int:
        """What this training will write beyond what an earlier attempt has written."""
        return max(0, disk.whole_training_bytes(self.trainable) - disk.held(self.folder))

    def measure(self, model: Any, when: str, without_adapter: bool = False) -> list[likelihood.RecordLoss]:
        self.log.write("measuring", what=when, blocks=len(self.validation))
        began = time.perf_counter()
        found = likelihood.record_losses(model, self.validation, self.shape.micro_batch_size, without_adapter, when)
        self.spending.measuring_seconds = time.perf_counter() - began
        self.known = {when: found}  # the last one: often that of the adapter which is kept
        if not when.startswith("after step"):  # these are logged by the callback, with more facts
            self.log.write("validation", what=when, loss=likelihood.mean(found), seconds=round(self.spending.measuring_seconds, 3))
        return found

    def baseline(self, model: Any) -> list[likelihood.RecordLoss]:
        """The untouched base model's losses; an attempt before this one has measured them already."""
        note, dtype = self.folder / ".baseline.json", hardware.choose_dtype(self.settings.dtype)[0]
        known = files.read_json(note) if note.exists() else {}
        if known.get("dtype") == dtype:
            self.spending.measuring_seconds = known["seconds"]
            return [likelihood.RecordLoss(**loss) for loss in known["losses"]]
        found = self.measure(model, "baseline", without_adapter=True)
        losses = [dataclasses.asdict(loss) for loss in found]
        files.write_json(note, {"dtype": dtype, "seconds": self.spending.measuring_seconds, "losses": losses})
        return found

    # -- the proof --------------------------------------------------------------------------------------------------

    def check(self, adapter: Path, initial: str, after: list[likelihood.RecordLoss]) -> float:
        """Load what was saved into a fresh base model and measure again. Errors: TrainingFailed."""
        self.log.write("loading", base_model=self.settings.base_model, adapter=True)
        model = base_model.load_adapter(self.settings, adapter)
        adapter_check.verify(model, initial)
        with hang_detection.noted(model, self.folder):
            repeated = likelihood.mean(self.measure(model, "reloaded from disk"))
        adapter_check.require_same(repeated, likelihood.mean(after))
        return repeated

    def report(self, before: Any, after: Any, reloaded: float, steps: int, best_step: int, initial: str) -> dict[str, Any]:
        result = {
            "status": "complete",
            **adapter_check.losses(before, after, reloaded),
            "steps": steps,
            "adapter_of_step": best_step,
            "stopped_by": self.stopped_by,
            **adapter_check.way(self.log.events()),
            "effective_batch": self.effective_batch(),
            "processes": distributed.count(),
            **dataclasses.asdict(self.shape),
            "trainable_parameters": self.trainable,
            "initial_adapter_sha256": initial,
            "dtype": hardware.choose_dtype(self.settings.dtype)[0],
            "seconds": round(self.spending.seconds(), 1),
            "usd": round(self.spending.usd(), 4),
            "peak_memory_mib": max(hardware.peak_memory_mib(), adapter_check.logged_peak_mib(self.log.events())),
        }
        files.write_json(self.folder / "result.json", result)
        return result
