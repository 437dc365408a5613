"""params/skypilot.yaml has only keys that SkyPilot's schemas allow, and means what it says of this workbook.

The keys are those of SkyPilot 0.14.1 (sky.utils.schemas: get_task_schema, get_resources_schema, get_storage_schema); it need not be
installed here.
"""

import re
import shlex

import yaml

from mistral_lib import __main__
from mistral_lib.run import params, paths

FILE = paths.params() / "skypilot.yaml"
TASK = yaml.safe_load(FILE.read_text())
TASK_KEYS = {
    "name", "workdir", "event_callback", "num_nodes", "resources", "file_mounts", "service", "pool", "setup", "run", "envs", "secrets",
    "managed_secrets", "inputs", "outputs", "file_mounts_mapping", "config", "volumes", "volume_mounts", "api_server_access",
}  # fmt: skip
RESOURCE_KEYS = {
    "cloud", "region", "zone", "infra", "cpus", "memory", "instance_type", "use_spot", "job_recovery", "volumes", "disk_size",
    "ephemeral_storage", "disk_tier", "network_tier", "local_disk", "max_hourly_cost", "ports", "labels", "accelerator_args", "image_id",
    "autostop", "priority", "priority_class", "accelerators", "any_of", "ordered",
}  # fmt: skip
STORAGE_KEYS = {"name", "source", "store", "persistent", "mode", "type", "config"}
ENVIRONMENT_NAME = re.compile(r"[a-zA-Z_][a-zA-Z0-9_]*")


def test_it_has_only_keys_that_skypilot_knows() -> None:
    assert set(TASK) <= TASK_KEYS and set(TASK["resources"]) <= RESOURCE_KEYS
    stores = [mount for mount in TASK["file_mounts"].values() if isinstance(mount, dict)]
    assert stores and all(set(store) <= STORAGE_KEYS and store["mode"] == "MOUNT_CACHED" for store in stores)
    named = {**TASK["envs"], **TASK["secrets"]}
    assert all(ENVIRONMENT_NAME.fullmatch(name) and isinstance(value, str | None) for name, value in named.items())
    assert set(TASK["resources"]["autostop"]) <= {"idle_minutes", "down"}


def test_it_holds_no_secret_and_opens_no_port() -> None:
    assert set(TASK["secrets"].values()) == {None} and "ports" not in TASK["resources"]


def test_its_machine_parameters_and_corpus_belong_together() -> None:
    settings = params.load(paths.project() / TASK["envs"]["PARAMS"])
    assert TASK["resources"]["instance_type"] == settings.instance
    assert [f"~/workbook/{source}" for source in settings.corpus_paths] == [name for name in TASK["file_mounts"] if "corpora" in name]
    other = re.search(r"--instance-type (\S+) --env PARAMS=(\S+)", FILE.read_text())
    assert params.load(paths.project() / other[2]).instance == other[1]


def test_the_command_that_it_runs_is_understood() -> None:
    line = next(line for line in TASK["run"].splitlines() if "-m mistral_lib" in line)
    words = shlex.split(line.replace("$PARAMS", TASK["envs"]["PARAMS"]))
    __main__.parser().parse_args(words[words.index("mistral_lib") + 1 :])
    for name in re.findall(r"-r (\S+)", TASK["setup"]):
        assert (paths.project() / name).is_file()
