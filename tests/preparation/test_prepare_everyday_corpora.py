"""Labels, canned replies, answers to many questions, templates, one book, one PDF: what the data stage keeps of them, and how it splits them."""

import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st

from mistral_lib.corpus import document_keys, pdf_writer, sections, sources
from mistral_lib.curation import similarity, splits
from mistral_lib.preparation import data_report, prepare
from mistral_lib.run import Run, files, params
from tests.support.corpora import rows

WORDS = [f"word{number}" for number in range(2000)]
INSTRUCTION = " ".join(f"rule{number}" for number in range(80))  # of a template that is most of every prompt


@pytest.fixture
def everyday(settings: params.Settings) -> params.Settings:
    """The tests' settings with the defaults of the parameters that decide about rows."""
    deciding = ("group_key", "validation_share", "test_share", "shortest_answer", "most_repeated_pattern", "near_duplicate_threshold")
    defaults = {name: params.Settings.model_fields[name].default for name in deciding}
    return settings.model_copy(update={**defaults, "max_tokens": 256, "corpus_paths": ["corpora/own"]})


def prepared(settings: params.Settings, home: Path, given: list[dict], **changes: Any) -> tuple[dict, list[dict]]:
    """The report, and the kept records with prompt and answer, of a corpus of these rows."""
    files.write_json_lines(home / "corpora" / "own" / "rows.jsonl", given)
    run = Run.open(settings.model_copy(update=changes))
    report = prepare.prepare(run)
    kept = pq.read_table(run.folder / "data" / "records.parquet").to_pylist()
    for row in kept:
        messages = orjson.loads(row["messages"]) if row["messages"] else [{"content": ""}, {"content": row["text"]}]
        row["prompt"], row["answer"] = messages[-2]["content"], messages[-1]["content"]
    return report, kept


def text(rng: random.Random, words: int = 25) -> str:
    return " ".join(rng.choices(WORDS, k=words))


def in_splits(kept: list[dict], part: str = "answer") -> dict[str, set[str]]:
    """For each answer (or prompt) the splits that it is in."""
    found: dict[str, set[str]] = {}
    for row in kept:
        found.setdefault(row[part], set()).add(row["split"])
    return found


def nothing_leaks(report: dict) -> bool:
    return not any(report[name] for name in ("leaked_exact", "leaked_near", "leaked_prompt", "leaked_document"))


REPLIES = [f"Thank you for your message. {sentence} Please write to us again if we can help you with anything else." for sentence in
           ("We have sent your parcel today and it will be with you soon.", "We are sorry to hear this and have told our technicians.")]  # fmt: skip
LABELED = {
    "sentences": (1500, [f"The sentiment of this review is {label}." for label in ("positive", "negative", "neutral")]),
    "canned": (800, REPLIES),
    "words": (600, [f"lantern{n}" for n in range(40)]),
    "numbers": (90, ["1", "2", "-1"]),
    "chinese": (90, ["正面", "负面", "中性"]),
}


@pytest.mark.parametrize("name", LABELED)
def test_rows_with_labels_are_kept_and_every_label_is_in_every_split(everyday: params.Settings, home: Path, name: str) -> None:
    count, labels = LABELED[name]
    rng = random.Random(name)
    report, kept = prepared(
        everyday, home, [{"instruction": "What is it?", "input": text(rng), "output": labels[n % len(labels)]} for n in range(count)]
    )
    assert report["records_kept"] == count and nothing_leaks(report)
    assert in_splits(kept) == {label: set(splits.SPLITS) for label in labels}
    counts = Counter(row["answer"] for row in kept)
    assert report["label_domains"] == {"rows": {"labels": counts, "majority_share": round(max(counts.values()) / count, 6)}}
    for label in labels:
        for split in ("validation", "test"):
            share = sum(row["answer"] == label and row["split"] == split for row in kept) / counts[label]
            assert abs(share - 0.08) <= 4 * (0.08 * 0.92 / counts[label]) ** 0.5 + 1 / counts[label]


@pytest.mark.parametrize("way", ["system", "instruction"])
def test_a_template_that_is_most_of_every_prompt_makes_no_duplicates(everyday: params.Settings, home: Path, way: str) -> None:
    rng = random.Random(way)
    inputs = [" ".join(rng.choices(WORDS, k=4)) for _ in range(120)]
    given = [{"system": INSTRUCTION, "prompt": one} if way == "system" else {"prompt": f"{INSTRUCTION} {one}"} for one in inputs]
    given = [{**row, "completion": ("yes", "no", "perhaps")[n % 3]} for n, row in enumerate(given)]
    copy = {**given[5], "prompt": given[5]["prompt"].upper()} if way == "instruction" else given[5]
    report, kept = prepared(everyday, home, [*given, copy])
    assert report["records_kept"] == 120 and report["duplicates_near"] + report["duplicates_exact"] == 1
    assert all(found == set(splits.SPLITS) for found in in_splits(kept).values())


