"""The run folder, as each process of a training sees it: on storage that all share, or on the first machine alone.

Only the first process writes to it. A machine that does not see that folder gets what its processes read (packed data, the checkpoint to
resume from) over the network, checked by hash, into a hidden folder of its own. The base model is not sent: each machine has its own.
"""

import hashlib
import secrets
import shutil
from collections.abc import Mapping
from contextlib import nullcontext
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mistral_lib import __version__
from mistral_lib.engine.job import library_hash
from mistral_lib.model import base_model
from mistral_lib.run import Run, files, folder, hardware, params, paths, sealed
from mistral_lib.training import checkpoints
from mistral_lib.training.processes import distributed

DATA = "data/train/"  # what the other processes read
TOKEN = ".first_process"  # in the run folder of the first process: who reads it sees the same folder
RECEIVED = "received"  # the ending of the hidden folder for what was sent
CHUNK = 2**24  # bytes sent at a time

Files = Mapping[str, Mapping[str, Any]]  # name: sha256 and bytes


def standing(place: Path) -> tuple[int, int, int]:
    """How far the run in this folder is: it is there, its data are prepared, the step of its last checkpoint. The machine where it is
    furthest leads the training, so that an old copy elsewhere does not."""
    found = folder.find_folder(place)
    saved = [checkpoints.step_of(path.parent) for path in found.glob(f"training/checkpoints/checkpoint-*/{sealed.FILES}")]
    return int((found / "params.yaml").is_file()), int((found / "data" / "report.json").is_file()), max(saved, default=0)


def opened(place: Path) -> Run:
    """The run that is to be trained, in every process; of several, only the first one must have its folder.

    Errors: FileNotFoundError if the first process has none; ProcessesDifferError if another machine has other versions of the libraries,
    or another run in a folder of this name.
    """
    if distributed.count() == 1:
        return Run.existing(place)
    first = distributed.from_first(lambda: _facts(Run.existing(place)))
    settings = params.validate(first["parameters"], "the first process's parameters", recorded=True)
    shared = _is_shared(place, first["token"])
    distributed.require_all(lambda: _require_same(place, shared, first))
    return Run(folder.find_folder(place) if shared else paths.runs() / f".{first['name']}.{RECEIVED}", settings)


def _facts(run: Run) -> dict[str, Any]:
    """What the first process tells the others of its run. Writes the token by which they recognize its folder."""
    token = secrets.token_hex(16)
    files.write_text(run.folder / TOKEN, token)
    return {"name": run.folder.name, "token": token, "parameters": run.settings.model_dump(), "data": _data(run), "machine": _machine(run)}


def _is_shared(place: Path, token: str) -> bool:
    note = folder.find_folder(place) / TOKEN
    return note.exists() and note.read_text() == token


def _data(run: Run) -> Files:
    """The recorded files of the training split; empty before the data stage is complete."""
    return {name: fact for name, fact in run.entry("data").get("outputs", {}).items() if name.startswith(DATA)}


def _machine(run: Run) -> dict[str, str]:
    """What must be the same on all machines, since it decides the numbers: code, versions of the libraries, device and compute type."""
    versions = {name: version(name) for name in folder.PACKAGES}
    return {
        "mistral_lib": f"{__version__}, code {library_hash()[:12]}",
        **versions,
        "device": hardware.device(),
        "dtype": hardware.choose_dtype(run.settings.dtype)[0],
    }


def _require_same(place: Path, shared: bool, first: dict[str, Any]) -> None:
    """Errors: ValueError that names each difference from the first process."""
    settings = params.validate(first["parameters"], recorded=True)
    faults = _differences(_machine(Run(place, settings)), first["machine"])
    own = folder.find_folder(place)
    if not shared and (own / "params.yaml").is_file():
        run = Run.existing(own)
        different = _differences(run.settings.model_dump(), first["parameters"])
        if not different and (data := _data(run)) and first["data"] and data != first["data"]:
            different = ["its packed data (data/train) have other hashes"]
        remedy = f"{paths.short(own)} on this machine is another run: delete or rename it here, and what is needed is sent; or copy the first machine's over it"
        faults += [*different, remedy] if different else []
    if faults:
        raise ValueError("; ".join(faults))


