"""The corpus explorer, operated through its Python objects: what it shows, and what it writes."""

import random
import re
import string

import numpy as np
import orjson
import pytest

from mistral_lib.corpus import exclusions, sources
from mistral_lib.curation import similarity
from mistral_lib.display.corpus_explorer import CorpusExplorer
from mistral_lib.model import base_model
from mistral_lib.preparation import explore
from mistral_lib.preparation.survey import corpus_index
from mistral_lib.preparation.survey.corpus_index import PAGE, CorpusIndex, near_copies
from mistral_lib.run import Run, files
from tests.support.corpora import deep_lines, rows

TOKEN = "gh" + "p_" + "".join(random.Random(7).choices(string.ascii_letters + string.digits, k=36))


@pytest.fixture
def run(settings, corpus) -> Run:
    """The small corpus, and a file with a row of unknown shape, a line cut short, a long text and a secret."""
    odd = [
        {"color": "blue"},
        {"text": "long " * 500, "domain": "stories"},
        {"prompt": "Which key?", "completion": f"Use {TOKEN} for it, please."},
    ]
    files.write_bytes(corpus / "strange.jsonl", b"".join(orjson.dumps(row) + b"\n" for row in odd) + b'{"prompt": "half')
    run = Run.open(settings)
    explore.explore(run)
    return run


@pytest.fixture
def explorer(run: Run) -> CorpusExplorer:
    index = CorpusIndex(run.folder / "corpus", sources.of_settings(run.settings), run.settings)
    return CorpusExplorer(index, base_model.load_tokenizer(run.settings.base_model))


def test_files_whose_rows_are_all_in_earlier_ones_are_reported(settings, corpus) -> None:
    red, blue = ([{**row, "page": 2} for row in files.read_json_lines(corpus / f"{name}.jsonl")] for name in ("red", "blue"))
    files.write_json_lines(corpus / "s_metadata.jsonl", red)  # as red.jsonl except for a page number
    files.write_json_lines(corpus / "t_two_of_one.jsonl", red[:50] + blue[:30] + red[:2])
    files.write_json_lines(corpus / "u_one_new.jsonl", [*red[:50], {"text": "One row that stands nowhere else."}])
    files.write_json_lines(corpus / "v_own_repeats.jsonl", [{"text": "A text that says this twice."}] * 2)
    files.write_json_lines(corpus / "w_one_unusable.jsonl", [*red[:50], {"color": "blue"}])
    entries = explore.explore(Run.open(settings))["files"]
    assert explore.contained(entries) == ["s_metadata.jsonl", "t_two_of_one.jsonl"]
    assert {entry["name"]: entry["repeats"] for entry in entries}["t_two_of_one.jsonl"] == {"red.jsonl": 52, "blue.jsonl": 30}


def test_it_opens_at_a_record_and_steps_through(explorer: CorpusExplorer) -> None:
    assert "604 of 604 rows" in explorer.status.value and "blue.jsonl:1 " in explorer.head.value
    assert explorer.previous.disabled and not explorer.next.disabled
    explorer.next.click()
    assert "blue.jsonl:2 " in explorer.head.value and explorer.place.value == 2
    explorer.place.value = 604
    assert "strange.jsonl:4" in explorer.head.value and explorer.next.disabled
    explorer.next.click()
    assert explorer.place.value == 604
    explorer.previous.click()
    assert "strange.jsonl:3" in explorer.head.value


def test_it_opens_at_the_first_record_and_hides_panels_without_content(corpus, run: Run) -> None:
    (corpus / "a_broken.pdf").write_bytes(b"no PDF")
    explorer = CorpusExplorer(reopened(run), base_model.load_tokenizer(run.settings.base_model))
    assert "blue.jsonl:1 " in explorer.head.value and explorer.place.value == 2 and "605 of 605 rows" in explorer.status.value
    explorer.previous.click()
    assert "a_broken.pdf" in explorer.head.value and "nothing of it could be read" in explorer.raw.value
    assert "no record:" in explorer.record.value and "no tokens:" in explorer.tokens.value and explorer.panels.layout.display == ""
    explorer.query.value = "nowhere in any row"
    assert explorer.panels.layout.display == "none", "three empty boxes tell nothing"
    explorer.query.value = ""
    assert explorer.panels.layout.display == ""