def test_the_same_answer_to_different_prompts_stays_and_the_answer_is_not_divided(everyday: params.Settings, home: Path) -> None:
    rng = random.Random(1)
    answers = [text(rng, 30) for _ in range(20)]
    given = [{"prompt": text(rng, 12), "completion": answers[n % 20]} for n in range(240)]
    report, kept = prepared(everyday, home, given)
    assert report["records_kept"] == 240 and nothing_leaks(report) and report["label_domains"] == {}
    assert all(len(found) == 1 for found in in_splits(kept).values()), "an answer that says something is on one side"


def test_a_prompt_and_its_near_duplicate_are_on_one_side_whatever_their_labels(everyday: params.Settings, home: Path) -> None:
    rng = random.Random(2)
    reviews = [text(rng, 30) for _ in range(300)]
    given = [{"text": review, "label": ("good", "bad")[n % 2]} for n, review in enumerate(reviews)]
    given += [{"text": review, "label": ("bad", "good")[n % 2]} for n, review in enumerate(reviews[:100])]
    given += [{"text": f"{review} end", "label": "mixed"} for review in reviews[100:200]]
    report, kept = prepared(everyday, home, given, columns={"prompt": "text", "answer": "label"})
    assert report["records_kept"] == 500 and nothing_leaks(report)
    sides = in_splits(kept, "prompt")
    assert all(len(sides[review]) == 1 for review in reviews)
    assert all(sides[review] == sides[f"{review} end"] for review in reviews[100:200])
    assert set(report["label_domains"]["rows"]["labels"]) == {"good", "bad", "mixed"}
    by_chance = report["leaked_by_a_random_split"]
    assert by_chance["prompt"] > 20 and by_chance["near"] > 20 and by_chance["answer"] == 0, "a label is no leak"


def test_near_duplicates_agree_in_prompt_and_answer_and_have_one_system_message(everyday: params.Settings, home: Path) -> None:
    rng = random.Random(3)
    prompt, answer, other = text(rng), text(rng), text(rng)
    given = [
        {"prompt": prompt, "completion": answer},
        {"prompt": f"{prompt} end", "completion": f"{answer} end"},  # a near-duplicate of the first
        {"prompt": prompt, "completion": other},
        {"prompt": other, "completion": answer},
        {"system": "Be brief.", "prompt": prompt, "completion": answer},
        {"text": answer},
        {"prompt": prompt, "completion": answer},  # a copy of the first
        *rows("red", 60),
    ]
    files.write_json_lines(home / "corpora" / "own" / "rows.jsonl", given)
    run = Run.open(everyday)
    report = prepare.prepare(run)
    fates = [row["fate"] for row in pq.read_table(run.folder / "data" / "ledger.parquet").to_pylist()[:7]]
    assert [fate for fate in fates if fate not in splits.SPLITS] == ["near_duplicate", "duplicate"]
    assert fates[1] == "near_duplicate" and fates[6] == "duplicate" and nothing_leaks(report)
    assert len({fate for fate in fates if fate in splits.SPLITS}) == 1, "they share a long prompt or answer"


def test_chats_with_the_same_last_line_are_kept(everyday: params.Settings, home: Path) -> None:
    rng = random.Random(4)
    last = "You are welcome! Let me know if there is anything else that I can do for you today."
    chats = [[text(rng, 10), text(rng, 20), "Thanks a lot for that!", last] for _ in range(45)]
    given = [{"messages": [{"role": ("user", "assistant")[n % 2], "content": one} for n, one in enumerate(chat)]} for chat in chats]
    report, kept = prepared(everyday, home, given)
    assert report["records_kept"] == 45 and in_splits(kept) == {last: set(splits.SPLITS)}


FIELDS = ("invoice number", "due date", "VAT id of the seller", "total amount including tax", "purchase order number", "discount granted")


def questions_about_texts(rng: random.Random) -> list[dict]:
    """Twelve hypotheses about each of twelve documents."""
    hypotheses = [text(rng, 11) for _ in range(12)]
    return [{"premise": document, "hypothesis": one, "label": rng.choice(("entailment", "contradiction", "neutral"))}
            for document in [text(rng, 200) for _ in range(12)] for one in hypotheses]  # fmt: skip


def fields_of_invoices(rng: random.Random) -> list[dict]:
    invoices = [text(rng, 150) for _ in range(12)]
    return [{"prompt": f"{one}\n\nWhat is the {field}?", "completion": "not found"} for one in invoices for field in FIELDS]


def inputs_of_tasks(rng: random.Random) -> list[dict]:
    tasks = [text(rng, 90) for _ in range(6)]
    return [{"instruction": task, "input": text(rng, 8), "output": rng.choice(("yes", "no"))} for task in tasks for _ in range(24)]


