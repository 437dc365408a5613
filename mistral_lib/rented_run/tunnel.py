"""JupyterLab or the served model of a machine, on this computer, through an SSM tunnel: no port of the machine is open to anybody.

The program on the machine listens on its loopback address alone. Its address and key come through the run's bucket, in an object that is
deleted at once: what a command prints stays in the history of Systems Manager. AWS's Session Manager carries the connection, which needs the AWS command
line and its plugin here; without them the steps are printed. Source: AWS Systems Manager, "Starting a session (port forwarding)".
"""

import json
import secrets
import shlex
import shutil
import socket
import subprocess
from dataclasses import dataclass
from pathlib import Path

from mistral_lib.aws import buckets, machines, shell_commands
from mistral_lib.instance import records
from mistral_lib.instance.records import Record
from mistral_lib.on_machine.folders import RUNTIME, USER, Folders
from mistral_lib.on_machine.user_data import BASE
from mistral_lib.run.progress import say

DOCUMENT = "AWS-StartPortForwardingSession"
PROGRAMS = ("aws", "session-manager-plugin")  # both are needed
INSTALLATION = {
    "aws": "https://docs.aws.amazon.com/cli/latest/userguide/getting-started-install.html",
    "session-manager-plugin": "https://docs.aws.amazon.com/systems-manager/latest/userguide/session-manager-working-with-install-plugin.html",
}
THERE = Folders(Path(BASE), Path(RUNTIME))  # the paths of the machine
START_SECONDS = 240  # on the machine, until the program answers: a 7B model takes minutes to load


class TunnelError(RuntimeError):
    """No tunnel can be opened; the message says what to do."""


@dataclass(frozen=True, slots=True)
class Program:
    """What is reached through the tunnel."""

    name: str
    port: int  # on the machine
    unit: str  # of systemd
    arguments: str  # after `python -m mistral_lib`
    shows: str  # a command that prints how to reach it


def programs(run: str) -> dict[str, Program]:
    """By the word that `instance lab` takes."""
    quoted = shlex.quote(run)
    lab = Program("JupyterLab", 8888, "mistral-lab", "lab --port 8888 -- --no-browser",
                  "journalctl --unit mistral-lab --output cat | grep --only-matching 'http://127.0.0.1:8888[^ ]*' | tail -n 1")  # fmt: skip
    served = Program("the served model", 8001, "mistral-served", f"serve runs/{quoted} --port 8001",
                     f"echo http://127.0.0.1:8001/v1; echo \"key: $(cat {THERE.home}/.serving/{quoted}.key)\"")  # fmt: skip
    return {"jupyter": lab, "served": served}


def lab(run: str, what: str = "jupyter", port: int | None = None) -> int:
    """Start the program on the machine if it does not run, and hold a tunnel to it until Ctrl-C. Returns an exit code.

    port: on this computer; default: that of the machine. Errors: RecordError, TunnelError, CommandError, AwsError.
    """
    record, program = records.required(run), programs(run)[what]
    _require_running(record)
    here = port or program.port
    _require_free(here)
    say(f"starting {program.name} on {record.machine}, if it does not run there yet")
    shown = _shown(record, program).strip()
    print(shown.replace(f"127.0.0.1:{program.port}", f"127.0.0.1:{here}"))
    command = forwarding(record, program.port, here)
    if missing := [name for name in PROGRAMS if shutil.which(name) is None]:
        print(steps(missing, command))
        return 1
    say(f"tunnel: 127.0.0.1:{here} here is 127.0.0.1:{program.port} there; Ctrl-C closes it, {program.name} stays")
    return subprocess.run(command, check=False).returncode


def _shown(record: Record, program: Program) -> str:
    """How to reach the program, once it listens. Errors: CommandError, AwsError; TunnelError if it did not arrive."""
    name = f"machine/reach-{secrets.token_hex(8)}.txt"
    key = record.prefix + name
    try:
        shell_commands.send(record.machine, record.region, start_lines(program, name), START_SECONDS + 30)
        shown = buckets.get_text(record.bucket, key, record.region)
    finally:
        buckets.delete(record.bucket, [key], record.region)
    if shown is None:
        raise TunnelError(f"{program.name} runs on {record.machine}, and its address did not arrive in the bucket: run the command again")
    return shown


def start_lines(program: Program, name: str) -> list[str]:
    """Shell commands for the machine: start the program as the run's user, wait until it listens, put how to reach it into the bucket.

    name: of the object, below the run's prefix.
    """
    start = (
        f"systemd-run --quiet --unit={program.unit} --uid={USER} --gid={USER} --working-directory={THERE.code} "
        f"--setenv=MISTRAL_WORKBOOK_HOME={THERE.home} --setenv=HOME={THERE.home} "
        f"{THERE.python} -m mistral_lib {program.arguments}"
    )
    waits = (
        f"for second in $(seq {START_SECONDS}); do "
        f"(exec 3<>/dev/tcp/127.0.0.1/{program.port}) 2>/dev/null && break; "
        f"systemctl is-active --quiet {program.unit} || {{ journalctl --unit {program.unit} --lines 20 --output cat | sed 's/token=[^ ]*/token=****/g'; exit 1; }}; sleep 1; done"
    )
    handover = f"PYTHONPATH={THERE.agent} {THERE.boot_python} -m mistral_lib.on_machine.bucket.handover {name}"
    inside = f"set -e; systemctl is-active --quiet {program.unit} || {start}; {waits}; {{ {program.shows}; }} | {handover}"
    return [f"bash -c {shlex.quote(inside)}"]


def forwarding(record: Record, remote: int, here: int) -> list[str]:
    """The AWS command line that opens the tunnel."""
    ports = json.dumps({"portNumber": [str(remote)], "localPortNumber": [str(here)]})
    return ["aws", "ssm", "start-session", "--region", record.region, "--target", record.machine, "--document-name", DOCUMENT,
            "--parameters", ports]  # fmt: skip


def steps(missing: list[str], command: list[str]) -> str:
    """What to do by hand if a program is missing here."""
    lines = [f"{' and '.join(missing)} not found on this computer, so the tunnel is yours to open:"]
    lines += [f"{number}. install {name}: {INSTALLATION[name]}" for number, name in enumerate(missing, 1)]
    lines += [f"{len(missing) + 1}. keep this running in a terminal, with the same AWS profile:", f"   {shlex.join(command)}"]
    return "\n".join([*lines, f"{len(missing) + 2}. open the address above in a browser on this computer"])


def _require_running(record: Record) -> None:
    """Errors: TunnelError if the machine does not run."""
    found = {one.id: one.state for one in machines.find(record.region, record.run)}
    state = found.get(record.machine, "gone")
    if state != "running":
        raise TunnelError(
            f"{record.machine} ({record.type}, {record.region}) is {state}, expected running: `python -m mistral_lib instance up <file>` "
            "launches a machine, `instance watch` shows what became of this one"
        )


def _require_free(port: int) -> None:
    """Errors: TunnelError if something listens on this port of this computer."""
    with socket.socket() as probe:
        probe.settimeout(1)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise TunnelError(f"port {port} of this computer is in use: give another one with --port")