def test_the_panels_say_that_secrets_and_personal_data_are_removed_from_view(corpus, settings) -> None:
    address = "jane.doe" + "@" + "acme-works.org"
    files.write_json_lines(corpus / "a.jsonl", [{"prompt": "Whom do I ask?", "completion": f"Write to {address} about it, please."}])
    for action, remark in (("redact", "redacted"), ("off", "removed from view"), ("reject", "removed from view")):
        run = Run.open(settings.model_copy(update={"personal_data": action}))
        explorer = CorpusExplorer(reopened(run), base_model.load_tokenizer(settings.base_model))
        assert "a.jsonl:1 " in explorer.head.value and "as a raw row</b> (secrets and personal data that" in explorer.raw.value
        assert "&lt;EMAIL&gt;" in explorer.raw.value and remark in explorer.record.value
        shown = "".join(re.sub("<[^>]+>", "", panel.value) for panel in (explorer.raw, explorer.record, explorer.tokens)) + explorer.plain
        assert address not in shown and "doe" not in shown, "the tokens show none either, whatever the parameters keep"


def test_raw_row_record_and_graded_tokens_are_shown_side_by_side(explorer: CorpusExplorer) -> None:
    assert "&quot;completion&quot;" in explorer.raw.value and "[user]" in explorer.record.value
    graded, everything = map(int, re.search(r"(\d+) of (\d+) tokens graded", explorer.tokens.value).groups())
    assert 0 < graded < everything
    assert explorer.tokens.value.count("background:#cdebc5") == graded, "a colored span for each graded token"


def test_each_filter_selects_the_matching_rows(explorer: CorpusExplorer) -> None:
    explorer.choices["file"].value = "red.jsonl"
    assert "200 of 604" in explorer.status.value and "red.jsonl:1 " in explorer.head.value
    explorer.choices["file"].value, explorer.choices["domain"].value = "", "stories"
    assert "1 of 604" in explorer.status.value and "strange.jsonl:2" in explorer.head.value
    explorer.choices["domain"].value, explorer.choices["problem"].value = "", "any"
    assert "2 of 604" in explorer.status.value
    explorer.choices["problem"].value = "unknown_shape"
    assert "1 of 604" in explorer.status.value and "unknown_shape" in explorer.record.value and "blue" in explorer.raw.value
    explorer.choices["problem"].value, explorer.choices["shape"].value = "", "text"
    assert "1 of 604" in explorer.status.value
    explorer.choices["shape"].value = ""
    explorer.length.value = (1000, explorer.length.options[-1][1])
    assert "1 of 604" in explorer.status.value and "2,499 characters" in explorer.head.value
    explorer.choices["file"].value = "red.jsonl"
    assert "0 of 604" in explorer.status.value and "no row passes the filters" in explorer.head.value and explorer.exclude.disabled


def test_the_search_finds_what_a_plain_loop_finds_within_the_filters(explorer: CorpusExplorer, corpus) -> None:
    expected = [
        line for name in ("blue", "green", "red") for line in (corpus / f"{name}.jsonl").read_text().splitlines() if "kernel_1" in line
    ]
    explorer.query.value = "KERNEL_1"
    assert f"{len(expected)} of 604" in explorer.status.value
    explorer.choices["file"].value = "green.jsonl"
    assert f"{sum('green' in line for line in expected)} of 604" in explorer.status.value
    explorer.query.value = "nowhere in any row"
    assert "0 of 604" in explorer.status.value


def test_excluding_writes_the_file_at_once_and_including_again_undoes_it(explorer: CorpusExplorer, run: Run) -> None:
    place = run.folder / "excluded.txt"
    explorer.place.value = 5
    record_id = re.search("record_id ([0-9a-f]{16})", explorer.head.value).group(1)
    explorer.exclude.click()
    assert exclusions.read(place) == {record_id: "blue.jsonl:5"}
    assert (
        explorer.exclude.description == "include it again"
        and "1 excluded by hand" in explorer.status.value
        and "excluded" in explorer.head.value
    )
    exclusions.write(place, {**exclusions.read(place), "red.jsonl:9": "typed by hand"})
    explorer.exclude.click()
    assert exclusions.read(place) == {"red.jsonl:9": "typed by hand"}, "other lines of the file stay"
    explorer.place.value = 604
    assert explorer.exclude.disabled, "a row that is not a record cannot be excluded"


def test_a_record_excluded_by_its_source_can_be_included_again_and_comments_stay(explorer: CorpusExplorer, run: Run) -> None:
    place = run.folder / "excluded.txt"
    place.write_text("# why: it is about another product\n\nblue.jsonl:1  # by hand\n")
    explorer.place.value = 2
    explorer.place.value = 1
    assert explorer.exclude.description == "include it again"
    explorer.exclude.click()
    assert exclusions.read(place) == {} and explorer.exclude.description == "exclude this record"
    explorer.exclude.click()
    assert list(exclusions.read(place).values()) == ["blue.jsonl:1"]
    assert place.read_text().startswith("# why: it is about another product\n\n"), "comments of the user stay"


