"""JupyterLab as the workbook starts it: at the first notebook, with this environment's Python, behind a token, on this machine alone.

On an instance that one is logged in to over ssh, it says the line that brings the page to one's own machine.
"""

import getpass
import ipaddress
import os
import secrets
import socket
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mistral_lib.run import files, paths

PORT = 8888  # the first one tried
LOOPBACK = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::", "*", "")  # every address that this machine has
FIRST = "notebooks/00_start_here.ipynb"
SETTINGS = {  # JupyterLab's defaults for this workbook; what a user chose in its settings wins
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosaveInterval": 10},  # seconds: a page closed in mid-training comes back as it was
}


def free_port(first: int = PORT, tries: int = 100) -> int:
    """The first port from `first` on that nobody listens at. Errors: OSError if there is none."""
    for port in range(first, first + tries):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            return port
    raise OSError(f"no free port from {first} to {first + tries - 1}; stop another server, or choose another one with --port")


def options(port: int, token: str, wishes: Sequence[str] = ()) -> list[str]:
    """JupyterLab's command line: `wishes` may change everything but the token, for a page that runs code must not go without."""
    chosen = [
        f"--ip={LOOPBACK}", f"--port={port}", "--ServerApp.port_retries=0", f"--ServerApp.root_dir={paths.project()}",
        f"--LabApp.default_url=/lab/tree/{FIRST}", "--KernelSpecManager.allowed_kernelspecs=python3", f"--LabApp.app_settings_dir={settings_folder()}",
    ]  # fmt: skip
    if os.geteuid() == 0:
        chosen.append("--allow-root")
    if remote(os.environ):
        chosen.append("--no-browser")
    chosen = [option for option in chosen if _name(option) not in set(map(_name, wishes))]
    return [*chosen, *(wish for wish in wishes if ".token=" not in wish), f"--IdentityProvider.token={token}"]


def _name(option: str) -> str:
    """`--ip` and `--ServerApp.ip` are one option."""
    return option.split("=")[0].replace("ServerApp.", "")


def settings_folder() -> Path:
    """Where JupyterLab finds SETTINGS."""
    return paths.home() / ".lab"


def remote(environment: Mapping[str, str]) -> bool:
    """Whether this shell was opened over ssh: the browser is then on another machine."""
    return "SSH_CONNECTION" in environment


def tunnel(port: int | str, environment: Mapping[str, str]) -> str:
    """The ssh line that makes `port` of this machine reachable as the same port of one's own."""
    here = environment["SSH_CONNECTION"].split()[2]  # client address, client port, server address, server port
    public = ipaddress.ip_address(here).is_global
    return f"ssh -N -L {port}:{LOOPBACK}:{port} {getpass.getuser()}@{here if public else '<the address that you logged in to>'}"


def wished(wishes: Sequence[str], name: str, default: str) -> str:
    """What the wishes say of `ip` or `port`, the last of them; the default if nothing."""
    found = default
    for wish, following in zip(wishes, [*wishes[1:], default], strict=False):
        key, equals, value = wish.partition("=")
        if key in (f"--{name}", f"--ServerApp.{name}"):
            found = value if equals else following
    return found


def welcome(port: int, token: str, environment: Mapping[str, str], wishes: Sequence[str] = ()) -> str:
    """Where to find the page, and from another machine: how. wishes: as in `options`."""
    address, port = wished(wishes, "ip", LOOPBACK), wished(wishes, "port", str(port))
    page = f"http://{LOOPBACK}:{port}/lab/tree/{FIRST}?token={token}"
    if address not in (LOOPBACK, "localhost", "::1"):
        page = page.replace(LOOPBACK, "<the address of this machine>" if address in EVERYWHERE else address, 1)
        return (
            f"JupyterLab: {page}\nIt listens at {address or '*'}, as you wished, and not on this machine alone: whoever reaches it and has the token "
            "runs code here. Ctrl-C twice ends it; a training that it started goes on."
        )
    if not remote(environment):
        return f"JupyterLab: {page}\nIt listens on this machine alone. Ctrl-C twice ends it; a training that it started goes on."
    return (
        f"JupyterLab listens on this instance alone. On your own machine, open a second terminal and keep this line running in it:\n\n"
        f"    {tunnel(port, environment)}\n\nthen open {page}\n"
        "Ctrl-C twice ends JupyterLab; a training that it started goes on."
    )


def open_lab(port: int | None = None, wishes: Sequence[str] = ()) -> None:
    """Start JupyterLab and stay with it until it ends. Errors: OSError if the wished port is taken."""
    from jupyterlab.labapp import LabApp

    if port is not None and free_port(port) != port:
        raise OSError(f"port {port} is taken; leave --port out, and a free one is found")
    port, token = port or free_port(), secrets.token_hex(24)
    files.write_json(settings_folder() / "overrides.json", SETTINGS)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, whatever kernels the user has
    print(welcome(port, token, os.environ, wishes), file=sys.stderr, flush=True)
    LabApp.launch_instance(argv=options(port, token, wishes))  # as an argument list of this process: `ps` does not show the token
