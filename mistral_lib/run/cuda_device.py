"""Whether this process can compute on a CUDA device, what is missing if not, and which other processes occupy the card.

Knows drivers, processes and the machines of params/instances.yaml; knows nothing of models.
Source: NVIDIA, "CUDA Compatibility" (driver versions); nvidia-smi --help-query-compute-apps
"""

import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mistral_lib.run import hardware, params

DRIVER_NOTE = Path("/proc/driver/nvidia/version")  # the kernel module's own
NEEDED_DRIVER = {"13": 580, "12": 525, "11": 450}  # oldest driver branch for each major version of CUDA
PROCESSES = Path("/proc")
SMI_SECONDS = 10.0  # nvidia-smi takes about one second; a driver that hangs must not stop an error message


class NoUsableGpuError(RuntimeError):
    """A machine with a GPU is set, and this process cannot compute on one; the message says what was seen and what to do."""


class CardFullError(RuntimeError):
    """A model does not fit into the memory that is free on the card; the message names the other processes on it."""


def require(instance: str, what: str, compute: bool = True) -> None:
    """Check before anything is loaded that a machine with a GPU has one that this process can use; `cpu` is never refused.

    instance: a name in params/instances.yaml. what: the work, for the message. compute: also compute once on the device, which gives
    this process a context on the card (about 0.5 GiB); False for a process that only starts another one. Errors: NoUsableGpuError.
    """
    gpu = params.instances()[instance]["gpu"]
    if gpu == "none" or (why := fault(compute)) is None:
        return
    raise NoUsableGpuError(
        f"{what} for instance {instance} ({gpu}) needs a usable CUDA device, and this process has none: {seen(why)}. {remedy()}. "
        "To run on this machine without a GPU, set instance: cpu (exploring, preparing and planning run anywhere)"
    )


def fault(compute: bool = True) -> str | None:
    """Why torch cannot use a CUDA device here, in torch's own words; None if it can."""
    import torch

    try:
        if compute:
            (torch.ones(1, device=hardware.device_of_this_process("cuda")) + 1).item()
        elif not torch.cuda.is_available():
            torch.cuda.init()
    except (RuntimeError, AssertionError) as error:
        words = str(error).splitlines()[0] if str(error) else type(error).__name__
        return None if "out of memory" in words else words  # it is there, and full: loading reports that
    return None


def seen(why: str) -> str:
    """Torch's words, its version of CUDA, the driver, and the variable that hides devices if it is set."""
    import torch

    cuda, driver = torch.version.cuda, driver_version()
    facts = [
        f"torch {torch.__version__} says “{why}”",
        f"it is built for CUDA {cuda}" if cuda else "it is built without CUDA",
        f"the NVIDIA driver is {driver}" if driver else f"no NVIDIA driver was found (neither {DRIVER_NOTE} nor nvidia-smi)",
    ]
    if (visible := os.environ.get("CUDA_VISIBLE_DEVICES")) is not None:
        facts.append(f"CUDA_VISIBLE_DEVICES is {visible!r}")
    return "; ".join(facts)


def remedy() -> str:
    """What is needed, and the next step."""
    import torch

    cuda, driver = torch.version.cuda, driver_version()
    if cuda is None:
        return "Install a build of torch with CUDA (for CUDA 13 the driver must be 580 or newer, for CUDA 12 525 or newer)"
    major = cuda.split(".")[0]
    oldest = NEEDED_DRIVER.get(major)
    needs = f"CUDA {major} needs driver {oldest} or newer" if oldest else f"CUDA {major} needs the driver that its release notes name"
    if driver and oldest and int(driver.split(".")[0]) < oldest:
        older = f", or install a build of torch for CUDA 12 (driver {NEEDED_DRIVER['12']} or newer)" if major == "13" else ""
        return f"{needs}: update the driver (a newer machine image has one){older}"
    if driver:
        return f"{needs}, which this one is: look at `nvidia-smi` and at CUDA_VISIBLE_DEVICES; a restart loads a driver that was updated"
    return f"{needs}: install it, or start a machine image that has it, on a machine with a GPU"


