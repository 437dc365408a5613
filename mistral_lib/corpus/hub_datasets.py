"""Data sets of the Hugging Face hub, `hf://datasets/owner/name@revision`, downloaded by the library `datasets` into its cache.

Each split is read from the Arrow files of the cache. Once downloaded, a data set is there without a connection as well.
"""

import re
from functools import lru_cache
from pathlib import Path

SCHEME = "hf://"
ADDRESS = re.compile(r"hf://datasets/(?P<name>[\w.-]+(?:/[\w.-]+)?)(?:@(?P<revision>[\w./-]+?))?(?:#(?P<config>[\w.-]+))?/?\Z")
EXPECTED = "expected hf://datasets/owner/name, with @revision and #configuration if needed"


class HubDatasetError(OSError):
    """A data set of the hub cannot be used; the message says why and what to do."""


@lru_cache(maxsize=64)
def files(address: str) -> tuple[tuple[Path, str], ...]:
    """(path, name) of each Arrow file, by split. Errors: HubDatasetError."""
    found = ADDRESS.match(address)
    if not found:
        raise HubDatasetError(f"no address of a data set: {EXPECTED}")
    name, revision, config = found["name"], found["revision"], found["config"]
    made = []
    for split, table in _loaded(address, name, revision, config).items():
        stored = [Path(one["filename"]) for one in table.cache_files]
        if not stored:
            raise HubDatasetError(f"its split {split} is empty")
        made += [(path, f"{name}/{split}-{number:05}-of-{len(stored):05}.arrow") for number, path in enumerate(stored)]
    return tuple(made)


def _loaded(address: str, name: str, revision: str | None, config: str | None) -> dict:
    import datasets

    try:
        return dict(datasets.load_dataset(name, config, revision=revision))
    except datasets.exceptions.DatasetNotFoundError:
        where = f" at the revision {revision}" if revision else ""
        reason = f"the hub has no such data set{where}, or it needs access"
        advice = f"check name and revision ({EXPECTED}); for a private or gated one: hf auth login"
    except (OSError, ImportError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        first = (str(error).splitlines() or [""])[0][:200]
        reason = f"it could not be loaded ({type(error).__name__}: {first})"
        advice = "without a connection only data sets that were downloaded before can be read: download it on a machine that has one, or give files"
    raise HubDatasetError(f"{reason}; {advice}")
