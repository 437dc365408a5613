"""A base model on the hub: the hub library's errors, raised against a server that answers as the hub does, become messages with steps."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from mistral_lib.model import hub_model, s3_model
from mistral_lib.run import disk, paths
from tests.support import hub_server

ASK = """
import json, sys
from mistral_lib.model import hub_model
found = {}
for name in sys.argv[2:]:
    try:
        found[name] = str(hub_model.folder(name, sys.argv[1] == "weights"))
    except hub_model.BaseModelError as error:
        found[name] = f"{type(error.__cause__).__name__} → {error}"
print(json.dumps(found))
"""


@pytest.fixture(scope="module")
def hub(tiny_model: str) -> Iterator[tuple[str, list[str]]]:
    with hub_server.serving(Path(tiny_model)) as found:
        yield found


def ask(address: str, cache: Path, *names: str, what: str = "weights", **variables: str) -> dict[str, str]:
    """The folder or error of each name, from a fresh process that reads the hub's address and the token from its environment."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": address, "HF_HOME": str(cache), "HF_HUB_DISABLE_PROGRESS_BARS": "1", **variables}
    done = subprocess.run([sys.executable, "-c", ASK, what, *names], capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_model_is_fetched_and_then_found_without_a_network(hub, tmp_path: Path) -> None:
    address, asked = hub
    small = ask(address, tmp_path, "open/tiny", what="tokenizer")["open/tiny"]
    assert "tokenizer.json" in asked and "model.safetensors" not in asked
    offline = ask(address, tmp_path, "open/tiny", HF_HUB_OFFLINE="1")["open/tiny"]
    assert (
        offline.startswith("IncompleteSnapshotError → ")
        and "HF_HUB_OFFLINE is set and the cache does not have the complete model" in offline
    )
    place = Path(ask(address, tmp_path, "open/tiny")["open/tiny"])
    assert str(place) == small and place.name == hub_server.COMMIT and asked.count("tokenizer.json") == 1
    assert ask("http://127.0.0.1:9", tmp_path, "open/tiny")["open/tiny"] == str(place)


def test_the_weights_in_mistrals_own_layout_are_never_fetched(tiny_model: str, tmp_path: Path) -> None:
    repository = tmp_path / "repository"
    shutil.copytree(tiny_model, repository)
    for name in (
        "consolidated.safetensors",
        "consolidated-00001-of-00002.safetensors",
        "consolidated.safetensors.index.json",
        "consolidated.00.pth",
    ):
        (repository / name).write_bytes(b"0" * 100)
    with hub_server.serving(repository) as (address, asked):
        place = Path(ask(address, tmp_path / "cache", "open/tiny")["open/tiny"])
        ask(address, tmp_path / "small", "open/tiny", what="tokenizer")
    assert (place / "model.safetensors").exists() and not [name for name in asked if name.startswith("consolidated")]
    assert not list((tmp_path / "cache").rglob("consolidated*"))
    assert not s3_model._is_of_model("consolidated.safetensors") and s3_model._is_of_model("model.safetensors")


def test_every_command_that_is_printed_leaves_them_out(tmp_path: Path) -> None:
    """`hf download` in messages, documentation and notebooks excludes what the workbook itself leaves out, unless it names what it fetches."""
    commands = [ask("http://127.0.0.1:9", tmp_path, "open/tiny")["open/tiny"]]
    for path in (*paths.project().glob("*.md"), *paths.project().glob("docs/*.md"), *paths.project().glob("notebooks/*.ipynb"),
                 *paths.project().glob("mistral_lib/**/*.py")):  # fmt: skip
        commands += [line for line in path.read_text().splitlines() if "hf download" in line and "--include" not in line]
    assert len(commands) >= 3
    for line in commands:
        excluded = re.search(r"hf download .*--exclude '([^']+)'", line)
        assert excluded and fnmatch("consolidated.safetensors", excluded.group(1)), line


Usage = namedtuple("Usage", "total used free")


@pytest.fixture
def listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """The files of a repository with their sizes, as a stand-in for HfApi tells them; 20 GiB of disk are free."""
    import huggingface_hub

    sizes = {"config.json": 1000, "model-00001-of-00002.safetensors": 10 * 2**30, "model-00002-of-00002.safetensors": 4 * 2**30,
             "consolidated.safetensors": 14 * 2**30, "original/model.safetensors": 2**40}  # fmt: skip

    class Api:
        def model_info(self, repo_id: str, *, revision: str | None, files_metadata: bool, timeout: float) -> Any:
            assert (repo_id, revision, files_metadata) == ("owner/large", "v1", True) and timeout > 0
            siblings = [SimpleNamespace(rfilename=name, size=size) for name, size in sizes.items()]
            return SimpleNamespace(sha=hub_server.COMMIT, siblings=siblings)

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "not" / "yet"))
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda place: Usage(2**40, 0, 20 * 2**30) if Path(place).exists() else None)
    hub_model.folder.cache_clear()
    return sizes


