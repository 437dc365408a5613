"""A base model behind an s3:// prefix, fetched once to models/: object by object, verified by size, put in place when whole."""

import fcntl
import hashlib
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path

from mistral_lib.corpus import object_store
from mistral_lib.corpus.object_store import RemoteObject
from mistral_lib.model import model_folder
from mistral_lib.model.model_folder import LEFT_OUT, SMALL_FILES, WEIGHT_FILES, BaseModelError
from mistral_lib.run import files, paths
from mistral_lib.run.progress import bar, say

RECEIPT = "fetched.json"  # where the folder is from: written with each object, so that a broken fetch goes on
SPARE = 2**30  # bytes of disk that stay free


def folder(url: str) -> Path:
    """The model's folder below models/, fetched if it is not there. Delete it to fetch the model anew.

    Errors: BaseModelError for a store that does not answer, a prefix without a whole model, or a disk that is too small.
    """
    place = paths.models() / _name(url)
    if not is_here(url):
        with _alone(place):
            if not is_here(url):
                fetch(url, place)
    return place


def is_here(url: str) -> bool:
    """Whether the model was fetched already, to its end."""
    return (paths.models() / _name(url) / RECEIPT).is_file()


def _name(url: str) -> str:
    """A folder name that a person recognises, and that no two prefixes share."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", url.removeprefix("s3://").strip("/"))
    return f"s3-{plain[-60:]}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:8]}"


@contextmanager
def _alone(place: Path) -> Iterator[None]:
    """Two processes do not fetch the same model at once: the second waits for the first."""
    place.parent.mkdir(parents=True, exist_ok=True)
    with open(place.with_name(f".{place.name}.lock"), "ab") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch(url: str, place: Path) -> None:
    """Fetch what is not there yet to a hidden folder, check it, and rename it to `place`. Errors: BaseModelError."""
    try:
        objects = wanted(url)
        partial = place.with_name(f".{place.name}.partial")
        partial.mkdir(exist_ok=True)
        receipt = _receipt(partial, url)
        missing = [one for one in objects if not _is_there(one, partial, receipt)]
        _require_space(partial, sum(one.size for one in missing))
        say(f"fetching {len(missing)} files, {sum(one.size for one in missing) / 2**20:,.0f} MiB, from {url}, once")
        for one in bar(missing, "base model", unit="file"):
            receipt["files"][_base(one)] = {"bytes": one.size, "etag": one.etag, "sha256": _copy(one, partial / _base(one))}
            files.write_json(partial / f".{RECEIPT}", receipt)
    except OSError as error:  # StoreError is one: the server, its answer, or this disk
        raise BaseModelError(f"base_model = {url!r}: {error}; what was fetched is kept, and the same command goes on from there") from error
    for path in partial.iterdir():  # objects that were taken out of the store since an earlier try
        if path.name not in {*(_base(one) for one in objects), f".{RECEIPT}"}:
            path.unlink()
    model_folder.check(partial, shown=f"{url} (fetched)")
    (partial / f".{RECEIPT}").rename(partial / RECEIPT)
    partial.rename(place)


def wanted(url: str) -> list[RemoteObject]:
    """The objects directly below the prefix that make a model. Errors: StoreError, BaseModelError if there is no config.json."""
    prefix = url.rstrip("/") + "/"
    found = [one for one in object_store.listing(prefix) if one.url.startswith(prefix)]
    here = [one for one in found if _is_wanted(one.url.removeprefix(prefix))]
    if "config.json" not in map(_base, here):
        seen = ", ".join(one.url.removeprefix(prefix) for one in found[:3]) or "nothing"
        raise BaseModelError(
            f"base_model = {url!r}: no config.json directly below this prefix (found: {seen}); give the model's own prefix"
        )
    return here


def _is_wanted(name: str) -> bool:
    patterns = (*SMALL_FILES, *WEIGHT_FILES)
    hidden = name.startswith(".") or name == RECEIPT
    return not hidden and any(fnmatch(name, one) for one in patterns) and not any(fnmatch(name, one) for one in LEFT_OUT)


def _base(one: RemoteObject) -> str:
    return one.url.rpartition("/")[2]


def _receipt(partial: Path, url: str) -> dict:
    path = partial / f".{RECEIPT}"
    return files.read_json(path) if path.exists() else {"url": url, "files": {}}


def _is_there(one: RemoteObject, partial: Path, receipt: dict) -> bool:
    """Whether an earlier try fetched this very object to its end."""
    fact, path = receipt["files"].get(_base(one), {}), partial / _base(one)
    return fact.get("etag") == one.etag and path.is_file() and path.stat().st_size == one.size


def _require_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed + SPARE:
        raise OSError(
            f"{needed / 2**30:.1f} GiB are to be fetched and {free / 2**30:.1f} GiB of disk are free; make room, with 1 GiB to spare"
        )


def _copy(one: RemoteObject, target: Path) -> str:
    """Fetch one object; its SHA-256. Errors: OSError if other bytes came than the store announced."""
    total, size = hashlib.sha256(), 0
    with object_store.open_object(one) as source, files.atomic(target) as file:
        while block := source.read(object_store.BLOCK):
            total.update(block)
            size += len(block)
            file.write(block)
        if size != one.size:
            raise OSError(f"{_base(one)}: {size:,} bytes came, the store announced {one.size:,}")
    return total.hexdigest()
