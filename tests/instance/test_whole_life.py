"""The whole life of a rented machine by the command line: plan, up, the user data really executed, run, watch, fetch, audit, down, nothing left.

AWS is moto behind `aws_stand_in`, the machine is the sandbox of `machine_sandbox`, which has stubs of its own; both name what is false in
them. The run is the real one on params/quick.yaml, all notebooks, with one exported form: on a CPU that computes in bfloat16, four steps of
training leave the parity of the merged form in doubt.
"""

import base64
import contextlib
import io
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import yaml

from mistral_lib import __main__
from mistral_lib.aws import session
from mistral_lib.instance import records, resources
from mistral_lib.preparation import audit
from mistral_lib.rented_run import payload
from mistral_lib.run import files, paths
from tests.support.aws_stand_in import REGION, FalseAws
from tests.support.machine_sandbox import NEEDED, Sandbox, machine_sandbox
from tests.support.metadata_server import metadata_server

pytestmark = [NEEDED, pytest.mark.long]
MINUTES = 45  # of a run on a busy machine with two cores
THREADS = {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
TOKEN = "hf_" + "LifeOfAMachine" * 2
LISTENS, LOOPBACKS = "0A", ("0100007F", "00000000000000000000000001000000", "0000000000000000FFFF00000100007F")  # in /proc/net/tcp


def command(*words: str) -> tuple[int, str]:
    """`python -m mistral_lib instance …`: exit code and what it printed."""
    arguments, printed = __main__.parser().parse_args(["instance", *words]), io.StringIO()
    with contextlib.redirect_stdout(printed):
        code = arguments.work(arguments)
    return code or 0, printed.getvalue()


@dataclass
class Observer:
    """Looks at all processes while the machine is on: arguments that hold the token, and listeners of the run's user for the world."""

    machine: Sandbox
    leaks: list[str] = field(default_factory=list)
    open_ports: set[str] = field(default_factory=set)
    looks: int = 0

    def look(self) -> None:
        for place in Path("/proc").glob("[0-9]*/cmdline"):
            with contextlib.suppress(OSError):
                if TOKEN.encode() in place.read_bytes():
                    self.leaks.append(str(place))
        user = next(
            (
                line.split(":")[2]
                for line in (self.machine.folder / "etc" / "passwd").read_text().splitlines()
                if line.startswith("workbook:")
            ),
            "",
        )
        for table in ("/proc/net/tcp", "/proc/net/tcp6"):
            for row in (line.split() for line in Path(table).read_text().splitlines()[1:]):
                if row[3] == LISTENS and row[7] == user and row[1].split(":")[0] not in LOOPBACKS:
                    self.open_ports.add(row[1])
        self.looks += 1

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        done = threading.Event()

        def work() -> None:
            while not done.wait(0.5):
                self.look()

        thread = threading.Thread(target=work, daemon=True)
        thread.start()
        yield
        done.set()
        thread.join()


def no_capacity_in_two_zones(aws: FalseAws) -> list[str]:
    """The first two subnets that are asked have no capacity; all that were asked, in order."""
    asked: list[str] = []

    def refused(parameters: dict) -> bool:
        subnet = next(value for key, value in parameters.items() if key.endswith("SubnetId"))
        if subnet not in asked:
            asked.append(subnet)
        return subnet in asked[:2]

    aws.fail("ec2", "RunInstances", "InsufficientInstanceCapacity", 500, times=None, when=refused)
    return asked


def user_data_of(machine: str) -> str:
    found = session.client("ec2", REGION).describe_instance_attribute(InstanceId=machine, Attribute="userData")
    return base64.b64decode(found["UserData"]["Value"]).decode()


def test_from_the_plan_to_nothing_left(
    aws: FalseAws, home: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(payload, "_from_hub", lambda settings, model: True)  # the demo needs no token: here one is sent
    values = yaml.safe_load((paths.params() / "quick.yaml").read_text()) | {"run_name": "whole", "export_forms": ["q8_0"]}
    files.write_text(home / "whole.yaml", yaml.safe_dump(values))
    file = str(home / "whole.yaml")

    code, shown = command("plan", file, "--region", REGION)
    assert code == 0 and "g4dn.xlarge" in shown and "us-east-1" in shown

    subnets = no_capacity_in_two_zones(aws)
    code, _ = command("up", file, "--region", REGION, "--type", "g4dn.xlarge", "--max-hours", "2")
    record = records.load("whole")
    assert code == 0 and record.complete and len(subnets) == 3
    script = user_data_of(record.machine)

    folder = tmp_path_factory.mktemp("machine")
    with metadata_server() as metadata:
        metadata.facts["instance-id"] = record.machine
        with machine_sandbox(folder, script, aws.url, metadata.url, THREADS) as machine:
            observer = Observer(machine)
            with observer.watching():
                assert command("run", file, "--dirty")[0] == 0
                began = time.monotonic()
                code, seen = command("watch", "whole", "--seconds", "3")
                assert code == 0, f"{seen[-6000:]}\n{machine.logs()}"
                machine.wait_until_off(60 * MINUTES)
            print(f"the run took {time.monotonic() - began:.0f} s; {observer.looks} looks at all processes")
    assert aws.shut_down(record.machine) == "terminated"
    assert "running: the run works" in seen and "by the timer on the machine" in seen and "complete. Next:" in seen

    code, shown = command("fetch", "whole")
    assert code == 0 and "none missing, altered or stale" in shown, shown
    findings = audit.audit_run(paths.runs() / "whole")
    assert findings and {finding.status for finding in findings} == {"verified"}

    assert command("down", "whole", "--yes")[0] == 0
    assert resources.everything() == []
    assert not observer.leaks and not observer.open_ports and observer.looks > 10
    no_secret_and_no_open_door(aws, script, folder)


def no_secret_and_no_open_door(aws: FalseAws, script: str, folder: Path) -> None:
    """In user data, tags, objects, logs, and any request but the one that stores the token; no ingress and no key pair at any moment."""
    holding = [(one.service, one.action) for one in aws.requests if TOKEN in one.text + one.path + json.dumps(one.headers)]
    assert set(holding) == {("ssm", "PutParameter")} and TOKEN not in script
    logs = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.stat().st_size < 5_000_000]
    assert logs and not [path for path in logs if TOKEN.encode() in path.read_bytes()]
    kept = [path for path in paths.runs().rglob("*") if path.is_file() and path.stat().st_size < 5_000_000]
    assert not [path for path in kept if TOKEN.encode() in path.read_bytes()]
    assert not aws.asked("ec2", "AuthorizeSecurityGroupIngress")
    launches = [one.parameters for one in aws.asked("ec2", "RunInstances")]
    assert launches and not any("KeyName" in one for one in launches)
    assert all(one.get("MetadataOptions.HttpTokens") == "required" for one in launches)
