"""make lab: JupyterLab is behind a token, listens on this machine only, and has the kernel of this environment."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import requests

from mistral_lib.commands import lab
from tests.browser.jupyterlab import Server


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory):
    running = Server(tmp_path_factory.mktemp("lab"))
    yield running
    running.stop()


def test_without_the_token_nothing_is_served(server: Server) -> None:
    assert len(server.token) == 48
    for address in ("api/kernelspecs", "api/contents", f"api/contents?token={'0' * 48}"):
        assert requests.get(server.url(address), timeout=30).status_code == 403
    page = requests.get(server.url(f"lab/tree/{lab.FIRST}"), timeout=30)
    assert "/login" in page.url, "the token is asked for first"
    assert server.api("GET", "contents").status_code == 200


def test_no_option_removes_the_token() -> None:
    chosen = lab.options("secret", 9999, ["--IdentityProvider.token=", "--ServerApp.token=", "--ip=0.0.0.0"])
    assert [option for option in chosen if "token" in option] == ["--IdentityProvider.token=secret"]
    assert [option for option in chosen if option.startswith("--ip")] == ["--ip=0.0.0.0"], "a public address only on request"


def test_it_listens_on_this_machine_only(server: Server) -> None:
    wanted = f":{server.port:04X}"
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6") if Path(f"/proc/net/{name}").exists()]
    local = [line.split()[1] for table in tables for line in table if line.split()[3] == "0A"]  # 0A: listening
    assert [address for address in local if address.endswith(wanted)] == [f"0100007F{wanted}"]


def test_the_only_kernel_is_that_of_this_environment(server: Server) -> None:
    specs = server.api("GET", "kernelspecs").json()
    assert list(specs["kernelspecs"]) == ["python3"] == [specs["default"]]


def test_a_requested_port_that_is_taken_is_reported() -> None:
    with socket.socket() as taken:
        taken.bind((lab.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        command = [sys.executable, "-m", "mistral_lib", "lab", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=dict(os.environ))
        assert done.returncode == 1 and f"port {port} is not available" in done.stderr


def test_over_ssh_it_prints_the_tunnel() -> None:
    text = lab.welcome(lab.LOOPBACK, 8890, "abc", {"SSH_CONNECTION": "203.0.113.5 50000 8.8.4.4 22"})
    assert "ssh -N -L 8890:127.0.0.1:8890 " in text and "@8.8.4.4" in text and "00_start_here.ipynb?token=abc" in text
    assert "@<the address" in lab.tunnel(8890, {"SSH_CONNECTION": "203.0.113.5 50000 172.31.7.9 22"}), (
        "a private address cannot be reached from outside"
    )
    assert "ssh" not in lab.welcome(lab.LOOPBACK, 8890, "abc", {})


@pytest.mark.parametrize("requested", [["--ip=0.0.0.0", "--port=9999"], ["--ServerApp.ip=0.0.0.0", "--port", "9999"]])
def test_requested_options_replace_its_own(requested: list[str]) -> None:
    chosen = lab.options("abc", 8890, requested)
    assert not {"--ip=127.0.0.1", "--port=8890"} & set(chosen) and set(requested) <= set(chosen)


def test_it_prints_who_can_reach_it() -> None:
    text = lab.welcome("0.0.0.0", 9999, "abc", {"SSH_CONNECTION": "203.0.113.5 50000 8.8.4.4 22"})
    assert (
        "http://<the address of this machine>:9999/" in text
        and "not on this machine only: anyone who reaches it and has the token runs code here" in text
    )
    assert "http://10.0.0.7:8890/" in lab.welcome("10.0.0.7", 8890, "abc", {})
    assert "http://127.0.0.1:8890/" in (local := lab.welcome("localhost", 8890, "abc", {})) and "It listens on this machine only." in local


def test_it_saves_every_10_seconds_and_fetches_no_news(server: Server) -> None:
    def default(plugin: str, name: str) -> object:
        address = server.url(f"lab/api/settings/@jupyterlab/{plugin}")
        answer = requests.get(address, headers={"Authorization": f"token {server.token}"}, timeout=30).json()
        return answer["schema"]["properties"][name]["default"]

    assert default("docmanager-extension:plugin", "autosaveInterval") == 10, "a closed page loses at most 10 seconds"
    assert default("apputils-extension:notification", "fetchNews") == "false"
