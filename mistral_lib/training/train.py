"""The training stage: a process of its own that measures, trains, saves and loads again before it reports `complete`.

After a kill it resumes from the last complete checkpoint; on SIGTERM it saves and ends as `interrupted`; out of memory, it
retries with a smaller micro batch and the same effective batch.
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

from mistral_lib.kernels import installation
from mistral_lib.model import base_model, likelihood
from mistral_lib.model.likelihood import RecordLoss
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, allocator, cuda_device, disk, files, hardware, params
from mistral_lib.run.folder import summary
from mistral_lib.run.settings import keeping_work
from mistral_lib.tokens import packed_dataset
from mistral_lib.training import adapter_check, checkpoints, fit_plan, hang_detection, largest_batch, out_of_memory, trackers, training_log
from mistral_lib.training.optimizer_steps import Ended, OptimizerSteps
from mistral_lib.training.processes import distributed, shared_run
from mistral_lib.training.stopping import Spending, StopSignal
from mistral_lib.training.training_log import TrainingLog


def train_folder(folder: Path) -> dict[str, Any]:
    """As `train`, of a run folder or a run's name. Of several processes, only the first one must have the folder. Errors: FileNotFoundError."""
    distributed.join(hardware.device(), shared_run.standing(folder))
    return train(shared_run.opened(folder))


def train(run: Run) -> dict[str, Any]:
    """Do the training stage unless it is done, and return training/result.json.

    Of several processes the first one leads; the others take their share of the steps, wait for its result and return nothing.
    Errors: NoUsableGpuError, RunInUseError, TrainingFailedError, OutOfMemoryError, DivergedError, NothingToLearnError, DiskFullError, Stopped; RuntimeError if the data stage is not
    complete, StaleStageError if it is stale; ModuleNotFoundError if the tracker's package is missing. Of several processes also
    ProcessesDifferError and LostProcess.
    """
    warnings.filterwarnings("ignore", message=".*pin_memory.*")
    if not distributed.has_joined():  # alone, or before it keeps others waiting
        _require_machine(run, run.status("training") == "complete")
    distributed.join(hardware.device())
    done = distributed.from_first(lambda: run.status("training") == "complete")
    distributed.require_all(lambda: _require_machine(run, done))
    distributed.from_first(lambda: stage_inputs.require_current(run, "data"))
    inputs = distributed.from_first(lambda: stage_inputs.hashes(run, "training"))
    reasons = distributed.from_first(lambda: run.reasons_to_run("training", inputs))
    if reasons:
        distributed.require_all(lambda: _require_ready(run, inputs))
        shared_run.share_data(run)
    if not distributed.is_first():
        return assist(run) if reasons else {}
    folder = run.folder / "training"
    if reasons:
        stage_inputs.note_in_report(run)
        with run.lock("stage training"):
            set_aside(run, folder, run.changes("training", inputs))
            stop = StopSignal()
            log = TrainingLog(folder / "log.jsonl")
            with run.recording("training", inputs), end_noted(log), distributed.loss_reported():
                result = Training(run, folder, log, stop, summary(reasons)).train_all()
                log.write("verified")
                run.complete("training", result)
        stage_inputs.note_in_report(run)
        distributed.finish()
    return files.read_json(folder / "result.json")


def _require_machine(run: Run, done: bool) -> None:
    """done: a training that is complete may only be read, on any machine. Errors: NoUsableGpuError, ModuleNotFoundError."""
    if not done:
        cuda_device.require(run.settings.instance, "training")
    if distributed.is_first():
        trackers.require(run.settings.report_to)


def _require_ready(run: Run, inputs: dict[str, str]) -> None:
    cuda_device.require(run.settings.instance, "training")
    shared_run.require_same_base(run, inputs["base_model"])


def assist(run: Run) -> dict[str, Any]:
    """In a process other than the first: its share of the steps, until the first one has verified the adapter. Errors: LostProcess."""
    with distributed.loss_reported():
        Training(run, run.folder / "training", TrainingLog(None), StopSignal(), "").assist()
        allocator.release_unused_memory()
        distributed.finish()
    shared_run.forget(run)
    return {}


@contextmanager
def end_noted(log: TrainingLog) -> Iterator[None]:
    """Logs how a training ended, unless it was killed or the disk is full."""
    try:
        yield
    except BaseException as error:
        with suppress(OSError):
            if isinstance(error, (KeyboardInterrupt, SystemExit)):
                by = "lost process" if isinstance(error, distributed.LostProcess) else "stop signal"
                log.write("stopping", by=by, because=str(error))
            else:
                log.write("failed", error=f"{type(error).__name__}: {error}")
        raise


