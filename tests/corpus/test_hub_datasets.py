"""Data sets of the hub are read from what the library `datasets` downloads; without a connection the error says what to do."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from mistral_lib.corpus import hub_datasets, sources
from tests.support import hub_server
from tests.support.containers import ROWS, json_lines

ASK = """
import json, sys
from mistral_lib.corpus import sources
found = {}
for address in sys.argv[1:]:
    try:
        found[address] = [[file.name, [row.value for row in sources.rows(file)]] for file in sources.find([address], "corpus")]
    except sources.SourceError as error:
        found[address] = str(error)
print(json.dumps(found))
"""


def ask(address: str, cache: Path, *names: str, **variables: str) -> dict:
    """Files and rows, or the error, of each data set, from a fresh process with this hub."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **variables}
    done = subprocess.run([sys.executable, "-c", ASK, *names], capture_output=True, text=True, env=environment, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_the_splits_of_a_data_set_are_read_also_later_without_a_connection(tmp_path: Path) -> None:
    (tmp_path / "hub").mkdir()
    (tmp_path / "hub" / "train.jsonl").write_bytes(json_lines(ROWS))
    (tmp_path / "hub" / "test.jsonl").write_bytes(json_lines(ROWS[:2]))
    address, missing, no_revision = "hf://datasets/open/rows@v1", "hf://datasets/open/nothing", "hf://datasets/open/rows@v9"
    with hub_server.serving(tmp_path / "hub") as (server, _):
        found = ask(server, tmp_path / "cache", address, missing, no_revision)
    splits = [["open/rows/test-00000-of-00001.arrow", ROWS[:2]], ["open/rows/train-00000-of-00001.arrow", ROWS]]
    assert found[address] == splits
    assert "has no such data set" in found[missing] and "hf auth login" in found[missing]
    assert "v9" in found[no_revision]
    offline = ask("http://127.0.0.1:9", tmp_path / "cache", address, missing, HF_HUB_OFFLINE="1")
    assert offline[address] == splits
    assert "without a connection only data sets that were downloaded before" in offline[missing]


@pytest.mark.parametrize("address", ["hf://datasets/", "hf://models/open/rows", "hf://open/rows", "hf://datasets/a/b/c"])
def test_another_address_is_explained(address: str) -> None:
    with pytest.raises(sources.SourceError, match="expected hf://datasets/owner/name"):
        sources.find([address], "corpus")


def test_configuration_and_revision_are_in_the_address() -> None:
    found = hub_datasets.ADDRESS.match("hf://datasets/owner/name@refs/convert/parquet#german")
    assert found and found.groups() == ("owner/name", "refs/convert/parquet", "german")
