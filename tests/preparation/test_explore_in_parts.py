"""The corpus stage in parts: the same bytes however the corpus is cut, resumed after a kill, with no text of the corpus on disk."""

import gzip
import os
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import numpy as np
import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mistral_lib.corpus import stretches, unmapped_rows
from mistral_lib.curation.splits import unit_hash
from mistral_lib.preparation import explore, prepare
from mistral_lib.preparation.part_cache import PartCache
from mistral_lib.preparation.record_store import PART
from mistral_lib.preparation.survey import inventory, length_sample, row_facts
from mistral_lib.run import Run, files, params
from tests.support.corpora import artefacts, files_with, other, rows

NAMES = ("inventory.json", "index.parquet", "lengths.parquet")


def made(run: Run) -> dict[str, bytes]:
    """The artefacts of the corpus stage."""
    explore.explore(run)
    return {name: (run.folder / "corpus" / name).read_bytes() for name in NAMES}


@pytest.fixture
def parted(corpus: Path, settings: params.Settings) -> Run:
    """A run that is not explored yet, on a corpus of two files, of which one is read in two parts."""
    files.write_json_lines(corpus / "red.jsonl", rows("red", 400))
    with gzip.open(corpus / "blue.jsonl.gz", "wb") as file:
        file.write(b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows("blue", PART + 300)))
    return Run.open(settings.model_copy(update={"run_name": "parted"}))


def test_a_killed_stage_resumes_and_the_bytes_are_the_same(parted: Run, capsys: pytest.CaptureFixture) -> None:
    expected = made(other(parted, run_name="undisturbed"))
    code = "from mistral_lib.preparation import explore; from mistral_lib.run import Run; from pathlib import Path; import sys; explore.explore(Run.existing(Path(sys.argv[1])))"
    process = subprocess.Popen([sys.executable, "-c", code, str(parted.folder)], stderr=subprocess.DEVNULL, env=dict(os.environ))
    work, deadline = parted.folder / ".corpus.work", time.monotonic() + 120
    while not list(work.glob("rows-*/complete.json")) and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert parted.status("corpus") == "interrupted" and list(work.glob("rows-*/complete.json"))
    capsys.readouterr()
    assert made(parted) == expected
    assert "rows were read before and are reused" in capsys.readouterr().err and not work.exists()