def filled_templates(rng: random.Random) -> list[dict]:
    template = text(rng, 100)
    return [{"prompt": f"{template}\n\nTweet: {text(rng, 9)}", "completion": rng.choice(("positive", "negative"))} for _ in range(20)]


def comparisons(rng: random.Random) -> list[dict]:
    return [{"prompt": f"Is it true that {a} {sign} {b}, answer now", "completion": "yes" if eval(f"{a}{sign}{b}") else "no"}
            for a in range(3, 9) for b in range(3, 9) for sign in ("<", ">", "<=", ">=", "==")]  # fmt: skip


def moods(rng: random.Random) -> list[dict]:
    return [
        {"prompt": f"Which mood has this message: {a}{b}{c}", "completion": "mixed"} for a in "😀😡😢" for b in "😀😡😢" for c in "😀😡😢"
    ]


def expressions(rng: random.Random) -> list[dict]:
    signs = ("+", "-", "*", "//", "%")
    return [{"prompt": f"What does the expression a {one} b {two} c give?", "completion": f"It gives a {one} b {two} c, as everyone can see here."}
            for one in signs for two in signs]  # fmt: skip


@pytest.mark.parametrize(
    "rows_of", [questions_about_texts, fields_of_invoices, inputs_of_tasks, filled_templates, comparisons, moods, expressions]
)
def test_prompts_that_differ_in_a_few_words_or_a_symbol_are_no_copies(
    everyday: params.Settings, home: Path, rows_of: Callable[[random.Random], list[dict]]
) -> None:
    given = rows_of(random.Random(rows_of.__name__))
    report, _ = prepared(everyday, home, given)
    assert report["records_kept"] == len(given) and nothing_leaks(report)


BOOK = "\n\n".join(f"# Chapter {n}\n\n" + " ".join(f"Line {n} says {n * 31 % 97} and word{n * 7}." for _ in range(20)) for n in range(60))


def test_one_book_is_split_by_its_sections(everyday: params.Settings, home: Path, capsys: pytest.CaptureFixture) -> None:
    files.write_text(home / "corpora" / "own" / "book.txt", BOOK)
    run = Run.open(everyday)
    report = prepare.prepare(run)
    assert report["divided_documents"]["into"] == "sections" and all(report["split_sizes"].values())
    assert "all records are of one document: too few for three splits. So they are split by their" in capsys.readouterr().err
    kept = pq.read_table(run.folder / "data" / "records.parquet").to_pylist()
    assert {row["source"].split("#")[0] for row in kept} == {"book.txt"} and {row["domain"] for row in kept} == {"texts"}
    ordered = sorted(kept, key=lambda row: int(row["source"].split("#")[1]))
    assert "".join("".join(row["text"] for row in ordered).split()) == "".join(BOOK.split()), "nothing is lost between sections"


def test_one_pdf_is_split_by_its_pages(everyday: params.Settings, home: Path) -> None:
    rng = random.Random(5)
    lines = [text(rng, 6) for _ in range(30 * int(pdf_writer.LINES))]
    files.write_bytes(home / "corpora" / "own" / "manual.pdf", pdf_writer.document("\n".join(lines)))
    report = prepare.prepare(Run.open(everyday))
    assert report["divided_documents"] == {"documents": 1, "records": 30, "into": "pages", "key": ""} and all(
        report["split_sizes"].values()
    )


