"""Stub programs of the sandbox: apt-get, pip, uv, python3, useradd, systemctl, shutdown and nvidia-smi. Runs in the sandbox as one script.

Each call is sent to the sandbox's first process, which writes it down and answers with an exit code and a text; `systemctl` and `shutdown`
are done there. `python3 -m venv` and `uv venv` make real environments, in which the packages of the prepared environment are visible;
`pip install` and `uv pip install` install nothing, and fail if a package is not in the prepared environment with this version.
"""

import json
import os
import re
import socket
import subprocess
import sys
from importlib import metadata
from pathlib import Path

SOCKET = "/run/service-manager.sock"
PREPARED = "@PREPARED@"  # site-packages of the prepared environment
BASE_PYTHON = "@BASE_PYTHON@"
NAMES = ("apt-get", "systemctl", "shutdown", "useradd", "nvidia-smi", "uv", "pip", "python3")


def ask(program, arguments):
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(SOCKET)
        connection.sendall(json.dumps({"program": program, "arguments": arguments}).encode() + b"\n")
        answer = json.loads(b"".join(iter(lambda: connection.recv(65536), b"")))
    sys.stdout.write(answer["output"])
    return answer["code"]


def new_environment(place):
    """A real environment without pip, in which the prepared packages are visible but not the library that is installed there."""
    subprocess.run([BASE_PYTHON, "-m", "venv", "--clear", "--without-pip", place], check=True)
    packages(place).joinpath("prepared.pth").write_text(PREPARED + "\n")
    (Path(place) / "bin" / "pip").symlink_to(Path(sys.argv[0]).with_name("pip"))


def packages(place):
    return next(Path(place).glob("lib/python*/site-packages"))


def missing(arguments):
    """What the prepared environment lacks of the requested packages."""
    names = [word for word in arguments if "==" in word]
    if "-r" in arguments:
        names += re.findall(r"^[\w.\[\]-]+==\S+", Path(arguments[arguments.index("-r") + 1]).read_text(), re.MULTILINE)
    sys.path.append(PREPARED)
    return [name for name in names if not name.startswith("uv==") and not installed(*name.split("=="))]


def installed(name, version):
    try:
        return metadata.version(name.split("[")[0]).split("+")[0] == version
    except metadata.PackageNotFoundError:
        return False


def uv(arguments):
    if arguments[0] == "venv":
        new_environment(arguments[-1])
    elif arguments[:2] == ["pip", "install"]:
        if lacking := missing(arguments):
            sys.exit(f"not in the prepared environment: {', '.join(lacking)}")
        if "--editable" in arguments:
            place = Path(arguments[arguments.index("--python") + 1]).parents[1]
            packages(place).joinpath("000_code.pth").write_text(arguments[-1] + "\n")  # before the prepared packages


def python3(arguments):
    if arguments[0] == "-c":
        sys.exit(0 if Path("/run/python3-venv").exists() else "No module named 'ensurepip'")
    new_environment(arguments[-1])


def useradd(arguments):
    name, home = arguments[-1], arguments[arguments.index("--home-dir") + 1]
    with open("/etc/passwd", "a") as users, open("/etc/group", "a") as groups:
        users.write(f"{name}:x:990:990::{home}:{arguments[arguments.index('--shell') + 1]}\n")
        groups.write(f"{name}:x:990:\n")


def main():
    program, arguments = Path(sys.argv[0]).name, sys.argv[1:]
    code = ask(program, arguments)
    if code == 0:
        if program == "apt-get" and "install" in arguments:
            Path("/run/python3-venv").touch()
        elif program == "nvidia-smi":
            print("37, 4096, 23028")
        elif program == "pip" and (lacking := missing(arguments)):
            sys.exit(f"not in the prepared environment: {', '.join(lacking)}")
        elif program in ("uv", "python3", "useradd"):
            {"uv": uv, "python3": python3, "useradd": useradd}[program](arguments)
    return code


if __name__ == "__main__":
    os.umask(0o022)
    sys.exit(main())
