"""JupyterLab at the first working copy, with this environment's Python. It listens on this machine only and asks for a token.

Over ssh it prints the line that forwards the page to one's own machine.
"""

import getpass
import ipaddress
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from mistral_lib.commands import workbook
from mistral_lib.run import files, paths

LOOPBACK = "127.0.0.1"
EVERYWHERE = ("0.0.0.0", "::", "*", "")  # every address that this machine has
FIRST = "workbook/00_start_here.ipynb"  # below JupyterLab's root, which is the workbook's home
BOOK = "mistral_lib.commands.read_only_book.ReadOnlyBook"
OVER_SSH = "SSH_CONNECTION"  # set in a shell that was opened over ssh: the browser is on another machine
SETTINGS = {  # JupyterLab's defaults for this workbook; a user's own settings win
    "@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False},
    "@jupyterlab/docmanager-extension:plugin": {"autosaveInterval": 10},  # seconds: a page closed during training comes back as it was
}


def open_lab(port: int | None = None, requested: Sequence[str] = (), fresh: bool = False) -> None:
    """Copy the notebooks to workbook/, start JupyterLab and wait until it ends.

    It takes the first free port from 8888 on; a requested port that is taken ends it. fresh: as in `workbook.refresh`.
    """
    from jupyterlab.labapp import LabApp

    copied = workbook.refresh(fresh)
    files.write_json(settings_folder() / "overrides.json", SETTINGS)
    os.environ["JUPYTER_PREFER_ENV_PATH"] = "1"  # the kernel of this environment, whatever kernels the user has
    token = secrets.token_hex(24)
    server = LabApp.initialize_server(argv=options(token, port, requested))  # an argument list inside this process: `ps` does not show it
    print(welcome(server.ip, server.port, token, os.environ), *copied, sep="\n", file=sys.stderr, flush=True)
    server.start()


def options(token: str, port: int | None = None, requested: Sequence[str] = ()) -> list[str]:
    """JupyterLab's command line. `requested` may change everything except the token: a page that runs code must not go without.

    Address and token are JupyterLab's defaults, given here because a user's configuration file may hold others.
    """
    own = [
        f"--ip={LOOPBACK}", f"--ServerApp.root_dir={paths.home()}", f"--LabApp.default_url=/lab/tree/{FIRST}",
        f"--ServerApp.contents_manager_class={BOOK}",
        "--KernelSpecManager.allowed_kernelspecs=python3", f"--LabApp.app_settings_dir={settings_folder()}",
    ]  # fmt: skip
    own += [f"--port={port}", "--ServerApp.port_retries=0"] if port else []
    own += ["--allow-root"] if os.geteuid() == 0 else []
    own += ["--no-browser"] if OVER_SSH in os.environ else []
    names = set(map(_name, requested))
    kept = [option for option in requested if ".token=" not in option]
    return [*(option for option in own if _name(option) not in names), *kept, f"--IdentityProvider.token={token}"]


def _name(option: str) -> str:
    """`--ip` and `--ServerApp.ip` are one option."""
    return option.split("=")[0].replace("ServerApp.", "")


def settings_folder() -> Path:
    """Where JupyterLab finds SETTINGS."""
    return paths.home() / ".lab"


def welcome(address: str, port: int, token: str, environment: Mapping[str, str]) -> str:
    """Where the page is, who can reach it, and how to reach it from another machine."""
    local = address in (LOOPBACK, "localhost", "::1")
    host = LOOPBACK if local else "<the address of this machine>" if address in EVERYWHERE else address
    page = f"http://{host}:{port}/lab/tree/{FIRST}?token={token}"
    if not local:
        reach = f"It listens at {address or '*'}, as requested, not on this machine only: anyone who reaches it and has the token runs code here."
    elif OVER_SSH in environment:
        reach = f"It listens on this instance only. On your own machine, keep this line running in a second terminal:\n\n    {tunnel(port, environment)}\n"
    else:
        reach = "It listens on this machine only."
    return f"JupyterLab: {page}\n{reach}\nCtrl-C twice ends it; a training that it started continues."


def tunnel(port: int, environment: Mapping[str, str]) -> str:
    """The ssh line that makes `port` of this machine reachable as the same port of one's own."""
    here = environment[OVER_SSH].split()[2]  # client address, client port, server address, server port
    public = ipaddress.ip_address(here).is_global
    return f"ssh -N -L {port}:{LOOPBACK}:{port} {getpass.getuser()}@{here if public else '<the address that you logged in to>'}"
