"""JupyterLab in a browser for these tests: open a notebook, run menu commands, wait for what the page shows."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import requests

from mistral_lib.commands import lab
from mistral_lib.run import paths

COMMAND = "apt-get install -y --no-install-recommends chromium"
CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome"))), None)
PATIENCE = 120  # seconds to wait for something to appear

CELLS = """() => window.jupyterapp.shell.currentWidget.content.widgets.filter(cell => cell.model.type === 'code').map(cell => ({
    count: cell.model.executionCount, source: cell.model.sharedModel.getSource(),
    outputs: cell.model.outputs.toJSON()}))"""
STATUS = "() => window.jupyterapp?.shell.currentWidget?.sessionContext?.session?.kernel?.status ?? 'none'"


def label(name: str) -> str:
    """The selector of a widget's label: its text is `name`, or the name of a parameter beside plain words."""
    text = json.dumps(name)
    return f":is(label:text-is({text}), label:has(span:text-is({text})))"


class Server:
    """`python -m mistral_lib lab` over one folder of notebooks; its kernels use the home of the tests.

    project: start that one's `lab` instead, over the folder that it opens by itself.
    """

    def __init__(self, folder: Path, theme: str = "JupyterLab Light", project: Path | None = None):
        quiet = {"notification": {"fetchNews": "false", "checkForUpdates": False, "doNotDisturbMode": True}, "themes": {"theme": theme}}
        for name, values in quiet.items():
            place = folder / ".settings" / "@jupyterlab" / "apputils-extension" / f"{name}.jupyterlab-settings"
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(json.dumps(values))
        environment = {**os.environ, "JUPYTERLAB_SETTINGS_DIR": str(folder / ".settings"), "PYTHONPATH": str(project or paths.project()),
                       "JUPYTERLAB_WORKSPACES_DIR": str(folder / ".workspaces"), "PYDEVD_DISABLE_FILE_VALIDATION": "1"}  # fmt: skip
        environment.pop("SSH_CONNECTION", None)
        command = [sys.executable, "-m", "mistral_lib", "lab", "--", "--port=18888", "--no-browser", "--LabApp.expose_app_in_browser=True"]
        command += [] if project else [f"--ServerApp.root_dir={folder}"]
        self.words = folder / ".server.out"
        with open(self.words, "wb") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=out, cwd=project, env=environment, start_new_session=True)
        self.port, self.token = self._address()

    def _address(self) -> tuple[int, str]:
        """Wait until the server has printed its port and token."""
        for _ in range(PATIENCE * 5):
            words = self.words.read_text()
            assert self.process.poll() is None, words
            if "is running at" in words:
                page = urlparse(words.split("JupyterLab: ")[1].split()[0])
                return page.port, page.query.removeprefix("token=")
            time.sleep(0.2)
        raise AssertionError(f"JupyterLab did not start: {self.words.read_text()}")

    def url(self, path: str) -> str:
        return f"http://{lab.LOOPBACK}:{self.port}/{path}"

    def api(self, method: str, path: str) -> Any:
        return requests.request(method, self.url(f"api/{path}"), headers={"Authorization": f"token {self.token}"}, timeout=60)

    def close_kernels(self) -> None:
        for session in self.api("GET", "sessions").json():
            self.api("DELETE", f"sessions/{session['id']}")

    def stop(self) -> None:
        self.close_kernels()
        os.killpg(self.process.pid, signal.SIGTERM)
        self.process.wait(timeout=60)


class Notebook:
    """One notebook open in one page."""

    def __init__(self, context: Any, server: Server, name: str):
        self.server, self.name = server, name
        self.page = context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.goto(server.url(f"lab/tree/{name}?reset&token={server.token}"))
        self.page.wait_for_function("() => !document.querySelector('#jupyterlab-splash')")
        self.page.wait_for_function(f"() => window.jupyterapp?.shell.currentWidget?.context?.path === '{name}'")
        self.page.wait_for_selector(".jp-Notebook .jp-Cell")

    def ready(self) -> "Notebook":
        """Wait until the kernel is idle."""
        self.wait(f"({STATUS})() === 'idle'")
        return self

    def wait(self, condition: str, seconds: float = PATIENCE) -> None:
        self.page.wait_for_function(f"() => {condition}", timeout=seconds * 1000)

    def do(self, command: str) -> None:
        """Start a command of JupyterLab's menu, without waiting for its end."""
        self.page.evaluate("command => { window.jupyterapp.commands.execute(command) }", command)

    def run_all(self, seconds: float = PATIENCE) -> "Notebook":
        """Run > Run All Cells, to the end."""
        self.ready().do("notebook:clear-all-cell-outputs")
        self.wait(f"({CELLS})().every(cell => !cell.count)")
        self.do("notebook:run-all-cells")
        self.wait(f"({CELLS})().every(cell => !cell.source.trim() || cell.count) && ({STATUS})() === 'idle'", seconds)
        return self

    def restart_kernel(self) -> None:
        """Kernel > Restart Kernel, confirmed."""
        self.do("kernelmenu:restart")
        self.page.click(".jp-Dialog button.jp-mod-accept")
        self.page.wait_for_selector(".jp-Dialog", state="detached")

    def shows(self, words: str, seconds: float = PATIENCE) -> None:
        """Wait until some widget shows these words."""
        self.page.wait_for_selector(f".jp-OutputArea-output .widget-html:has-text({json.dumps(words)})", timeout=seconds * 1000)

    def press(self, words: str) -> None:
        """Click the button with these words, once it is enabled."""
        self.page.click(f".jp-OutputArea-output button:has-text({json.dumps(words)})")

    def slide(self, name: str, key: str = "ArrowRight") -> None:
        """Move the slider of this name (its first handle) by a key."""
        self.page.press(f".widget-slider:has({label(name)}) .noUi-handle >> nth=0", key)

    def cells(self) -> list[dict[str, Any]]:
        return self.page.evaluate(CELLS)

    def errors(self) -> list[str]:
        """Every error output, as text."""
        return [f"{o['ename']}: {o['evalue']}" for cell in self.cells() for o in cell["outputs"] if o["output_type"] == "error"]

    def save(self) -> None:
        self.page.evaluate("() => window.jupyterapp.commands.execute('docmanager:save')")

    def close(self) -> None:
        self.page.close()
