"""Whether a GPU that a run asks for can be used, and who else is on the card: with stand-ins for driver, torch's answer and nvidia-smi."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from mistral_lib.run import cuda_device, params

NO_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
TOO_OLD = "The NVIDIA driver on your system is too old (found version 12020). Please update your GPU driver"


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """A machine whose torch is built for `cuda` and says `words`, with the driver's note in /proc."""

    def install(cuda: str | None, words: str | None, note: str = "") -> None:
        monkeypatch.setattr(torch.version, "cuda", cuda)
        monkeypatch.setattr(cuda_device, "fault", lambda compute=True: words)
        monkeypatch.setattr(cuda_device, "DRIVER_NOTE", tmp_path / "version")
        (tmp_path / "version").unlink(missing_ok=True)
        if note:
            (tmp_path / "version").write_text(
                f"NVRM version: NVIDIA UNIX {note}  Release Build  (dvs-builder@U16)\nGCC version: gcc 12.3.0\n"
            )

    monkeypatch.setenv("PATH", str(tmp_path))  # where `smi` below puts its nvidia-smi
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    return install


@pytest.fixture
def smi(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """An nvidia-smi that answers each query with lines of its own."""

    def install(**answers: str) -> None:
        cases = "\n".join(f'--query-{query.replace("_", "-")}=*) echo "{text}" ;;' for query, text in answers.items())
        program = tmp_path / "nvidia-smi"
        program.write_text(f'#!/bin/sh\ncase "$1" in\n{cases}\n*) exit 9 ;;\nesac\n')
        program.chmod(0o755)

    monkeypatch.setenv("PATH", str(tmp_path))
    return install


def refusal(instance: str = "g5.xlarge") -> str:
    with pytest.raises(cuda_device.NoUsableGpuError) as error:
        cuda_device.require(instance, "training")
    return str(error.value)


def test_an_old_driver_is_named_with_what_is_needed_and_the_way_out(machine) -> None:
    machine("13.0", TOO_OLD, "x86_64 Kernel Module  535.129.03  Thu Oct 19")
    said = refusal()
    assert said.startswith("training for instance g5.xlarge (A10G) needs a usable CUDA device, and this process has none: torch ")
    for part in (f"“{TOO_OLD}”", "built for CUDA 13.0", "the NVIDIA driver is 535.129.03", "CUDA 13 needs driver 580 or newer: update the driver",
                 "or install a build of torch for CUDA 12 (driver 525 or newer)", "set instance: cpu (exploring, preparing and planning"):  # fmt: skip
        assert part in said, said


def test_each_cause_has_its_own_remedy(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(None, "Torch not compiled with CUDA enabled", "Open Kernel Module for x86_64  580.95.05")
    assert "it is built without CUDA; the NVIDIA driver is 580.95.05. Install a build of torch with CUDA (for CUDA 13" in refusal()
    machine("13.0", "Found no NVIDIA driver on your system.")
    assert "no NVIDIA driver was found (neither " in refusal() and "CUDA 13 needs driver 580 or newer: install it, or start" in refusal()
    machine("12.8", "x", "x86_64 Kernel Module  470.82.01")
    assert "CUDA 12 needs driver 525 or newer: update the driver" in refusal() and "build of torch for CUDA 12" not in refusal()
    machine("13.0", "No CUDA GPUs are available", "x86_64 Kernel Module  580.95.05")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert "CUDA_VISIBLE_DEVICES is ''" in refusal() and "needs driver 580 or newer, which this one is: look at `nvidia-smi`" in refusal()


def test_a_driver_is_also_read_from_nvidia_smi(machine, smi) -> None:
    machine("13.0", "x")
    assert cuda_device.driver_version() is None
    smi(gpu="535.183.01")
    assert cuda_device.driver_version() == "535.183.01"


def test_a_machine_without_a_gpu_and_a_usable_gpu_are_not_refused(machine) -> None:
    machine("13.0", "Found no NVIDIA driver on your system.")
    cuda_device.require("cpu", "training")
    machine("13.0", None)
    for instance in params.instances():
        cuda_device.require(instance, "training")


@NO_GPU
def test_torch_itself_says_why_there_is_no_device_and_a_full_one_is_not_a_missing_one(monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda_device.fault() and cuda_device.fault(compute=False)

    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 MiB.")

    monkeypatch.setattr(torch, "ones", full)
    assert cuda_device.fault() is None


@NO_GPU
def test_an_answer_on_the_cpu_in_place_of_the_gpu_says_so() -> None:
    assert cuda_device.cpu_instead("cpu") == ""
    assert cuda_device.cpu_instead("g5.xlarge").startswith("on this machine's CPU, because no CUDA device is usable here (")


def test_other_processes_on_the_card_are_named_the_workbooks_own_by_what_they_do(
    smi, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = (
        "python\0-m\0ipykernel_launcher\0-f\0x.json",
        "A=1\0JPY_SESSION_NAME=/home/me/workbook/notebooks/04_evaluate_adapter.ipynb\0B=2",
    )
    train = ("/usr/bin/python\0-m\0mistral_lib\0train\0runs/other\0", "JPY_SESSION_NAME=/x/03_train_adapter.ipynb")
    for pid, (command, variables) in {"11": chat, "12": train, "14": ("python\0-m\0ipykernel_launcher", "A=1")}.items():
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "cmdline").write_text(command)
        (tmp_path / pid / "environ").write_text(variables)
    lines = ["GPU-aa-1, 11, python, 6144", "GPU-aa-1, 12, python, 9000", "GPU-aa-1, 13, /opt/a, b, [N/A]", "GPU-aa-1, 14, python, 1", "GPU-bb-2, 15, x, 7",
             f"GPU-aa-1, {os.getpid()}, python, 500"]  # fmt: skip
    smi(compute_apps="\n".join(lines))
    monkeypatch.setattr(cuda_device, "PROCESSES", tmp_path)
    assert cuda_device.holders() == [], "this process uses no card"
    monkeypatch.setattr(cuda_device, "_card", lambda: "aa-1")
    assert [(one.pid, one.mib) for one in cuda_device.holders()] == [(12, 9000), (11, 6144), (14, 1), (13, None)]
    said = cuda_device.others_on_the_card()
    for part in ("process 12 (python -m mistral_lib train runs/other) with 9,000 MiB", "process 13 (/opt/a,b) with an unknown amount",
                 "process 11 (the kernel of 04_evaluate_adapter.ipynb) with 6,144 MiB", "process 14 (a notebook's kernel)",
                 "a chat that is open in notebook 04 keeps its model: press its button “free the memory”"):  # fmt: skip
        assert part in said, said
    with (
        pytest.raises(
            cuda_device.CardFullError, match=r"^m \(nf4\) does not fit on the card: CUDA out of memory\..* Also on the card: process 12"
        ),
        cuda_device.full_card_explained("m (nf4)"),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nmore")
    smi()
    assert cuda_device.holders() == [] and cuda_device.others_on_the_card() == "", "an nvidia-smi that fails"


SHOW = "import mistral_lib, os; print([os.environ.get(name) for name in ('PYTORCH_ALLOC_CONF', 'PYTORCH_CUDA_ALLOC_CONF')])"


@pytest.mark.parametrize(
    ("own", "expected"),
    [({}, ["expandable_segments:True", None]), ({"PYTORCH_ALLOC_CONF": "backend:native"}, ["backend:native", None]),
     ({"PYTORCH_CUDA_ALLOC_CONF": "max_split_size_mb:64"}, [None, "max_split_size_mb:64"]), ({"PYTORCH_ALLOC_CONF": ""}, ["", None])],
)  # fmt: skip
def test_segments_grow_unless_somebody_chose_otherwise(own: dict[str, str], expected: list[str | None]) -> None:
    kept = {name: value for name, value in os.environ.items() if "ALLOC_CONF" not in name}
    done = subprocess.run([sys.executable, "-c", SHOW], capture_output=True, text=True, env={**kept, **own}, check=True)
    assert done.stdout.strip() == str(expected)
