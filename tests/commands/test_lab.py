"""make lab: a page that runs code is behind a token, on this machine alone, with this environment's kernel."""

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
    assert "/login" in page.url, "asked for the token first"
    assert server.api("GET", "contents").status_code == 200


def test_no_user_setting_takes_the_token_away(tmp_path: Path) -> None:
    chosen = lab.options(9999, "secret", ["--IdentityProvider.token=", "--ip=0.0.0.0"])
    assert [option for option in chosen if "token" in option] == ["--IdentityProvider.token=secret"]
    assert [option for option in chosen if option.startswith("--ip")] == ["--ip=0.0.0.0"], "a public address only on one's own wish"


def test_it_listens_on_this_machine_alone(server: Server) -> None:
    wanted = f":{server.port:04X}"
    tables = [Path(f"/proc/net/{name}").read_text().splitlines()[1:] for name in ("tcp", "tcp6") if Path(f"/proc/net/{name}").exists()]
    local = [line.split()[1] for table in tables for line in table if line.split()[3] == "0A"]  # 0A: listening
    assert [address for address in local if address.endswith(wanted)] == [f"0100007F{wanted}"]


def test_the_one_kernel_is_this_environments(server: Server) -> None:
    specs = server.api("GET", "kernelspecs").json()
    assert list(specs["kernelspecs"]) == ["python3"] == [specs["default"]]


def test_a_taken_port_is_told_and_passed_over() -> None:
    with socket.socket() as taken:
        taken.bind((lab.LOOPBACK, 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert lab.free_port(port) > port
        command = [sys.executable, "-m", "mistral_lib", "lab", "--port", str(port)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=dict(os.environ))
        assert done.returncode == 1 and f"port {port} is taken" in done.stderr


def test_over_ssh_it_says_the_tunnel() -> None:
    words = lab.welcome(8890, "abc", {"SSH_CONNECTION": "203.0.113.5 50000 8.8.4.4 22"})
    assert "ssh -N -L 8890:127.0.0.1:8890 " in words and "@8.8.4.4" in words and "00_start_here.ipynb?token=abc" in words
    assert "@<the address" in lab.tunnel(8890, {"SSH_CONNECTION": "203.0.113.5 50000 172.31.7.9 22"}), "a private address is of no use"
    assert "ssh" not in lab.welcome(8890, "abc", {})


@pytest.mark.parametrize("wishes", [["--ip=0.0.0.0", "--port=9999"], ["--ServerApp.ip=0.0.0.0", "--port", "9999"]])
def test_what_it_says_is_what_was_wished(wishes: list[str]) -> None:
    assert not {"--ip=127.0.0.1", "--port=8890"} & set(lab.options(8890, "abc", wishes))
    words = lab.welcome(8890, "abc", {}, wishes)
    assert "http://<the address of this machine>:9999/" in words and "8890" not in words
    assert "listens at 0.0.0.0, as you wished, and not on this machine alone" in words and "It listens on this machine alone" not in words
    assert "http://10.0.0.7:8890/" in lab.welcome(8890, "abc", {}, ["--ip=10.0.0.7"])
    assert "ssh -N -L 9999:127.0.0.1:9999 " in lab.welcome(8890, "abc", {"SSH_CONNECTION": "203.0.113.5 50000 8.8.4.4 22"}, ["--port=9999"])
    assert "It listens on this machine alone" in lab.welcome(8890, "abc", {}, ["--ip=localhost", "--debug"])


def test_it_saves_often_and_asks_about_no_news(server: Server) -> None:
    def default(plugin: str, name: str) -> object:
        address = server.url(f"lab/api/settings/@jupyterlab/{plugin}")
        answer = requests.get(address, headers={"Authorization": f"token {server.token}"}, timeout=30).json()
        return answer["schema"]["properties"][name]["default"]

    assert default("docmanager-extension:plugin", "autosaveInterval") == 10, "a closed page is found as it was"
    assert default("apputils-extension:notification", "fetchNews") == "false"