def test_a_disk_without_room_for_the_download_is_reported_before_the_first_byte(listed: dict[str, int], monkeypatch) -> None:
    import huggingface_hub

    fetched: list[Any] = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *a, **o: fetched.append((a, o)) or "there")
    assert hub_model.folder("owner/large@v1") == Path("there") and len(fetched) == 1, "14 GiB, with 1 GiB beside them"
    hub_model.folder.cache_clear()
    listed["model-00003.safetensors"] = 6 * 2**30
    with pytest.raises(disk.DiskFullError) as error:
        hub_model.folder("owner/large@v1")
    said = str(error.value)
    assert (
        "no room on disk for base_model = 'owner/large@v1' in the hub's cache and 1 GiB beside it: 21.0 GiB are needed, 20.0 GiB are free"
        in said
    )
    assert "Free at least 1.0 GiB, or set HF_HOME to a folder on a larger disk" in said and len(fetched) == 1
    assert hub_model.folder("owner/large@v1", weights=False) == Path("there"), "configuration and tokenizer are small"


def test_only_files_that_are_not_in_the_cache_are_counted(listed: dict[str, int], monkeypatch) -> None:
    import huggingface_hub

    patterns = ["*.json", "*.safetensors"]
    assert hub_model.missing_bytes("owner/large@v1", patterns) == 1000 + 14 * 2**30
    cached = {"model-00001-of-00002.safetensors"}
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache",
        lambda repo_id, name, revision: "path" if name in cached and revision == hub_server.COMMIT else None,
    )  # fmt: skip
    assert hub_model.missing_bytes("owner/large@v1", patterns) == 1000 + 4 * 2**30
    assert hub_model.missing_bytes("owner/other", patterns) == 0, "the hub that does not answer is reported by fetching"


SMALL_DISK = """
import shutil
from mistral_lib.model import hub_model
from mistral_lib.run import disk
usage = shutil.disk_usage
disk.shutil.disk_usage = lambda place: usage(place)._replace(free=2**20)
try:
    hub_model.folder("open/tiny")
except disk.DiskFullError as error:
    print(error)
"""


def test_the_sizes_come_from_the_hub_itself(hub, tmp_path: Path) -> None:
    address, asked = hub
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    before = list(asked)
    done = subprocess.run([sys.executable, "-c", SMALL_DISK], capture_output=True, text=True, timeout=120,
                          env={**kept, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path / "cache")})  # fmt: skip
    assert "no room on disk for base_model = 'open/tiny'" in done.stdout and "1 MiB are free" in done.stdout, done.stderr
    assert asked == before, "nothing was fetched"


LOOK = """
from mistral_lib.model import base_model
print(base_model.is_local("open/tiny"), base_model.is_local("open/tiny") and base_model.fingerprint("open/tiny", weights=False))
"""


