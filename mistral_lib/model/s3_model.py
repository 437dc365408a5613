"""A base model below an s3:// prefix, fetched once to models/: object by object, each one's size checked, renamed when complete."""

import hashlib
import re
from fnmatch import fnmatch
from pathlib import Path

from filelock import FileLock

from mistral_lib.corpus import object_store
from mistral_lib.corpus.object_store import RemoteObject
from mistral_lib.model import model_folder
from mistral_lib.model.model_folder import LEFT_OUT, SMALL_FILES, WEIGHT_FILES, BaseModelError
from mistral_lib.run import disk, files, paths
from mistral_lib.run.progress import bar, say

RECEIPT = "fetched.json"  # the source of the folder and of each file: written after each object, so that a broken fetch resumes
SPARE = 2**30  # bytes of disk that stay free


def folder(url: str) -> Path:
    """The model's folder below models/, fetched if it is not there. Delete the folder to fetch the model again.

    Errors: BaseModelError if the store does not answer, the prefix has no complete model, or the disk is too small.
    """
    place = paths.models() / _name(url)
    if not is_local(url):
        place.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(place.with_name(f".{place.name}.lock")):  # a second process that needs the same model waits for the first
            if not is_local(url):
                fetch(url, place)
    return place


def is_local(url: str) -> bool:
    """Whether the model was fetched completely."""
    return (paths.models() / _name(url) / RECEIPT).is_file()


def _name(url: str) -> str:
    """A folder name that a person recognizes, and that no two prefixes share."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", url.removeprefix("s3://").strip("/"))
    return f"s3-{plain[-60:]}-{hashlib.sha256(url.rstrip('/').encode()).hexdigest()[:8]}"


def fetch(url: str, place: Path) -> None:
    """Fetch the missing files to a hidden folder, check it, and rename it to `place`. Errors: BaseModelError."""
    try:
        objects = model_objects(url)
        partial = place.with_name(f".{place.name}.partial")
        partial.mkdir(exist_ok=True)
        note = partial / f".{RECEIPT}"
        receipt = files.read_json(note) if note.exists() else {"url": url, "files": {}}
        missing = [one for one in objects if not _is_fetched(one, partial, receipt)]
        size = sum(one.size for one in missing)
        disk.require(partial, size + SPARE, "the base model and 1 GiB beside it")
        say(f"fetching {len(missing)} files, {size / 2**20:,.0f} MiB, from {url}, once")
        for one in bar(missing, "base model", unit="file"):
            receipt["files"][_file_name(one)] = {"bytes": one.size, "etag": one.etag, "sha256": _copy(one, partial / _file_name(one))}
            files.write_json(note, receipt)
    except OSError as error:  # StoreError is one: the server, its answer, or this disk
        raise BaseModelError(f"base_model = {url!r}: {error}; what was fetched is kept, and the same command resumes from there") from error
    for path in partial.iterdir():  # objects that were deleted in the store since an earlier try
        if path.name not in {*map(_file_name, objects), note.name}:
            path.unlink()
    model_folder.check(partial, shown=f"{url} (fetched)")
    note.rename(partial / RECEIPT)
    partial.rename(place)


def model_objects(url: str) -> list[RemoteObject]:
    """The objects of a model directly below the prefix. Errors: StoreError; BaseModelError if there is no config.json."""
    prefix = url.rstrip("/") + "/"
    found = [one for one in object_store.listing(prefix) if one.url.startswith(prefix)]
    here = [one for one in found if _is_of_model(one.url.removeprefix(prefix))]
    if "config.json" not in map(_file_name, here):
        seen = ", ".join(one.url.removeprefix(prefix) for one in found[:3]) or "nothing"
        raise BaseModelError(f"base_model = {url!r}: no config.json directly below it (found: {seen}); give the model's own prefix")
    return here


def _is_of_model(name: str) -> bool:
    wanted = any(fnmatch(name, one) for one in (*SMALL_FILES, *WEIGHT_FILES))
    return wanted and not any(fnmatch(name, one) for one in (*LEFT_OUT, ".*", RECEIPT))


def _file_name(one: RemoteObject) -> str:
    return one.url.rpartition("/")[2]


def _is_fetched(one: RemoteObject, partial: Path, receipt: dict) -> bool:
    """Whether an earlier try fetched this same object completely."""
    fact, path = receipt["files"].get(_file_name(one), {}), partial / _file_name(one)
    return fact.get("etag") == one.etag and path.is_file() and path.stat().st_size == one.size


def _copy(one: RemoteObject, target: Path) -> str:
    """Fetch one object and return its SHA-256. Errors: OSError if the size is not the one in the listing."""
    total, size = hashlib.sha256(), 0
    with object_store.open_object(one) as source, files.atomic(target) as file:
        while block := source.read(object_store.BLOCK):
            total.update(block)
            size += len(block)
            file.write(block)
        if size != one.size:
            raise OSError(f"{_file_name(one)}: received {size:,} bytes, expected {one.size:,}")
    return total.hexdigest()