def can_resume(folder: Path, changed: list[str]) -> bool:
    """Whether the steps of an earlier training stay valid: nothing that is trained changed, and if it had a result, there is a
    checkpoint to verify that result from again, or to resume from if the limit that ended it was raised."""
    same = all(reason.split(":")[0] in keeping_work("training") for reason in changed)
    return same and (not (folder / "result.json").exists() or checkpoints.last_complete(folder / "checkpoints") is not None)


def set_aside(run: Run, folder: Path, changed: list[str]) -> None:
    """Move an earlier training to previous/: its result and adapter if it can resume, otherwise all of it."""
    if not folder.exists():
        return
    target = run.previous("training")
    if not can_resume(folder, changed):
        target.parent.mkdir(exist_ok=True)
        folder.rename(target)
    elif (folder / "result.json").exists():
        target.mkdir(parents=True)
        for name in ("adapter", "result.json"):  # the result last: after a kill in between, this is done again
            if (folder / name).exists():
                (folder / name).rename(target / name)


class Training:
    """The numbered steps of one training."""

    def __init__(self, run: Run, folder: Path, log: TrainingLog, stop: StopSignal, because: str):
        self.run, self.settings, self.folder, self.log = run, run.settings, folder, log
        self.measured: dict[str, list[RecordLoss]] = {}  # the last measurement, by what was measured
        events = log.events()
        usd_per_hour = params.instances()[self.settings.instance]["usd_per_hour"]
        self.spending = Spending(training_log.seconds_at_work(events), usd_per_hour)
        chosen, choice = distributed.from_first(lambda: fit_plan.of_training(self.settings, events))
        shape = out_of_memory.shape_now(self.settings, events, chosen)
        if checkpoints.last_complete(folder / "checkpoints"):
            shape = out_of_memory.same_blocks_per_step(shape, events, distributed.count())
        self.steps = OptimizerSteps(
            self.settings, folder / "checkpoints", log, stop, self.spending, shape,
            measure=lambda model, what: likelihood.mean(self.measure(model, what)),
        )  # fmt: skip
        killed = out_of_memory.killed_for_memory(events, folder)
        report_to = self.settings.report_to
        log.write(
            "process",
            pid=os.getpid(),
            because=because,
            report_to=report_to,
            processes=distributed.count(),
            **dataclasses.asdict(shape),
            **out_of_memory.counters(),
        )
        if choice:
            log.write("chosen", **choice)
        out_of_memory.refuse_if_loading(killed, events, self.settings)
        if killed and (shape.smaller(out_of_memory.may_recompute(self.settings)) or not out_of_memory.made_progress(events)):
            self.steps.shrink(killed)

    def train_all(self) -> dict[str, Any]:
        """Every step of the training, from the check of the data to training/result.json, which is returned."""
        data = self.run.folder / "data"
        blocks = largest_batch.loaded(data / "train", "training")
        held_out = largest_batch.loaded(data / "validation", "validation")
        self.validation = packed_dataset.first_blocks(held_out, self.settings.max_validation_tokens)
        packed_dataset.write_record_ids(self.folder / packed_dataset.RECORD_IDS, train=blocks, validation=self.validation)
        counts = largest_batch.refuse_useless(blocks, "training")  # 1
        largest_batch.refuse_useless(self.validation, "validation")
        model, initial = self.build()  # 2
        trainable, total = model.get_nb_trainable_parameters()
        missing_bytes = max(0, disk.training_bytes(trainable) - disk.used_bytes(self.folder))
        disk.require(self.folder, missing_bytes, "a training with its checkpoints")
        with hang_detection.noted(model, self.folder, distributed.give_sign):
            self.steps.try_largest(model, blocks, counts)  # 3
            before = self.baseline(model)  # 4
            ended = self.steps.train(model, blocks, likelihood.mean(before))  # 5
            after = self.measured.get(f"after step {ended.adapter_step}") or self.measure(model, "after training")  # 6
        numbers = adapter_check.trained_on(blocks, int(counts.sum()), ended, self.steps.effective_batch())
        adapter = adapter_check.save(model, self.settings, self.folder, initial, numbers)  # 7
        del model  # and release its memory: there are never two models at a time
        allocator.release_unused_memory()
        reloaded = self.check(adapter, initial, after)  # 8
        result = {"status": "complete", **losses(before, after, reloaded), **self.facts(ended), "trainable_parameters": trainable, "base_parameters": total - trainable,
                  "initial_adapter_sha256": initial}  # fmt: skip
        files.write_json(self.folder / "result.json", result)  # 9
        return result

    def assist(self) -> None:
        """In a process other than the first: build the same model, and take its share of the steps."""
        blocks = largest_batch.loaded(self.run.folder / "data" / "train", "training")
        model, _ = self.build()
        self.steps.assist(model, blocks)

    def build(self) -> tuple[Any, str]:
        """The quantized base with a fresh adapter, seeded; and the hash of that adapter."""
        began = time.perf_counter()
        dtype, why = hardware.choose_dtype(self.settings.dtype)
        facts = {"gpus": sentence} if (sentence := cuda_device.several_unused()) else {}
        self.log.write("loading", base_model=self.settings.base_model, dtype=dtype, why=why, device=hardware.device(), **facts)
        base = base_model.load_base(self.settings)
        set_seed(self.settings.seed)
        model = base_model.attach_lora(base, self.settings)
        allocator.release_free_memory(0)  # loading leaves gaps of changing sizes
        if self.steps.shape.activation_checkpointing and hardware.device() == "cpu":
            allocator.release_between_layers(model)
        self.log.write("kernels", **installation.described(model))
        self.spending.loading_seconds = time.perf_counter() - began
        return model, base_model.adapter_hash(model)

    def measure(self, model: Any, what: str, without_adapter: bool = False) -> list[RecordLoss]:
        """The loss of every validation record."""
        self.log.write("measuring", what=what, blocks=len(self.validation))
        began = time.perf_counter()
        found = likelihood.record_losses(model, self.validation, self.steps.shape.micro_batch_size, without_adapter)
        self.spending.measuring_seconds = time.perf_counter() - began
        self.measured = {what: found}  # often that of the adapter which is kept
        if not what.startswith("after step"):  # the callback logs these, with more facts
            self.log.write("validation", what=what, loss=likelihood.mean(found), seconds=round(self.spending.measuring_seconds, 3))
        return found

    def baseline(self, model: Any) -> list[RecordLoss]:
        """The losses of the base model without an adapter, measured once for all attempts."""
        note, dtype = self.folder / ".baseline.json", hardware.choose_dtype(self.settings.dtype)[0]
        earlier = files.read_json(note) if note.exists() else {}
        if earlier.get("dtype") == dtype:
            self.spending.measuring_seconds = earlier["seconds"]
            return [RecordLoss(**loss) for loss in earlier["losses"]]
        found = self.measure(model, "baseline", without_adapter=True)
        rows = [dataclasses.asdict(loss) for loss in found]
        files.write_json(note, {"dtype": dtype, "seconds": self.spending.measuring_seconds, "losses": rows})
        return found

    def check(self, adapter: Path, initial: str, after: list[RecordLoss]) -> float:
        """Load what was saved into a fresh base model and measure again. Errors: TrainingFailedError."""
        self.log.write("loading", base_model=self.settings.base_model, adapter=True)
        model = base_model.load_adapter(self.settings, adapter)
        adapter_check.verify(model, initial)
        with hang_detection.noted(model, self.folder, distributed.give_sign):
            repeated = likelihood.mean(self.measure(model, "reloaded from disk"))
        adapter_check.require_same(repeated, likelihood.mean(after))
        return repeated

    def facts(self, ended: Ended) -> dict[str, Any]:
        """What training/result.json holds besides the losses: how it ran, on what, and at what cost."""
        events = self.log.events()
        return {
            "steps": ended.steps,
            "adapter_of_step": ended.adapter_step,
            "stopped_by": ended.stopped_by,
            **training_log.summary(events),
            "effective_batch": self.steps.effective_batch(),
            "processes": distributed.count(),
            **dataclasses.asdict(self.steps.shape),
            "dtype": hardware.choose_dtype(self.settings.dtype)[0],
            "seconds": round(self.spending.seconds(), 1),
            "usd": round(self.spending.usd(), 4),
            "peak_memory_mib": max(hardware.peak_memory_mib(), training_log.peak_memory_mib(events)),
        }


def losses(before: list[RecordLoss], after: list[RecordLoss], reloaded: float) -> dict[str, Any]:
    """Base against adapter on the validation records, overall and by domain (nats per supervised token)."""
    base, adapter = likelihood.by_domain(before), likelihood.by_domain(after)
    return {
        "validation_loss": {"base": likelihood.mean(before), "adapter": likelihood.mean(after), "adapter_reloaded": reloaded},
        "domains": {
            domain: {"base": likelihood.mean(base[domain]), "adapter": likelihood.mean(adapter[domain]), "records": len(base[domain])}
            for domain in base
        },
        "validation_records": len(before),
        "validation_supervised_tokens": sum(loss.tokens for loss in before),
    }
