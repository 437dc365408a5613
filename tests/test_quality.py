"""Every check has texts that it must find and texts that it must leave alone."""

import string
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib import boilerplate, quality, skeletons
from mistral_lib.quality import CheckError, Checks, Limits
from mistral_lib.records import Record

GOOD = "Call sorted(names): it returns a new list and leaves the old one as it was."


def chat(answer: str, question: str = "How do I sort?") -> Record:
    return Record(
        "code", "a.jsonl:1", "a", "messages", messages=[{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    )


def document(text: str) -> Record:
    return Record("code", "a.txt:1", "a", "text", text=text)


COOKIES = "This website uses cookies to improve your experience. Accept all cookies or read our cookie policy."
LICENCE = (
    "Redistribution and use in source and binary forms, with or without modification, are permitted provided that the above copyright notice is retained.\n\n"
    "This software is provided by the copyright holders as is, without warranty of any kind."
)
MENU = "Home | About | Products | Blog | Contact | Login | Privacy Policy"

HOSTILE_LENGTH = 120_000  # characters: anything quadratic takes minutes
FOUND = [
    ("answer_too_short", "Yes."),
    ("boilerplate", COOKIES),
    ("boilerplate", LICENCE),
    ("boilerplate", "404 Not Found\n\nThe page you are looking for could not be found."),
    ("boilerplate", MENU),
    ("boilerplate", MENU.replace(" | ", "\n")),
    ("placeholder_answer", "Processed content from report_2021.pdf"),
    ("placeholder_answer", "Lorem ipsum dolor sit amet, consectetur adipiscing elit."),
    ("placeholder_answer", "TODO: write this answer later on"),
    ("placeholder_answer", "[Insert your answer here]"),
    ("refusal", "I'm sorry, but as an AI language model I cannot do that."),
    ("refusal", "I can't help with that request, sorry."),
    ("mostly_html", '<div class="row"><span style="color:red"><a href="https://x.org/a/b/c">Home page text</a></span></div>'),
    ("low_letter_share", "1.0 2.0 3.0 4.5 | 12 13 14 15 | 0.001 0.002 0.003"),
    ("odd_code_fences", "Do this:\n```python\nprint(1)\nand never close it"),
    ("control_strings", GOOD + " The end token is </s>."),
    ("control_strings", GOOD + "<|im_start|>"),
    ("secrets", GOOD + " password = 'hunter" + "2!x'"),
    ("personal_data", GOOD + " Ask anna@firma.org."),
]
LEFT_ALONE = [
    GOOD,
    "A cookie banner tells visitors that a site uses cookies. To build one, render a fixed element, store the choice in local storage, and load "
    "analytics only once the visitor has agreed; test it with a fresh profile, since the stored choice hides the banner on the next visit.",
    "A function that handles HTTP errors:\n\n```python\nif response.status == 404:\n    raise LookupError('page not found')\n```\n\nIt raises for a missing page, "
    "so that the caller can decide; for other codes call raise_for_status, which knows them all and names the address in its message.",
    "TODO comments are found with grep -rn TODO. Sort them by age with git blame, and give each an owner: a note that nobody owns is never done. "
    "Tools such as ruff can refuse them (rules TD and FIX), which helps once the list is short enough to be read at all.",
    "If a < b and c > d, then swap them: x<y>z is a chained comparison with three operands, not markup at all.",
    "Use `<div>` for blocks and `<span>` inside a line; both take class and style, and neither means anything by itself.",
    "Sorry for the delay! The method sorts in place.",
    "中文的回答也是由字母组成的,这里没有任何问题,可以保留下来。",
    "```python\nprint(1)\n```\nprints one, and\n```\n1\n```\nis its output.",
]


@pytest.mark.parametrize(("check", "answer"), FOUND)
def test_a_check_rejects_flags_or_is_off_as_asked(check, answer):
    others = dict.fromkeys(quality.CHECKS, "off")
    rejected = Checks({**others, check: "reject"}).inspect(chat(answer))
    assert (rejected.record, rejected.reason) == (None, check)
    flagged = Checks({**others, check: "flag"}).inspect(chat(answer))
    assert (flagged.record, flagged.reason, flagged.flags) == (chat(answer), "", (check,))
    assert Checks(others).inspect(chat(answer)) == quality.Outcome(chat(answer))


@pytest.mark.parametrize("answer", LEFT_ALONE)
def test_good_answers_stay_the_same_object(answer):
    record = chat(answer)
    outcome = Checks({"low_letter_share": "reject", "refusal": "reject"}).inspect(record)
    assert outcome.record is record
    assert (outcome.reason, outcome.flags, outcome.redacted, outcome.repairs) == ("", (), {}, ())


def test_script_share_tells_scripts_apart():
    checks = Checks({"low_script_share": "reject"}, Limits(script="latin"))
    assert checks.inspect(chat("Это ответ на русском языке, а не на английском.")).reason == "low_script_share"
    assert checks.inspect(chat("Přílišžluťoučký kůň úpěl ďábelské ódy.")).reason == ""
    assert Checks({"low_script_share": "reject"}, Limits(script="cyrillic")).inspect(chat("Это ответ на русском языке.")).reason == ""


def test_repairs_and_redactions_are_made_in_every_message_and_counted():
    outcome = Checks().inspect(chat("See\xa0/home/anna/x\r\nor ask anna@firma.org about it.", "Who is bob@firma.org?"))
    assert [m["content"] for m in outcome.record.messages] == ["Who is <EMAIL>?", "See /home/<USER>/x\nor ask <EMAIL> about it."]
    assert outcome.redacted == {"email": 2, "home_path": 1}
    assert outcome.repairs == ("normalised",)
    assert outcome.record.source == "a.jsonl:1"


def test_documents_are_repaired_too():
    outcome = Checks().inspect(document(r"First line here.\nSecond line here.\nThird."))
    assert outcome.record == document("First line here.\nSecond line here.\nThird.")
    assert outcome.repairs == ("unescaped_newlines",)


def test_what_is_empty_after_cleaning_or_redaction_is_rejected():
    assert Checks().inspect(chat("\u200b\ufeff")).reason == "empty_answer"
    assert Checks().inspect(chat(GOOD, "\u200b")).reason == "empty_message"
    assert Checks({"answer_too_short": "off"}).inspect(chat("anna@firma.org")).reason == "empty_answer"


def test_faults_of_the_settings_are_named_all_at_once():
    with pytest.raises(CheckError) as caught:
        Checks({"boilerplat": "reject", "secrets": "maybe", "refusal": "redact"}, Limits(script="klingon", html_share=2))
    message = str(caught.value)
    assert all(word in message for word in ("boilerplat", "maybe", "refusal", "klingon", "html_share"))


@settings(max_examples=150)
@given(st.text(), st.text())
def test_any_record_is_inspected_and_a_second_look_changes_nothing(question, answer):
    checks = Checks(
        {
            **dict.fromkeys(quality.CHECKS, "flag"),
            "normalised": "redact",
            "unescaped_newlines": "redact",
            "secrets": "redact",
            "personal_data": "redact",
        }
    )
    outcome = checks.inspect(chat(answer, question))
    assert (outcome.record is None) == bool(outcome.reason)
    if outcome.record:
        again = checks.inspect(outcome.record)
        assert again.record is outcome.record
        assert (again.redacted, again.repairs) == ({}, ())


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a ",
        "<!--",
        "&",
        "a|",
        "home\n",
        "[INST",
        "cookie ",
        "sorry ",
        "'",
        '"',
        "A ",
        "A b ",
        "1.",
        "a/",
        "a.",
        "```\n",
        "lorem ",
        "x",
    ],
)
def test_hostile_text_takes_no_more_than_linear_time(piece):
    record = chat((piece * (HOSTILE_LENGTH // len(piece) + 1))[:HOSTILE_LENGTH])
    started = time.process_time()
    Checks().inspect(record)
    skeletons.skeleton(record.answer)
    assert time.process_time() - started < 1


# ---------------------------------------------------------------------------------------------------------- skeletons
def test_placeholder_texts_share_a_skeleton_and_real_ones_do_not():
    same = [
        "Processed content from report_2021.pdf (12 pages)",
        "Processed content from Annual Review.docx (3 pages)",
        "Processed content from data/in/x.pdf (111 pages)",
    ]
    assert len({skeletons.skeleton(text) for text in same}) == 1
    assert (
        len(
            {
                skeletons.skeleton(f"{name} is a city with {n:,} people.")
                for name, n in [("Bern", 1), ("New York", 8_000_000), ("Zürich", 400)]
            }
        )
        == 1
    )
    assert skeletons.skeleton("the list is sorted in place") != skeletons.skeleton("the list is copied first")
    assert skeletons.skeleton_hash(same[0]) == skeletons.skeleton_hash(same[1]) != skeletons.skeleton_hash("another one")
    assert 0 <= skeletons.skeleton_hash("") < 2**64


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 20))
def test_repeated_counts_as_a_plain_counter_does(numbers, more_than):
    hashes = (np.array(numbers, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    expected = sorted({int(h) for h in hashes if (hashes == h).sum() > more_than})
    assert skeletons.repeated(hashes, more_than).tolist() == expected


def test_repeated_is_exact_across_chunks_and_where_cells_collide(tmp_path, monkeypatch):
    monkeypatch.setattr(skeletons, "CHUNK", 1000)
    monkeypatch.setattr(skeletons, "CELLS", 64)  # every cell is shared by hundreds of hashes
    random = np.random.default_rng(3)
    often, rare = random.integers(2**63, size=5, dtype=np.uint64), random.integers(2**63, size=20_000, dtype=np.uint64)
    hashes = random.permutation(np.concatenate([np.repeat(often, 21), np.repeat(rare[:7], 20), rare[7:]]))
    hashes.tofile(tmp_path / "hashes")
    stored = np.memmap(tmp_path / "hashes", dtype=np.uint64, mode="r")
    assert skeletons.repeated(stored, 20).tolist() == sorted(often.tolist())
    assert skeletons.repeated(stored[:0], 20).tolist() == []


@settings(max_examples=100)
@given(st.text())
def test_shares_are_shares(text):
    assert 0 <= boilerplate.tag_share(text) <= 1
    assert all(0 <= boilerplate.script_share(text, script) <= 1 for script in boilerplate.SCRIPTS)
    assert boilerplate.enough_letters(text, 0.0)


def test_letters_of_every_script_are_letters():
    assert boilerplate.enough_letters("中文" * 5 + "1", 0.5)
    assert boilerplate.enough_letters(string.ascii_letters, 1.0)
    assert not boilerplate.enough_letters("1234567890 ab", 0.5)