def test_sections_are_made_only_of_one_or_two_texts(everyday: params.Settings, home: Path) -> None:
    folder = home / "corpora" / "own"
    for number in (1, 2):
        files.write_text(folder / f"book{number}.md", BOOK)
        assert {file.sections for file in sources.of_settings(everyday)} == {min(number * len(BOOK) // sections.SECTIONS, sections.LONGEST)}
    files.write_text(folder / "book3.md", BOOK)
    assert not any(file.sections for file in sources.of_settings(everyday))
    for path in folder.iterdir():
        path.unlink()
    files.write_json_lines(folder / "chats.jsonl", rows("red", 2))
    assert not any(file.sections for file in sources.of_settings(everyday))


@given(st.text(st.sampled_from("ab .\n#。"), max_size=300), st.integers(1, 40))
def test_sections_hold_the_whole_text_and_are_short_enough(text: str, most: int) -> None:
    parts = list(sections.sections(text, most))
    assert "".join("".join(parts).split()) == "".join(text.split()) and all(0 < len(part) <= most for part in parts)


@pytest.mark.parametrize(
    ("given", "changes", "message"),
    [
        ([{"prompt": f"What is it, number {n}?", "completion": "yes"} for n in range(9)], {"shortest_answer": 20}, r"answer_too_short \(shortest_answer and answer_too_short: a smaller number"),
        ([{"prompt": WORDS[n], "completion": "yes"} for n in range(2)], {}, "Three splits need at least 3 records: add data"),
        ([{"text": f"{' '.join(WORDS[:40])} end{n}"} for n in range(9)], {}, r"raise near_duplicate_threshold \(0.8; 1 keeps them all\)"),
        ([{"prompt": "Why?", "completion": "So."}] * 9, {}, "Most rows are copies of others, prompt and answer: add rows that differ"),
        ([{"prompt": " ".join(WORDS[:9]), "completion": WORDS[n]} for n in range(9)], {}, "All records are linked to each other"),
        ([{"text": " ".join(WORDS[n : n + 30])} for n in range(0, 900, 30)], {"objective": "answers"}, r"objective_is_answers \(objective"),
    ],
)  # fmt: skip
def test_an_empty_split_names_the_parameter_that_caused_it(
    everyday: params.Settings, home: Path, given: list[dict], changes: dict, message: str
) -> None:
    with pytest.raises(prepare.EmptySplitError, match=message):
        prepared(everyday, home, given, max_rejected_share=1.0, **changes)


ROW = st.tuples(st.integers(0, 14), st.integers(0, 1), st.integers(0, 14), st.integers(0, 1), st.integers(0, 12), st.booleans())


@examples(max_examples=12, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(table=st.lists(ROW, min_size=20, max_size=90), labels=st.integers(0, 40))
def test_no_held_out_text_prompt_answer_near_duplicate_or_document_is_in_training(
    everyday: params.Settings, home: Path, table: list[tuple], labels: int
) -> None:
    """Worked out on the texts of the result, by the definitions of design and docs."""

    def long(number: int, end: int, words: int) -> str:
        return " ".join([*(f"t{number}x{n}" for n in range(words)), *(["end"] * end)])

    given = [{"text": long(a, e, 20), "document": f"d{g}-{n % 7}"} if is_text else {"prompt": long(p, d, 16), "completion": long(a + 100, e, 20), "document": f"d{g}-{n % 7}"}
             for n, (p, d, a, e, g, is_text) in enumerate(table)]  # fmt: skip
    given += [
        {"prompt": long(200 + n, 0, 16), "completion": ("yes", "no")[n % 2], "document": f"l{n}", "domain": "labels"} for n in range(labels)
    ]
    given += rows("red", 40)
    report, kept = prepared(everyday, home, given)
    assert nothing_leaks(report)
    train, held_out = ([row for row in kept if (row["split"] == "train") is in_train] for in_train in (True, False))
    chats = [row for row in kept if row["messages"]]
    for part, least in (("prompt", splits.LONG_PROMPT), ("answer", splits.LONG_ANSWER)):
        counts = Counter(row[part] for row in chats)
        for one in held_out:
            if len(similarity.folded_words(one[part])) >= least and counts[one[part]] <= splits.COMMON:
                assert all(other[part] != one[part] for other in train)
    documents = {row["source_group"] for row in train}
    for one in held_out:
        shingles = similarity.shingles(one["answer"])
        assert one["source_group"] not in documents
        for other in train:
            near = similarity.jaccard(shingles, similarity.shingles(other["answer"])) >= 0.8
            assert not (near and (one["prompt"] == other["prompt"] == "" or one["prompt"] == other["prompt"]))


def test_questions_about_one_text_are_a_document_unless_it_is_a_template(
    everyday: params.Settings, home: Path, capsys: pytest.CaptureFixture
) -> None:
    rng = random.Random(8)
    passages = [text(rng, 50) for _ in range(60)]
    given = [{"context": passage, "question": f"{text(rng, 9)}?", "answer": text(rng, 3)} for passage in passages for _ in range(4)]
    report, kept = prepared(everyday, home, given)
    assert report["source_documents"] == [{"key": document_keys.LONG_TEXT, "records": 240, "documents": 60}] and nothing_leaks(report)
    assert {len({row["split"] for row in kept if passage in row["prompt"]}) for passage in passages} == {1}
    assert sum(report["split_sizes"][name] for name in ("validation", "test")) < 0.32 * 240 and "holds" not in capsys.readouterr().err
    template = [{**row, "context": passages[0]} for row in given]
    report, _ = prepared(everyday, home, template)
    assert report["source_documents"] == [{"key": "", "records": 240, "documents": 240}], "a text in most prompts names no document"


def test_a_split_of_more_than_twice_its_share_is_said(everyday: params.Settings) -> None:
    sizes = {"train": 100, "validation": 15, "test": 50}
    [said] = data_report.uneven_splits({"split_sizes": sizes}, everyday)
    assert said.startswith("test holds 50 of 165 records, its share is 0.08") and "(group_key)" in said
    few = {"train": 10, "validation": 5, "test": 5}
    assert data_report.uneven_splits({"split_sizes": few}, everyday) == [], "of so few records a share says nothing"