def test_near_duplicates_are_shown_and_excluded_with_the_record(explorer: CorpusExplorer, run: Run, corpus) -> None:
    words = [f"word{n}" for n in range(40)]
    texts = {
        "first": words,
        "near": [*words[:-1], "else"],
        "far": [*words[:20], *(f"other{n}" for n in range(20))],
        "again": [word.upper() for word in words],
    }
    asked = [{"prompt": "Which words are these?", "completion": " ".join(text)} for text in texts.values()]
    other = {"prompt": "And which are those?", "completion": " ".join(words)}  # the same answer to another question is no near-duplicate
    files.write_json_lines(corpus / "alike.jsonl", [*asked, other])
    index = reopened(run)
    explorer = CorpusExplorer(index, explorer.tokenizer)
    explorer.choices["file"].value = "alike.jsonl"
    assert explorer.exclude_all.layout.display == "none", "hidden until near-duplicates were searched for"
    explorer.near_duplicates.click()
    explorer.near_search.wait()
    assert "a record and its 2 near-duplicates; 0 excluded" in explorer.status.value and explorer.exclude_all.layout.display == ""
    assert [index.entry(n).source for n in explorer.numbers.tolist()] == ["alike.jsonl:1", "alike.jsonl:2", "alike.jsonl:4"]
    explorer.exclude_all.click()
    assert sorted(exclusions.read(run.folder / "excluded.txt").values()) == ["alike.jsonl:1", "alike.jsonl:2", "alike.jsonl:4"]
    assert "3 excluded by hand" in explorer.status.value
    explorer.choices["file"].value = "red.jsonl"
    explorer.near_duplicates.click()
    explorer.near_search.wait()
    assert "no near-duplicates of this record" in explorer.status.value and len(explorer.numbers) == 200, (
        "the same rows are shown as before"
    )
    explorer.choices["file"].value = ""
    assert "609 of 609 rows" in explorer.status.value and explorer.exclude_all.layout.display == "none"


def test_the_near_duplicates_are_those_that_a_plain_loop_finds(run: Run, corpus) -> None:
    dice = random.Random(3)
    base = [[f"w{dice.randrange(60)}" for _ in range(dice.randrange(4, 40))] for _ in range(8)]
    texts = [[word if dice.random() > 0.03 else "changed" for word in dice.choice(base)] for _ in range(200)]
    files.write_json_lines(corpus / "alike.jsonl", [{"text": " ".join(text)} for text in texts])
    index = reopened(run)
    first = int(index.select(file="alike.jsonl")[0])
    found = 0
    for number in range(0, 200, 20):
        wanted = similarity.shingles(" ".join(texts[number]))
        expected = {
            n
            for n, text in enumerate(texts)
            if similarity.jaccard(wanted, similarity.shingles(" ".join(text))) >= 0.8 or text == texts[number]
        }
        *_, (_, numbers) = near_copies(index, first + number)
        assert {n - first for n in numbers.tolist()} == expected
        found += len(expected) - 1
    assert found > 10, "the corpus has near-duplicates"


def reopened(run: Run) -> CorpusIndex:
    """The index after the corpus has changed."""
    explore.explore(run)
    return CorpusIndex(run.folder / "corpus", sources.of_settings(run.settings), run.settings)


def test_it_shows_no_secret_anywhere(explorer: CorpusExplorer, run: Run) -> None:
    explorer.choices["file"].value = "strange.jsonl"
    explorer.place.value = 3
    shown = [explorer.raw.value, explorer.record.value, explorer.tokens.value, explorer.head.value, explorer.plain]
    assert "strange.jsonl:3" in shown[3] and "redacted" in shown[1] and not any(TOKEN in text or TOKEN[8:20] in text for text in shown)
    assert not any(TOKEN.encode() in path.read_bytes() for path in run.folder.rglob("*") if path.is_file())


def test_a_row_that_is_hostile_html_is_shown_as_text(corpus, settings) -> None:
    files.write_json_lines(
        corpus / "a.jsonl", [{"prompt": "<script>alert(1)</script>", "completion": "<img src=x onerror=alert(1)> is what it says"}]
    )
    run = Run.open(settings)
    explore.explore(run)
    index = CorpusIndex(run.folder / "corpus", sources.of_settings(settings), settings)
    explorer = CorpusExplorer(index, base_model.load_tokenizer(settings.base_model))
    assert "a.jsonl:1" in explorer.head.value
    for panel in (explorer.raw, explorer.record, explorer.tokens):
        assert "<script" not in panel.value and "<img" not in panel.value


