"""Results come back complete and verified, whatever cuts the fetch, and nothing that was here is lost."""

from pathlib import Path
from typing import Any

import pytest

from mistral_lib.aws.errors import AwsError
from mistral_lib.instance import records
from mistral_lib.rented_run import fetching
from mistral_lib.rented_run.fetching import FetchError
from mistral_lib.run import Run, files, params, paths
from tests.support import rented

RESULTS = {
    "params.yaml": b"run_name: small\n",
    "training/adapter/a.bin": b"a" * 1000,
    "training/checkpoints/1/b.bin": b"b",
    "log.txt": b"x",
}


def below(folder: Path) -> dict[str, bytes]:
    """The files of a folder without hidden ones and earlier results."""
    found = {str(path.relative_to(folder)): path for path in folder.rglob("*") if path.is_file() and not path.name.startswith(".")}
    return {name: path.read_bytes() for name, path in found.items() if not name.startswith("previous/")}


def test_a_trained_run_comes_back_and_the_audit_verifies_it(aws: Any, trained_run: Run) -> None:
    record = rented.rent()
    made = below(trained_run.folder)
    rented.put_results(record, made)
    trained_run.folder.rename(trained_run.folder.with_name("elsewhere"))
    fetched = fetching.fetch("small")
    expected = {name: content for name, content in made.items() if not name.startswith("training/checkpoints/")}
    assert below(paths.runs() / "small") == expected and fetched.count == len(expected)
    assert fetched.verified and "none missing, altered or stale" in str(fetched) and records.load("small").fetched
    assert fetching.fetch("small").verified  # again, without a download
    assert not list(paths.runs().glob(".small*"))


def test_results_of_an_unfinished_run_are_fetched_with_checkpoints_and_not_called_verified(aws: Any, home: Path) -> None:
    rented.put_results(rented.rent(), RESULTS, complete=False)
    fetched = fetching.fetch("small")
    assert below(home / "runs" / "small") == RESULTS and not fetched.verified and records.load("small").fetched is None
    assert "not complete yet" in str(fetched)


def test_a_local_result_that_differs_is_moved_and_one_that_was_fetched_is_replaced(aws: Any, home: Path) -> None:
    record, folder = rented.rent(), home / "runs" / "small"
    files.write_text(folder / "training" / "adapter" / "a.bin", "trained here")
    files.write_text(folder / "votes.jsonl", "mine")
    rented.put_results(record, RESULTS, complete=False)
    moved = fetching.fetch("small").moved
    assert (moved / "training" / "adapter" / "a.bin").read_text() == "trained here"
    assert below(folder) == RESULTS | {"votes.jsonl": b"mine"}
    newer = RESULTS | {"training/adapter/a.bin": b"c" * 1000}
    rented.put_results(record, newer, complete=False)
    assert fetching.fetch("small").moved is None and below(folder)["training/adapter/a.bin"] == b"c" * 1000


def test_a_cut_fetch_leaves_the_old_result_and_resumes(aws: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record, folder = rented.rent(), home / "runs" / "small"
    files.write_text(folder / "log.txt", "old")
    rented.put_results(record, RESULTS, complete=False)
    downloads: list[str] = []
    download = fetching.buckets.download

    def cut(bucket: str, key: str, *rest: Any) -> None:
        downloads.append(key)
        if len(downloads) == 3:
            raise AwsError("the network is gone", "ConnectionError")
        download(bucket, key, *rest)

    monkeypatch.setattr(fetching.buckets, "download", cut)
    with pytest.raises(AwsError, match="the network is gone"):
        fetching.fetch("small")
    assert below(folder) == {"log.txt": b"old"}
    fetching.fetch("small")
    assert below(folder) == RESULTS and len(downloads) == len(RESULTS) + 1  # only the cut one is asked for again


def test_a_process_that_is_killed_while_moving_loses_nothing(aws: Any, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rented.put_results(rented.rent(), RESULTS, complete=False)
    removed = iter(range(100))

    def killed(path: Path) -> None:
        if next(removed) == 3:
            raise KeyboardInterrupt
        remove(path)

    remove = fetching._remove
    monkeypatch.setattr(fetching, "_remove", killed)
    with pytest.raises(KeyboardInterrupt):
        fetching.fetch("small")
    assert fetching.fetch("small").moved is None and below(home / "runs" / "small") == RESULTS


def test_a_damaged_object_is_named_and_nothing_is_replaced(aws: Any, home: Path) -> None:
    record = rented.rent()
    rented.put_results(record, RESULTS)
    rented.put(record, "results/log.txt", b"y")
    with pytest.raises(AwsError, match=r"results/log\.txt has the SHA-256"):
        fetching.fetch("small")
    assert not (home / "runs" / "small" / "log.txt").exists()


def test_while_the_machine_works_a_newer_file_than_the_listed_one_is_taken(aws: Any, home: Path) -> None:
    record = rented.rent()
    rented.put_results(record, RESULTS, complete=False)
    rented.put(record, "results/log.txt", b"y")
    fetching.fetch("small")
    assert (home / "runs" / "small" / "log.txt").read_bytes() == b"y"


def test_without_results_or_with_names_that_leave_the_folder_nothing_is_fetched(aws: Any, home: Path) -> None:
    record = rented.rent()
    with pytest.raises(FetchError, match="nothing in s3://"):
        fetching.fetch("small")
    rented.put_results(record, {"../other/a": b""})
    with pytest.raises(FetchError, match=r"outside the run folder: \.\./other/a"):
        fetching.fetch("small")


def test_a_run_that_works_here_is_left_alone(aws: Any, home: Path) -> None:
    rented.put_results(rented.rent(), RESULTS)
    here = Run(home / "runs" / "small", params.Settings())
    with here.lock("stage training"), pytest.raises(RuntimeError, match="in use by process"):
        fetching.fetch("small")