def test_a_part_that_was_altered_is_made_again(parted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = made(other(parted, run_name="undisturbed"))
    with monkeypatch.context() as patched:
        patched.setattr(explore.inventory.Inventory, "entries", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            explore.explore(parted)
    index = parted.folder / ".corpus.work" / "rows-00000-001" / row_facts.INDEX
    index.write_bytes(index.read_bytes()[:-1] + b"x")
    assert made(parted) == expected


@pytest.mark.parametrize("facts", [b'{"files":[],"rows":9,"endee":true}', b"[]", b'{"ended":"x","rows":1}'])
def test_facts_that_were_altered_into_other_json_are_made_again(parted: Run, monkeypatch: pytest.MonkeyPatch, facts: bytes) -> None:
    expected = made(other(parted, run_name="undisturbed"))
    with monkeypatch.context() as patched:
        patched.setattr(explore.inventory.Inventory, "entries", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt()))
        with pytest.raises(KeyboardInterrupt):
            explore.explore(parted)
    work = parted.folder / ".corpus.work"
    (work / "rows-00000-000" / "facts.json").write_bytes(facts)
    (work / "rows-00000-001" / "complete.json").write_bytes(b"[]")
    assert made(parted) == expected


def test_what_is_altered_whenever_it_is_written_is_an_error(parted: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(PartCache, "facts", lambda self, name: None)
    with pytest.raises(OSError, match=r"altered when it is read again: the disk may be failing"):
        explore.explore(parted)


def test_a_key_of_documents_is_a_parameter_of_the_stage(corpus: Path, settings: params.Settings) -> None:
    files.write_json_lines(corpus / "shelved.jsonl", [{**row, "shelf": n % 9} for n, row in enumerate(rows("red", 90))])
    run = Run.open(settings)
    assert explore.explore(run)["totals"]["unused_keys"]["shelf"] == 90
    assert "shelf" not in explore.explore(other(run, group_key="shelf"))["totals"]["unused_keys"]


def test_the_sample_is_that_of_the_smallest_hashes_however_the_corpus_is_cut(
    corpus: Path, settings: params.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for domain in ("red", "green", "blue"):
        files.write_json_lines(corpus / f"{domain}.jsonl", rows(domain, 400))
    monkeypatch.setattr(length_sample, "SIZE", 50)
    counted, count = [], length_sample.Tokenizers.mistral_counts
    monkeypatch.setattr(length_sample.Tokenizers, "mistral_counts", lambda self, texts: counted.extend(texts) or count(self, texts))
    found = []
    for size in (10**9, 60_000, 3_000):
        monkeypatch.setattr(stretches, "SIZE", size)
        found.append(made(Run.open(settings.model_copy(update={"run_name": f"cut-{size}"}))))
        assert len(counted) < 400, "of 1200 rows few are counted"
        counted.clear()
    assert found[0] == found[1] == found[2]
    run = Run.open(settings.model_copy(update={"run_name": "cut-3000"}))
    every = pq.read_table(run.folder / "corpus" / "index.parquet")["source"].to_pylist()
    sampled = pq.read_table(run.folder / "corpus" / "lengths.parquet")["source"].to_pylist()
    assert sampled == sorted(sorted(every, key=unit_hash)[:50])


def test_more_names_than_are_counted_are_the_same_however_the_corpus_is_cut(
    corpus: Path, settings: params.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(unmapped_rows, "MOST_COUNTED", 60)
    monkeypatch.setattr(unmapped_rows, "MOST_NAMES", 20)
    keyed = [{**row, f"key{n % 90}": n, "always": 1} for n, row in enumerate(rows("red", 900))]
    strange = [{f"odd{n % 70}": "what", f"odd{n % 7}": "ever"} for n in range(300)]
    files.write_json_lines(corpus / "keyed.jsonl", keyed)
    files.write_json_lines(corpus / "strange.jsonl", strange)
    found = []
    for size in (10**9, 20_000, 3_000):
        monkeypatch.setattr(stretches, "SIZE", size)
        run = Run.open(settings.model_copy(update={"run_name": f"cut-{size}", "max_rejected_share": 0.9}))
        prepare.prepare(run)
        found.append((made(run), artefacts(run)))
    assert found[0] == found[1] == found[2]
    named = found[0][1]["report"]["unused_keys"]
    assert named["always"] == 900 and len(named) == 21
    assert sum(named.values()) == 2 * 900 + sum(len(row) for row in strange), "none is lost: the rest are counted together"


def test_no_text_of_the_corpus_is_in_a_part_and_no_secret_in_a_label(
    corpus: Path, settings: params.Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = "AKIA" + "Q7ZD3RWX5TUV2MNB"
    said = ("no idea", f"use {secret} please", f"use {secret[:-1]}C please")
    labeled = [{"prompt": f"Where do I write about part {n} of it?", "completion": said[n % 3]} for n in range(60)]
    files.write_json_lines(corpus / "labels.jsonl", labeled)
    files.write_json_lines(corpus / "long.jsonl", [{"prompt": f"What is {n}?", "completion": f"{'word ' * 200}{secret}"} for n in range(9)])
    monkeypatch.setattr(PartCache, "discard", lambda self: None)
    run = Run.open(settings)
    inventoried = explore.explore(run)
    assert inventoried["totals"]["label_domains"]["labels"]["labels"] == {"use <AWS_KEY> please": 40, "no idea": 20}
    files.write_json_lines(corpus / "one_word.jsonl", [{"prompt": f"What is {n}?", "completion": f"{'Zm9v' * 500}{n}"} for n in range(9)])
    assert (run.folder / ".corpus.work").is_dir() and files_with(run.folder, secret, "word word", "Zm9v" * 200) == []


@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3)), max_size=40).map(lambda found: sorted(found, key=lambda one: one[1])))
def test_repeats_are_those_of_a_plain_count(records: list[tuple[int, int]]) -> None:
    names, seen = ["a", "b", "c", "d"], {}
    expected: dict[str, Counter] = {name: Counter() for name in names}
    for key, file in records:
        if key in seen:
            expected[names[file]][names[seen[key]]] += 1
        seen.setdefault(key, file)
    key, file = (
        np.array(values, kind) for values, kind in zip(zip(*records, strict=True) if records else ((), ()), ("u8", "i4"), strict=True)
    )
    assert inventory.repeats(key, file, names) == expected