def test_a_deeply_nested_row_is_shown_and_searched(corpus, run: Run) -> None:
    files.write_bytes(corpus / "deep.jsonl", deep_lines())
    explorer = CorpusExplorer(reopened(run), base_model.load_tokenizer(run.settings.base_model))
    explorer.choices["file"].value = "deep.jsonl"
    assert "nested_too_deep" in explorer.record.value and "Sum it up" in explorer.raw.value
    explorer.query.value = "good enough"
    assert "1 of 606" in explorer.status.value and "It is a good enough answer." in explorer.record.value


def test_headless_it_is_plain_text(explorer: CorpusExplorer) -> None:
    assert explorer._repr_mimebundle_()["text/plain"] == explorer.plain
    assert explorer.plain.startswith("604 rows to explore; the first record:\nblue.jsonl:1 · blue")


def test_a_file_that_changed_after_indexing_is_detected(explorer: CorpusExplorer, corpus) -> None:
    files.write_json_lines(corpus / "red.jsonl", rows("red", 3))
    with pytest.raises(LookupError, match=r"red\.jsonl has changed since it was indexed"):
        explorer.index.row(500)
    explorer.place.value = 590
    assert "has changed since it was indexed" in explorer.head.value and not explorer.raw.value, "reported on the page, not only in a log"


def test_a_line_inserted_at_the_top_does_not_exclude_another_record(explorer: CorpusExplorer, corpus) -> None:
    """Each row then has the source of another row in the index."""
    explorer.choices["file"].value = "red.jsonl"
    files.write_json_lines(corpus / "red.jsonl", [*rows("other", 1), *rows("red", 200)])
    index, numbers = explorer.index, explorer.numbers
    for look in (lambda: index.row(int(numbers[6])), lambda: index.search(numbers, bool), lambda: list(index.each())):
        with pytest.raises(LookupError, match=r"red\.jsonl has changed since it was indexed"):
            look()
    explorer.place.value = 6
    assert "has changed since it was indexed" in explorer.head.value and not explorer.raw.value
    assert explorer.exclude.disabled and explorer.near_duplicates.disabled
    explorer.query.value = "kernel"
    assert "has changed since it was indexed" in explorer.status.value and not len(explorer.numbers)
    explorer.query.value, explorer.choices["file"].value = "", "blue.jsonl"
    assert not explorer.exclude.disabled and "&quot;completion&quot;" in explorer.raw.value, "other files are shown as before"


def test_any_row_is_found_on_any_page_in_any_order(home, settings) -> None:
    count = 2 * PAGE + 7
    files.write_json_lines(home / "corpora" / "small" / "blue.jsonl", rows("blue", count))
    run = Run.open(settings)
    explore.explore(run)
    index = CorpusIndex(run.folder / "corpus", sources.of_settings(settings), settings)
    for number in [*np.random.default_rng(0).permutation(len(index))[:60].tolist(), 0, len(index) - 1]:
        assert index.row(number).source == index.entry(number).source
    assert [index.row(n).source for n in (PAGE - 1, PAGE, count - 1, count)] == [
        f"blue.jsonl:{PAGE}",
        f"blue.jsonl:{PAGE + 1}",
        f"blue.jsonl:{count}",
        "green.jsonl:1",
    ]


def test_only_pages_and_not_the_corpus_are_kept_in_memory(explorer: CorpusExplorer) -> None:
    for number in range(0, len(explorer.index), 50):
        explorer.index.row(number)
    assert explorer.index.page.cache_info().currsize <= explorer.index.page.cache_info().maxsize == 8
    assert corpus_index.PAGE <= 1000


def test_a_line_that_is_not_json_is_shown_as_it_is_without_its_secret(corpus, run: Run) -> None:
    files.write_bytes(
        corpus / "torn.jsonl", b'{"prompt": "Which key?", "completion": "It is\\n' + TOKEN.encode() + b'\\nfor all\n{"text": "a row"}\n'
    )
    explore.explore(run)
    explorer = CorpusExplorer(
        CorpusIndex(run.folder / "corpus", sources.of_settings(run.settings), run.settings),
        base_model.load_tokenizer(run.settings.base_model),
    )
    explorer.choices["file"].value, explorer.choices["problem"].value = "torn.jsonl", "not_json"
    assert "1 of 606" in explorer.status.value
    assert "Which key?" in explorer.raw.value and "for all" in explorer.raw.value and "null" not in explorer.raw.value
    assert TOKEN not in explorer.raw.value and "GITHUB_TOKEN" in explorer.raw.value
