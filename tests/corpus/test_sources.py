"""Which files a run reads: a missing one is reported, each has one name, and their order does not depend on that of the paths."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from mistral_lib.corpus import sources
from mistral_lib.corpus.sources import SourceError
from mistral_lib.run import paths
from tests.support.containers import LINES, ROWS, compressed


@pytest.fixture
def corpus(tmp_path: Path, monkeypatch) -> Path:
    """The workbook's home, with files to read."""
    monkeypatch.setenv(paths.VARIABLE, str(tmp_path))
    folder = tmp_path / "mine"
    for name in ("b.jsonl", "a.jsonl", "law/a.jsonl", "law/c.txt", ".hidden.jsonl", ".git/x.jsonl"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(LINES)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.jsonl").write_bytes(LINES)
    return tmp_path


def settings(*corpus_paths: str, operatives: tuple[str, ...] = ()) -> SimpleNamespace:
    reading = {"salvage": True, "pdf_characters": 0, "ocr": False, "columns": {}, "domain_key": "domain", "group_key": ""}
    return SimpleNamespace(corpus_paths=list(corpus_paths), operatives_paths=list(operatives), **reading)


def names(found: list[sources.SourceFile]) -> list[str]:
    return [file.name for file in found]


def test_files_folders_and_globs_relative_to_the_home(corpus):
    assert names(sources.find(["mine"], "corpus")) == ["a.jsonl", "b.jsonl", "law/a.jsonl", "law/c.txt"]
    assert names(sources.find(["mine/b.jsonl"], "corpus")) == ["b.jsonl"]
    assert names(sources.find([str(corpus / "mine" / "*.jsonl")], "corpus")) == ["a.jsonl", "b.jsonl"]
    assert names(sources.find(["mine/**/*.txt"], "corpus")) == ["c.txt"]


def test_a_file_named_twice_is_read_once(corpus):
    (corpus / "mine" / "link.jsonl").symlink_to(corpus / "mine" / "a.jsonl")
    found = sources.of_settings(settings("mine", "mine/a.jsonl", str(corpus / "mine"), operatives=("mine/b.jsonl",)))
    assert names(found) == ["a.jsonl", "b.jsonl", "law/a.jsonl", "law/c.txt"]
    assert {file.origin for file in found} == {"corpus"}


def test_a_longer_name_that_another_file_has_is_made_longer_too(corpus):
    for place in ("x/b/a.jsonl", "y/b/a.jsonl", "z/a.jsonl"):
        (corpus / place).parent.mkdir(parents=True)
        (corpus / place).write_text('{"text": "one"}\n')
    found = names(sources.of_settings(settings("x", "y/b", "z/a.jsonl")))
    assert len(set(found)) == 3 and set(found) == {"x/b/a.jsonl", "y/b/a.jsonl", "z/a.jsonl"}


def test_files_of_one_name_get_different_sources_in_any_order(corpus):
    forwards = sources.find(["mine", "other"], "corpus")
    backwards = sources.find(["other", "mine"], "corpus")
    assert forwards == backwards
    assert sorted(names(forwards)) == ["b.jsonl", "law/a.jsonl", "law/c.txt", "mine/a.jsonl", "other/a.jsonl"]
    both = sources.of_settings(settings("mine/a.jsonl", operatives=("other",)))
    assert [(file.name, file.origin) for file in both] == [("mine/a.jsonl", "corpus"), ("other/a.jsonl", "operatives")]
    assert len(sources.inputs(both)) == 2


def test_all_faults_of_all_parameters_are_in_one_message_with_what_to_do(corpus):
    (corpus / "empty").mkdir()
    (corpus / "zero.jsonl").touch()
    (corpus / "odd.docx").write_bytes(b"x")
    with pytest.raises(SourceError) as error:
        sources.of_settings(settings("mine", "nowhere.jsonl", "empty", "zero.jsonl", "no*.jsonl", operatives=("odd.docx", "demo:nonsense")))
    lines = str(error.value).splitlines()
    assert [line.split(" → ")[0] for line in lines] == [
        "corpus_paths: 'nowhere.jsonl'", "corpus_paths: 'empty'", "corpus_paths: 'zero.jsonl'", "corpus_paths: 'no*.jsonl'",
        "operatives_paths: 'odd.docx'", "operatives_paths: 'demo:nonsense'",
    ]  # fmt: skip
    assert "empty_file" in lines[2] and "unreadable_document" in lines[4] and str(corpus / "nowhere.jsonl") in lines[0]
    assert all("optional:" in line for line in lines)


def test_a_file_with_only_problems_is_refused(corpus):
    (corpus / "broken.jsonl").write_bytes(b"no\njson\n")
    with pytest.raises(SourceError, match=r"no row could be read.*not_json"):
        sources.find(["broken.jsonl"], "corpus")
    (corpus / "broken.jsonl").write_bytes(b"no\n" + LINES)  # a changed file is read again
    assert names(sources.find(["broken.jsonl"], "corpus")) == ["broken.jsonl"]


def test_optional_sources_may_be_missing_and_are_reported(corpus):
    (corpus / "zero.jsonl").touch()
    chosen = settings("mine/a.jsonl", "optional:nowhere", "optional:zero.jsonl", "optional:other", operatives=("optional:later.zip",))
    assert names(sources.of_settings(chosen)) == ["mine/a.jsonl", "other/a.jsonl"]
    absent = sources.resolve(chosen).absent
    assert [line.split(" is optional")[0] for line in absent] == [
        "corpus_paths: nowhere", "corpus_paths: zero.jsonl", "operatives_paths: later.zip"
    ]  # fmt: skip
    assert "nowhere is optional and was left out: no such file" in absent[0]


def test_a_corpus_of_absent_optional_sources_is_an_error(corpus):
    with pytest.raises(SourceError, match=r"corpus_paths: nothing to read.*nowhere"):
        sources.of_settings(settings("optional:nowhere", operatives=("mine",)))


def test_a_file_that_cannot_be_opened_is_not_skipped(corpus):
    (corpus / "mine" / "broken.jsonl").symlink_to(corpus / "gone.jsonl")
    with pytest.raises(SourceError, match="broken link"):
        sources.find(["mine"], "corpus")
    (corpus / "mine" / "broken.jsonl").unlink()
    os.mkfifo(corpus / "mine" / "pipe.jsonl")  # opening it would wait forever
    with pytest.raises(SourceError, match="neither a file nor a folder"):
        sources.find(["mine"], "corpus")


def test_a_file_deleted_after_listing_is_an_error_and_not_a_problem_row(corpus):
    (file,) = sources.find(["other"], "corpus")
    file.path.unlink()
    for use in (lambda: list(sources.rows(file)), lambda: sources.inputs([file])):
        with pytest.raises(SourceError, match=r"other/a\.jsonl \(corpus_paths\): cannot be read: No such file"):
            use()


def test_the_hash_of_the_inputs_follows_the_content(corpus):
    before = sources.inputs(sources.find(["mine"], "corpus"))
    (corpus / "mine" / "b.jsonl").write_bytes(LINES + LINES)
    after = sources.inputs(sources.find(["mine"], "corpus"))
    assert [name for name in before if before[name] != after[name]] == ["corpus/b.jsonl"]


def test_a_name_that_is_not_utf8_can_be_written(corpus):
    Path(os.fsdecode(os.fsencode(corpus) + b"/other/caf\xe9.jsonl")).write_bytes(LINES)
    found = sources.find(["other"], "corpus")
    assert names(found)[1].encode() == b"caf\\udce9.jsonl"
    assert [row.value for row in sources.rows(found[1])] == ROWS


def test_size_is_as_stored(corpus):
    (corpus / "z.jsonl.gz").write_bytes(compressed(LINES, "gzip"))
    (file,) = sources.find(["z.jsonl.gz"], "corpus")
    assert file.size == len(compressed(LINES, "gzip"))


def test_a_copy_comes_after_the_file_that_it_was_made_from(corpus):
    for name in ("faq (copy).jsonl", "faq.jsonl", "faq-2.jsonl"):
        (corpus / "mine" / name).write_bytes(LINES)
    assert names(sources.find(["mine"], "corpus"))[2:5] == ["faq.jsonl", "faq (copy).jsonl", "faq-2.jsonl"]
