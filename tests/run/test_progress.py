"""Progress bars: only slow work shows one."""

import time

import pytest

from mistral_lib.run import progress


def test_fast_work_shows_no_bar_and_slow_work_does(capfd: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(progress.bar(range(5), "quick")) == list(range(5))
    assert capfd.readouterr().err == "", "a notebook would keep it as an empty line of stderr"
    monkeypatch.setattr(progress, "INTERVAL", 0.05)
    for notebook in (False, True):
        monkeypatch.setattr(progress, "in_notebook", lambda notebook=notebook: notebook)
        for _ in progress.bar(range(4), "slow"):
            time.sleep(0.1)
        assert ("slow" in capfd.readouterr().err) == notebook, "a log file gets no bar"