def test_an_audit_looks_only_in_the_cache_and_fetches_no_weights(hub, tmp_path: Path) -> None:
    address, asked = hub
    kept = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    environment = {**kept, "HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "HF_HUB_DISABLE_PROGRESS_BARS": "1"}

    def look() -> str:
        return subprocess.run([sys.executable, "-c", LOOK], capture_output=True, text=True, env=environment, timeout=120, check=True).stdout

    before = len(asked)
    assert look().split() == ["False", "False"] and len(asked) == before, "nothing in the cache, and the hub was not asked"
    ask(address, tmp_path, "open/tiny", what="tokenizer")
    assert look().split() == ["True", hub_server.COMMIT] and not any(".safetensors" in name for name in asked[before:])


def test_a_gated_model_without_a_token_gets_the_steps_to_take(hub, tmp_path: Path) -> None:
    address, _ = hub
    words = ask(address, tmp_path, "gated/tiny")["gated/tiny"]
    assert words.startswith("GatedRepoError → base_model = 'gated/tiny': the model is gated and there is no token on this machine.")
    steps = [f"1. Sign in and accept the model's conditions on {address}/gated/tiny", f"read access at {address}/settings/tokens",
             "`hf auth login`, or set the environment variable HF_TOKEN"]  # fmt: skip
    assert all(step in words for step in steps), words


def test_a_token_without_access_is_distinguished_and_never_shown(hub, tmp_path: Path) -> None:
    address, _ = hub
    found = ask(address, tmp_path, "gated/tiny", "open/missing", HF_TOKEN="hf_stranger")
    assert found["gated/tiny"].startswith("GatedRepoError") and "the account of your token may not read it" in found["gated/tiny"]
    assert found["open/missing"].startswith("RepositoryNotFoundError") and "not open to the account of your token" in found["open/missing"]
    assert "hf_stranger" not in str(found)
    assert Path(ask(address, tmp_path, "gated/tiny", HF_TOKEN="good")["gated/tiny"]).is_dir()


def test_a_refused_token_an_unknown_name_and_a_busy_hub_have_messages_of_their_own(hub, tmp_path: Path) -> None:
    address, _ = hub
    assert "the hub refuses the token (401); make a new one" in ask(address, tmp_path, "open/tiny", HF_TOKEN="bad")["open/tiny"]
    found = ask(address, tmp_path, "open/missing", "busy/tiny", "forbidden/tiny", "disabled/tiny", "no//name")
    assert (
        found["open/missing"].startswith("RepositoryNotFoundError")
        and "no folder of this name and no such model on the hub" in found["open/missing"]
    )
    assert "check the name" in found["open/missing"] and "if it is private: 1. Sign in" in found["open/missing"]
    assert "the hub answers 503; try again later" in found["busy/tiny"]
    assert "the hub refuses access (403)" in found["forbidden/tiny"]
    assert "the hub has disabled this model" in found["disabled/tiny"]
    assert "not a valid name on the hub" in found["no//name"]


def test_the_error_for_an_unreachable_hub_names_a_workaround(tmp_path: Path) -> None:
    words = ask("http://127.0.0.1:9", tmp_path, "open/tiny")["open/tiny"]
    assert words.startswith("LocalEntryNotFoundError → ") and "(http://127.0.0.1:9) cannot be reached (ConnectError)" in words
    assert "hf download open/tiny" in words and "set base_model: models/tiny" in words


SAVE = """
import sys
from pathlib import Path
import torch
from mistral_lib.model import base_model
from mistral_lib.run import params
from mistral_lib.training import adapter_check
settings = params.load(Path(sys.argv[1]))
model = base_model.attach_lora(base_model.load_base(settings), settings)
initial = base_model.adapter_hash(model)
for name, parameter in model.named_parameters():
    if "lora_B" in name:
        torch.nn.init.normal_(parameter)
numbers = dict.fromkeys(("records", "blocks", "block_tokens", "supervised_tokens", "steps", "adapter_step", "blocks_per_step"), 1)
folder = adapter_check.save(model, settings, Path(sys.argv[2]), initial, numbers)
print(base_model.adapter_hash(base_model.load_adapter(settings, folder)) == base_model.adapter_hash(model))
"""


def test_the_adapter_names_the_hub_model_and_its_commit_and_not_this_machines_cache(hub, tmp_path: Path, settings) -> None:
    from mistral_lib.run import files, params
    from tests.support.corpora import files_with

    (tmp_path / "hub.yaml").write_text(params.to_yaml(settings.model_copy(update={"base_model": "open/tiny@v1", "quantization": "none"})))
    environment = {**os.environ, "HF_ENDPOINT": hub[0], "HF_HOME": str(tmp_path / "cache")}
    words = [sys.executable, "-c", SAVE, str(tmp_path / "hub.yaml"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, env=environment)
    assert done.stdout.split() == ["True"], done.stderr
    folder = tmp_path / "adapter"
    config, provenance = files.read_json(folder / "adapter_config.json"), files.read_json(folder / "provenance.json")
    assert [config["base_model_name_or_path"], config["revision"]] == ["open/tiny", hub_server.OLDER]
    assert [provenance[key] for key in ("base_model", "base_revision", "base_identity")] == ["open/tiny", *2 * [hub_server.OLDER]]
    assert provenance["parameters"]["base_model"] == "open/tiny" and files_with(folder, str(tmp_path)) == []
    readme = (folder / "README.md").read_text()
    assert readme.startswith("---\nbase_model: open/tiny\n") and f"`open/tiny` at commit `{hub_server.OLDER}`" in readme
    program = readme.split("```python\n")[1].split("```")[0]
    loaded = subprocess.run([sys.executable, "-c", program], cwd=folder, capture_output=True, text=True, env=environment, timeout=300)
    assert loaded.returncode == 0 and loaded.stdout.strip(), loaded.stderr


def test_the_requested_revision_is_used(hub, tmp_path: Path) -> None:
    address, _ = hub
    named = ("open/tiny", "open/tiny@v1", f"open/tiny@{hub_server.OLDER}")
    newest, tag, commit = (Path(place).name for place in ask(address, tmp_path, *named).values())
    assert newest == hub_server.COMMIT and tag == commit == hub_server.OLDER
    offline = ask("http://127.0.0.1:9", tmp_path, *named, HF_HUB_OFFLINE="1")
    assert [Path(place).name for place in offline.values()] == [newest, tag, commit], "all of them are in the cache"
    for words in ask(address, tmp_path, "open/tiny@v9").values():
        assert words.startswith("RevisionNotFoundError") and "no revision 'v9'; expected a commit (all 40 digits), tag or branch" in words
    for words in ask(address, tmp_path, "open/tiny@v2", HF_HUB_OFFLINE="1").values():
        assert "hf download open/tiny --revision v2" in words and "set base_model: models/tiny" in words
    assert "no revision after the @" in ask(address, tmp_path, "open/tiny@")["open/tiny@"]


def test_a_listed_model_is_planned_at_any_revision_and_named_without_it_on_its_card(settings) -> None:
    from mistral_lib.model import base_model, model_shapes

    name = "mistralai/Mistral-7B-Instruct-v0.3"
    assert model_shapes.config_of(f"{name}@refs/pr/7").to_dict() == model_shapes.config_of(name).to_dict()
    assert base_model.shown_name(f"{name}@refs/pr/7") == name
