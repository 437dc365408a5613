"""Jobs for a machine under test: the code of this working tree, parameters, and job.json, as the laptop uploads them."""

import hashlib
import io
import json
import subprocess
import tarfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from mistral_lib.on_machine import user_data
from mistral_lib.on_machine.bucket.object_store import Store
from mistral_lib.on_machine.job import Job
from mistral_lib.on_machine.user_data import Place

PROJECT = Path(__file__).parents[2]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def job(run: str, store: Store, **changes: Any) -> dict[str, Any]:
    """job.json of a run without inputs. changes: other values of its keys."""
    values = {
        "run": run, "bucket": store.bucket, "prefix": store.prefix, "region": "us-east-1", "code_sha256": "0" * 64, "params_sha256": "0" * 64,
        "corpus": {}, "base_model": None, "token_parameter": None,
        "ends_at": (datetime.now(UTC) + timedelta(hours=2)).isoformat(timespec="seconds"), "idle_minutes": 10, "hang_minutes": 30,
        "max_usd": 0.0, "usd_per_hour": 1.0, "spot": False, "attempt": 1, "extras": [], "stages": [],
    }  # fmt: skip
    return Job.from_dict(values | changes).to_dict()


def upload_machine(store: Store, run: str, minutes: int = 120) -> Place:
    """machine.tar.gz, and what the user data needs to find it."""
    packed = user_data.archive()
    store.write("machine.tar.gz", packed)
    return Place(run, store.bucket, store.prefix, "us-east-1", sha256(packed), minutes)


def upload_job(store: Store, run: str, code: bytes, params: bytes, **changes: Any) -> dict[str, Any]:
    """Code and parameters, then job.json; returns the job."""
    store.write("code.tar.gz", code)
    store.write("params.yaml", params)
    values = job(run, store, code_sha256=sha256(code), params_sha256=sha256(params), **changes)
    store.write("job.json", json.dumps(values).encode())
    return values


def packed(files: dict[str, bytes]) -> bytes:
    """A tar.gz of these files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = len(content), 0o644
            tar.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def library() -> bytes:
    """The tracked files of this working tree, as they are now, without the tests."""
    listed = subprocess.run(["git", "-C", str(PROJECT), "ls-files", "-z"], capture_output=True, text=True, check=True).stdout.split("\0")
    names = [name for name in listed if name and not name.startswith("tests/") and (PROJECT / name).is_file()]
    return packed({name: (PROJECT / name).read_bytes() for name in names})
