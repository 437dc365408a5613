"""The metadata service and the watch for spot notices."""

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from mistral_lib.on_machine import spot
from mistral_lib.on_machine.folders import Folders
from mistral_lib.on_machine.metadata import Metadata, MetadataError
from tests.support.metadata_server import INSTANCE, metadata_server


def test_facts_are_read_with_a_token_and_again_after_it_has_expired() -> None:
    with metadata_server() as server:
        metadata = Metadata(server.url)
        assert (metadata.instance_id(), metadata.spot_notice(), metadata.rebalance()) == (INSTANCE, None, None)
        server.expire_tokens()
        server.take_away()
        assert metadata.spot_notice()["action"] == "terminate"


def test_the_endpoint_of_the_environment_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    with metadata_server() as server:
        monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", server.url + "/")
        assert Metadata().instance_id() == INSTANCE


def test_an_absent_service_is_an_error_that_names_it() -> None:
    with pytest.raises(MetadataError, match=r"http://127\.0\.0\.1:9 does not answer"):
        Metadata("http://127.0.0.1:9", timeout=0.5).spot_notice()


def test_a_notice_that_is_no_json_is_an_error_and_not_a_notice() -> None:
    with metadata_server() as server:
        server.facts["spot/instance-action"] = "<html>"
        with pytest.raises(MetadataError, match="no JSON object"):
            Metadata(server.url).spot_notice()


def test_a_notice_is_written_down_and_the_run_gets_sigterm(folders: Folders, program: Callable[..., Path]) -> None:
    calls = program("systemctl")
    with metadata_server() as server:
        server.recommend_rebalance()
        pauses: list[float] = []

        def pause(seconds: float) -> None:
            pauses.append(seconds)
            if len(pauses) == 3:
                server.take_away()

        spot.watch(folders, Metadata(server.url), pause)
    assert pauses == [5.0, 5.0, 5.0], "every five seconds"
    assert '"terminate"' in folders.notice.read_text() and "noticeTime" in folders.rebalance.read_text()
    assert calls.read_text() == "kill --signal=SIGTERM mistral-run.service\n"


def test_a_notice_before_there_is_a_run_is_written_down_too(folders: Folders, program: Callable[..., Path]) -> None:
    program("systemctl", "echo 'Unit mistral-run.service not loaded.' >&2; exit 1")
    with metadata_server() as server:
        server.take_away()
        spot.watch(folders, Metadata(server.url))
    assert folders.notice.exists()


def test_without_a_metadata_service_the_watch_goes_on_and_says_so_once(
    folders: Folders, program: Callable[..., Path], capsys: pytest.CaptureFixture[str]
) -> None:
    program("systemctl")
    asked = threading.Event()
    with metadata_server() as server:
        metadata = Metadata("http://127.0.0.1:9", timeout=0.5)

        def pause(_: float) -> None:
            if asked.is_set():
                server.take_away()
                metadata.endpoint = server.url
            asked.set()

        spot.watch(folders, metadata, pause)
    assert capsys.readouterr().out.count("does not answer") == 1
    assert folders.notice.exists()