def driver_version() -> str | None:
    """The version of the NVIDIA driver, from the kernel or from nvidia-smi; None without a driver."""
    text = DRIVER_NOTE.read_text() if DRIVER_NOTE.exists() else "\n".join(_smi("--query-gpu=driver_version") or [])
    found = re.search(r"\b\d{3,}\.\d+(?:\.\d+)?\b", text)
    return found.group() if found else None


def _smi(query: str) -> list[str] | None:
    """The lines that nvidia-smi answers; None if it is not there or fails."""
    if (program := shutil.which("nvidia-smi")) is None:
        return None
    words = [program, query, "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=SMI_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]


def cpu_instead(instance: str) -> str:
    """A sentence if a machine with a GPU is set and this process works on its CPU; else empty."""
    if params.instances()[instance]["gpu"] == "none" or hardware.device() == "cuda":
        return ""
    return f"on this machine's CPU, because no CUDA device is usable here ({fault(compute=False)})"


def several_unused() -> str:
    """A sentence if there are several GPUs and one process, which uses one of them; else empty."""
    import torch

    count = torch.cuda.device_count()
    if count < 2 or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return ""
    return f"1 of {count} GPUs is used; all: torchrun --nproc_per_node {count} -m mistral_lib train <run folder>"


# -- what else is on the card ------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Holder:
    """A process that has memory on the card. mib: None if the driver does not tell."""

    pid: int
    name: str
    mib: int | None

    def __str__(self) -> str:
        size = f"{self.mib:,} MiB" if self.mib is not None else "an unknown amount"
        return f"process {self.pid} ({self.name}) with {size}"


def holders() -> list[Holder]:
    """The other processes with memory on this process's card, the largest first; empty if nvidia-smi is not there or shows none.

    In a container nvidia-smi may not see the processes outside of it.
    """
    found: list[Holder] = []
    if (card := _card()) is None:
        return found
    for line in _smi("--query-compute-apps=gpu_uuid,pid,process_name,used_memory") or []:
        uuid, pid, *name, size = (part.strip() for part in line.split(","))
        if pid.isdigit() and int(pid) != os.getpid() and card in uuid:
            found.append(Holder(int(pid), _known_as(int(pid)) or ",".join(name), int(size) if size.isdigit() else None))
    return sorted(found, key=lambda one: -(one.mib or 0))


def _card() -> str | None:
    """The identity of the card that this process uses; None if it uses none, as on a CPU."""
    import torch

    return str(torch.cuda.get_device_properties(torch.cuda.current_device()).uuid) if torch.cuda.is_initialized() else None


def _known_as(pid: int) -> str | None:
    """What a process of this workbook is: a notebook's kernel, or a command; None for any other."""
    try:
        command = (PROCESSES / str(pid) / "cmdline").read_bytes().decode(errors="replace").split("\0")
        variables = (PROCESSES / str(pid) / "environ").read_bytes().decode(errors="replace").split("\0")
    except OSError:  # it has ended, or belongs to another account
        return None
    if "mistral_lib" in command:
        return " ".join(["python -m mistral_lib", *command[command.index("mistral_lib") + 1 :]]).strip()
    if any(word.startswith("ipykernel") for word in command):
        notebooks = [text.partition("=")[2] for text in variables if text.startswith("JPY_SESSION_NAME=")]  # set by the notebook server
        return f"the kernel of {Path(notebooks[0]).name}" if notebooks else "a notebook's kernel"
    return None


def others_on_the_card() -> str:
    """Who else has memory on the card, and how to get it back, as sentences; empty if nobody is known."""
    found = holders()
    if not found:
        return ""
    named, kernels = ", ".join(map(str, found)), any("kernel" in one.name for one in found)
    back = "end what is not needed"
    if kernels:
        back += "; a chat that is open in notebook 04 keeps its model: press its button “free the memory”, or shut that kernel down"
    return f"Also on the card: {named}; {back}."


@contextmanager
def full_card_explained(what: str) -> Iterator[None]:
    """Errors: CardFullError instead of torch's, with the other processes on the card, if `what` does not fit."""
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        words = str(error).splitlines()[0]
        raise CardFullError(" ".join(filter(None, [f"{what} does not fit on the card: {words}", others_on_the_card()]))) from error
