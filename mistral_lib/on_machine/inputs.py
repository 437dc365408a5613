"""What the run reads, from the bucket to its place on the machine: code, parameters, an earlier machine's results, corpus, base model.

Each file is verified against job.json. What is there already is kept, so that a restarted agent loses no time.
"""

import os
import re
import shutil
import tarfile
from collections.abc import Callable

from mistral_lib.on_machine.bucket import restore
from mistral_lib.on_machine.bucket.object_store import Store, WrongContentError
from mistral_lib.on_machine.folders import USER, Folders, write_aside
from mistral_lib.on_machine.job import Job
from mistral_lib.on_machine.programs import output


def fetch(store: Store, job: Job, folders: Folders, say: Callable[[str], None], check: Callable[[], None], results: bool = True) -> None:
    """Bring all inputs. say: called with what is done. check: called between files; what it raises ends the fetching. results: those of an
    earlier machine as well.

    Errors: StoreError, WrongContentError, ResultsError, OSError (a full disk), ProgramError.
    """
    say("fetching the code and the parameters")
    _code(store, job, folders)
    store.download("params.yaml", folders.params, job.params_sha256)
    check()
    if results:
        _results(store, job, folders, say)
    check()
    wanted = {f"corpus/{name}": (folders.home / name, digest) for name, digest in job.corpus.items()}
    if job.base_model is not None:
        place = folders.home / job.base_model["path"]
        wanted |= {f"base_model/{name}": (place / name, digest) for name, digest in job.base_model["files"].items()}
    for number, (name, (target, digest)) in enumerate(wanted.items(), 1):
        say(f"fetching file {number} of {len(wanted)}: {name}")
        store.download(name, target, digest)
        check()
    output(["chown", "-R", f"{USER}:{USER}", str(folders.home)], seconds=600)


def _code(store: Store, job: Job, folders: Folders) -> None:
    """The unpacked archive replaces the earlier code in one rename."""
    note = folders.done("code")
    if note.exists() and note.read_text() == job.code_sha256:
        return
    packed, partial = folders.base / "code.tar.gz", folders.base / ".code.partial"
    store.download("code.tar.gz", packed, job.code_sha256)
    shutil.rmtree(partial, ignore_errors=True)
    try:
        with tarfile.open(packed) as tar:
            tar.extractall(partial, filter="data")
    except (tarfile.TarError, EOFError) as error:
        raise WrongContentError(f"code.tar.gz cannot be unpacked ({error}): upload it again") from None
    shutil.rmtree(folders.code, ignore_errors=True)
    os.replace(partial, folders.code)
    write_aside(note, job.code_sha256.encode())


def _results(store: Store, job: Job, folders: Folders, say: Callable[[str], None]) -> None:
    """Once per attempt: on the machine of the same attempt, the run folder is newer than the bucket."""
    note = folders.done("results")
    if note.exists() and note.read_text() == f"{job.run} {job.attempt}":
        return
    say("fetching the results of an earlier machine")
    found = restore.restore(store, folders.run_folder(job.run))
    say("there are no results of an earlier machine: the run starts from its beginning" if found is None else str(found))
    write_aside(note, f"{job.run} {job.attempt}".encode())


def needs_hub(params: str) -> bool:
    """Whether data sets of the hub are named in the parameters."""
    return "hf://" in params


def is_demo_model(params: str) -> bool:
    """Whether the base model is the one that comes as a Python package."""
    return re.search(r"^base_model:\s*['\"]?demo:", params, re.MULTILINE) is not None
