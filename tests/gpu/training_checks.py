"""Is a training on this device the one that was asked for? Autocast in every trainer, float16's overflow, a stop and a resume."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from typing import Any
from unittest import mock

import torch
from peft.tuners.lora.layer import LoraLayer
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook

from mistral_lib.run import Run, files, hardware, paths
from mistral_lib.training import train
from mistral_lib.training.stopping import DivergedError
from mistral_lib.training.trainer import SupervisedTrainer
from tests.gpu.bench import Bench
from tests.support.disturbed_training import at_forward, events


def autocast_everywhere(bench: Bench) -> dict[str, Any]:
    """Do the trial, the first trainer and the one after running out of memory compute in the same types?"""
    run, passes = bench.run("autocast", lora_dropout=0.05, max_steps=2, micro_batch_size=2, dtype=compute_type(bench)), []

    def before(module: torch.nn.Module, inputs: tuple) -> None:
        if type(module).__name__ == "MistralModel" and module.training:
            passes.append(set())

    def after(module: torch.nn.Module, inputs: tuple, output: torch.Tensor) -> None:
        if isinstance(module, torch.nn.Linear | LoraLayer) and module.training and passes:
            passes[-1].add(str(output.dtype).removeprefix("torch."))

    handles = [register_module_forward_pre_hook(before), register_module_forward_hook(after)]
    try:
        with at_forward(lambda number: number == 3):
            train.train(run)
    finally:
        for handle in handles:
            handle.remove()
    assert len(events(run, "out_of_memory")) == 1 and len(passes) == 7, f"{len(passes)} passes, expected 7"
    assert all(one == passes[0] for one in passes), f"types of the projections' results: {passes}"
    assert bench.rehearsal or passes[0] == {compute_type(bench)}, f"{passes[0]}, expected {compute_type(bench)} alone"
    return {"types": ", ".join(sorted(passes[0])), "passes": len(passes)}


def compute_type(bench: Bench) -> str:
    return "float32" if bench.rehearsal else hardware.choose_dtype()[0]


def overflow_of_float16(bench: Bench) -> dict[str, Any]:
    """At a gradient scale of 2^40, are steps skipped and counted, and do weights and schedule wait for the first step that is made?"""
    bench.require_cuda("float16 with a gradient scaler")
    run, seen, create = bench.run("overflow", dtype="float16", max_steps=40), [], SupervisedTrainer.create_accelerator_and_postprocess
    after = SupervisedTrainer._maybe_log_save_evaluate

    def with_large_scale(trainer: SupervisedTrainer) -> None:
        create(trainer)
        trainer.accelerator.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40)

    def noted(trainer: SupervisedTrainer, *arguments: Any, **options: Any) -> None:
        weights = torch.cat([p.detach().flatten().clone() for p in trainer.model.parameters() if p.requires_grad])
        seen.append((trainer.lr_scheduler.last_epoch, weights))
        after(trainer, *arguments, **options)

    with (
        mock.patch.object(SupervisedTrainer, "create_accelerator_and_postprocess", with_large_scale),
        mock.patch.object(SupervisedTrainer, "_maybe_log_save_evaluate", noted),
        suppress(DivergedError),  # after eight in a row it gives up, which is right
    ):
        train.train(run)
    skipped = [event["step"] for event in events(run, "skipped")]
    assert skipped[:3] == [1, 2, 3], f"skipped steps: {skipped}, expected the first ones"
    assert all(place == 0 and torch.equal(weights, seen[0][1]) for place, weights in seen[: len(skipped)]), "a skipped step moved something"
    return {"skipped": len(skipped), "status": run.status("training")}


def stop_and_resume(bench: Bench) -> dict[str, Any]:
    """Does a training that is stopped by SIGTERM and started again end with the loss of an undisturbed one?"""
    changes = {"max_steps": 8, "checkpoint_every_steps": 4, "dtype": compute_type(bench)}
    undisturbed = train.train(bench.run("undisturbed", **changes))
    run = bench.run("stopped", **changes)
    process = started(run)
    while process.poll() is None and len(events_so_far(run, "step")) < 3:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    process.wait(timeout=300)
    stopped_at, status = len(events_so_far(run, "step")), run.status("training")
    assert status == "interrupted", f"after SIGTERM the training is {status}"
    assert started(run).wait(timeout=600) == 0
    result = files.read_json(run.folder / "training" / "result.json")
    off = abs(result["validation_loss"]["adapter"] - undisturbed["validation_loss"]["adapter"])
    assert result["steps"] == 8 and result["attempts"] == 2 and off < 2e-3, f"the loss is off by {off:.5f} nats"
    return {"stopped at step": stopped_at, "loss off, nats": off}


def started(run: Run) -> subprocess.Popen:
    command = [sys.executable, "-m", "mistral_lib", "train", str(run.folder)]
    return subprocess.Popen(command, cwd=paths.project(), env=dict(os.environ), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def events_so_far(run: Run, kind: str) -> list[dict]:
    return events(run, kind) if (run.folder / "training" / "log.jsonl").exists() else []


CHECKS = [autocast_everywhere, overflow_of_float16, stop_and_resume]