def _differences(here: Mapping[str, Any], first: Mapping[str, Any]) -> list[str]:
    return [
        f"{name} is {here.get(name)!r} here and {first[name]!r} on the first machine" for name in first if here.get(name) != first[name]
    ]


def require_same_base(run: Run, expected: str) -> None:
    """Each machine has a base model of its own; on the hub it is fetched here. Errors: BaseModelError, ValueError."""
    if not distributed.is_first() and (found := base_model.fingerprint(run.settings.base_model)) != expected:
        raise ValueError(
            f"base_model = {run.settings.base_model}: its weights or config.json are others (fingerprint {found[:12]}) than on the first machine "
            f"({expected[:12]}); copy that folder here, or name a commit: owner/name@revision"
        )


# -- what is sent --------------------------------------------------------------------------------------------------------


def share_data(run: Run) -> None:
    """Every process can read the packed training split below its run's folder. Call it in all of them.

    Errors: RuntimeError if the first process's files are not those that were recorded; LostProcess.
    """
    if distributed.count() == 1:
        return
    listed = distributed.from_first(lambda: _data(run))
    _share(run.folder, listed, _is_received(run.folder))


def share_checkpoint(place: Path, name: str) -> None:
    """Every process can read this checkpoint of the first one, below its own folder for checkpoints. Call it in all processes."""
    if distributed.count() == 1:
        return
    listed = distributed.from_first(lambda: files.hashes(place / name, place))
    received = _is_received(place)
    if received and distributed.leads_its_machine():
        for old in place.glob("checkpoint-*"):
            if old.name != name:
                shutil.rmtree(old)
    _share(place, listed, received)


def forget(run: Run) -> None:
    """Delete what was received here, once the training is complete."""
    if _is_received(run.folder) and distributed.leads_its_machine():
        shutil.rmtree(run.folder, ignore_errors=True)


def _is_received(place: Path) -> bool:
    return any(part.startswith(".") and part.endswith(f".{RECEIVED}") for part in place.parts)


def _share(place: Path, listed: Files, received: bool) -> None:
    """Send the listed files to every machine that lacks one of them; a file that is there already, with the same hash, is not sent again."""
    receives = received and distributed.leads_its_machine()
    lacking = {name for name in listed if receives and files.damages(place, {name: listed[name]})}
    for name in sorted(set().union(*distributed.gathered(lacking))):
        distributed.from_first(lambda name=name: _require_sound(place, name, listed))
        _send(place / name, listed[name], write=name in lacking)
    distributed.wait()


def _require_sound(place: Path, name: str, listed: Files) -> None:
    if damages := files.damages(place, {name: listed[name]}):
        raise RuntimeError(f"{paths.short(place)}: {damages[0]} after it was written; it cannot be sent to the other machines")


def _send(path: Path, fact: Mapping[str, Any], write: bool) -> None:
    """One file, from the first process to all; those with `write` keep it. Errors: RuntimeError if it arrives with another hash."""
    total, left = hashlib.sha256(), fact["bytes"]
    with open(path, "rb") if distributed.is_first() else files.atomic(path) if write else nullcontext() as file:
        while left:
            size = min(CHUNK, left)
            content = (
                torch.from_numpy(np.frombuffer(file.read(size), np.uint8).copy())
                if distributed.is_first()
                else torch.empty(size, dtype=torch.uint8)
            )
            received = distributed.bytes_from_first(content).numpy().tobytes()
            total.update(received)
            if write:
                file.write(received)
            left -= size
        if total.hexdigest() != fact["sha256"]:
            raise RuntimeError(f"{path.name} arrived with another hash than it was sent with; start the training again")
