"""Every check has texts that it must find and texts that it must leave alone."""

import string
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mistral_lib.curation import boilerplate, repeated_patterns
from mistral_lib.curation import checks as quality
from mistral_lib.curation.checks import Checks, Outcome
from mistral_lib.run import settings as run_settings
from mistral_lib.run.params import ParameterError, validate
from mistral_lib.run.settings import CHECKS, Settings
from tests.support import hostile_text

GOOD = "Call sorted(names): it returns a new list and leaves the old one as it was."


QUESTION = "How do I sort?"


def inspect(answer: str, question: str = QUESTION, **parameters: object) -> Outcome:
    """The outcome of the checks for a chat of two messages."""
    return Checks(Settings(**parameters)).inspect([question, answer])


COOKIES = "This website uses cookies to improve your experience. Accept all cookies or read our cookie policy."
LICENSE = (
    "Redistribution and use in source and binary forms, with or without modification, are permitted provided that the above copyright notice is retained.\n\n"
    "This software is provided by the copyright holders as is, without warranty of any kind."
)
MENU = "Home | About | Products | Blog | Contact | Login | Privacy Policy"

FOUND = [
    ("answer_too_short", "Yes."),
    ("boilerplate", COOKIES),
    ("boilerplate", LICENSE),
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
def test_a_check_rejects_or_flags_or_is_off_as_configured(check, answer):
    others = {**dict.fromkeys(CHECKS, "off"), "shortest_answer": 20}
    rejected = inspect(answer, **{**others, check: "reject"})
    assert (rejected.texts, rejected.reason) == (None, check)
    flagged = inspect(answer, **{**others, check: "flag"})
    assert (flagged.texts, flagged.reason, flagged.flags) == ([QUESTION, answer], "", (check,))
    assert inspect(answer, **others) == quality.Outcome([QUESTION, answer])


def test_the_settings_name_every_check_and_every_script():
    judged = set(Checks(Settings())._judges())
    assert set(CHECKS) == judged | {"normalized", "unescaped_newlines", "secrets", "personal_data", "control_strings"}
    assert get_args(run_settings.Script) == tuple(boilerplate.SCRIPTS)


@pytest.mark.parametrize("answer", LEFT_ALONE)
def test_good_answers_stay_as_they_are(answer):
    assert inspect(answer, low_letter_share="reject", refusal="reject") == Outcome([QUESTION, answer])


def test_script_share_separates_scripts():
    latin = {"low_script_share": "reject", "script": "latin"}
    assert inspect("Это ответ на русском языке, а не на английском.", **latin).reason == "low_script_share"
    assert inspect("Přílišžluťoučký kůň úpěl ďábelské ódy.", **latin).reason == ""
    assert inspect("Это ответ на русском языке.", low_script_share="reject", script="cyrillic").reason == ""


def test_repairs_and_redactions_are_made_in_every_message_and_counted():
    outcome = inspect("See\xa0/home/anna/x\r\nor ask anna@firma.org about it.", "Who is bob@firma.org?")
    assert outcome.texts == ["Who is <EMAIL>?", "See /home/<USER>/x\nor ask <EMAIL> about it."]
    assert outcome.redacted == {"email": 2, "home_path": 1}
    assert outcome.repairs == ("normalized",)


def test_documents_are_repaired_too():
    outcome = Checks(Settings()).inspect([r"First line here.\nSecond line here.\nThird."])
    assert outcome.texts == ["First line here.\nSecond line here.\nThird."]
    assert outcome.repairs == ("unescaped_newlines",)


def test_what_is_empty_after_cleaning_or_redaction_is_rejected():
    assert inspect("\u200b\ufeff").reason == "empty_answer"
    assert inspect(GOOD, "\u200b").reason == "empty_message"
    assert inspect("anna@firma.org").reason == "redacted_answer"
    assert inspect("anna@firma.org", "Which address is in this text? Write to bob@firma.org").texts[1] == "<EMAIL>", "it can be copied"


def test_all_faults_of_the_settings_are_reported_at_once():
    with pytest.raises(ParameterError) as caught:
        validate({"boilerplat": "reject", "secrets": "maybe", "refusal": "redact", "script": "klingon", "html_share": 2})
    message = str(caught.value)
    assert all(word in message for word in ("boilerplat", "maybe", "refusal", "klingon", "html_share"))


@settings(max_examples=150)
@given(st.text(), st.text())
def test_any_record_can_be_checked_and_checking_twice_changes_nothing(question, answer):
    asked = {**dict.fromkeys(CHECKS, "flag"), **dict.fromkeys(CHECKS[:4], "redact")}  # the first four repair and redact
    checks = Checks(Settings(**asked))
    outcome = checks.inspect([question, answer])
    assert (outcome.texts is None) == bool(outcome.reason)
    if outcome.texts:
        again = checks.inspect(outcome.texts)
        assert again.texts == outcome.texts
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
    answer = hostile_text.repeated(piece)
    with hostile_text.no_more_than_linear_time():
        inspect(answer)
        repeated_patterns.pattern(answer, answer)
        repeated_patterns.pattern(answer[:300], answer[:300])


NAMES = ["report_2021.pdf", "data/in/x.pdf", "module_17", "https://x.org/a?b=1"]


def patterns(answer: str, prompt: str | None) -> set[str]:
    """The patterns of records that differ in a name. "" is a record that is a pattern of its own."""
    return {repeated_patterns.pattern(answer.format(name), prompt and prompt.format(name)) for name in NAMES}


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What does {} say?", "Processed content from {}"),
        ("Explain {}", "There is no documentation for {} yet."),
        (None, "Content of {} was not extracted."),
    ],
)
def test_an_answer_that_only_copies_a_name_from_its_prompt_is_a_pattern(prompt: str | None, answer: str) -> None:
    found = patterns(answer, prompt)
    assert len(found) == 1 and "" not in found
    assert repeated_patterns.pattern_hash(answer.format(NAMES[0]), prompt and prompt.format(NAMES[0])) < 2**64


@pytest.mark.parametrize(
    ("prompt", "answer"),
    [
        ("What is the capital of Apple?", "The capital of Apple is Orchard."),
        ("Weather in Paris for 3 days?", '[{{"name": "get_weather", "arguments": {{"city": "Paris", "days": 3}}}}]'),
        ("Read {}", '{{"tool": "read_file", "path": "{}"}}'),
        ("Read {}", "read_file({})"),
        ("Where is the class defined?", "It is defined in {}."),
        ("Classify: {}", "The sentiment of this review is positive."),
        ("Book a table for 4 at Luigi's", "I have booked a table for 4 at Luigi's."),
        ("Cancel order 1234", "Order 1234 is cancelled."),
        ("Fix {}", "```python\nopen('{}')\n```"),
        (None, "file: {}\nlabel: cat"),
        (None, "A document about number 7, long enough to be kept."),
    ],
)
def test_what_is_to_be_learnt_is_not_masked(prompt: str | None, answer: str) -> None:
    assert patterns(answer, prompt) == {""} and repeated_patterns.pattern_hash(answer.format(NAMES[0]), prompt) is None


def test_a_pattern_joins_prompt_and_answer() -> None:
    one = repeated_patterns.pattern_hash("Nothing on a_1 yet.", "What is a_1?")
    assert one == repeated_patterns.pattern_hash("Nothing on b_2 yet.", "What is b_2?")
    assert one != repeated_patterns.pattern_hash("Nothing on b_2 yet.", "Who is b_2?"), "another prompt"
    assert (
        repeated_patterns.pattern("Nothing on b_2 yet.", "x" * 301) == "" == repeated_patterns.pattern("b_2" + " y" * 200, "What is b_2?")
    )


@settings(max_examples=30)
@given(st.lists(st.integers(0, 30), max_size=300), st.integers(1, 20))
def test_repeated_hashes_are_those_of_a_plain_counter(numbers, more_than):
    hashes = (np.array(numbers, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
    expected = sorted({int(h) for h in hashes if (hashes == h).sum() > more_than})
    assert repeated_patterns.repeated(hashes, more_than).tolist() == expected


def test_repeated_finds_the_few_frequent_hashes_among_many_rare_ones():
    random = np.random.default_rng(3)
    often, rare = random.integers(2**63, size=5, dtype=np.uint64), random.integers(2**63, size=20_000, dtype=np.uint64)
    hashes = random.permutation(np.concatenate([np.repeat(often, 21), np.repeat(rare[:7], 20), rare[7:]]))
    assert repeated_patterns.repeated(hashes, 20).tolist() == sorted(often.tolist())
    assert repeated_patterns.repeated(hashes[:0], 20).tolist() == []


@settings(max_examples=100)
@given(st.text())
def test_shares_are_between_0_and_1(text):
    assert 0 <= boilerplate.tag_share(text) <= 1
    assert all(0 <= boilerplate.script_share(text, script) <= 1 for script in boilerplate.SCRIPTS)
    assert boilerplate.enough_letters(text, 0.0)


def test_letters_of_every_script_are_letters():
    assert boilerplate.enough_letters("中文" * 5 + "1", 0.5)
    assert boilerplate.enough_letters(string.ascii_letters, 1.0)
    assert not boilerplate.enough_letters("1234567890 ab", 0.5)


OFF = dict.fromkeys(CHECKS, "off")


@pytest.mark.parametrize(
    ("check", "limits", "kept", "found"),
    [
        ("answer_too_short", {"shortest_answer": 5}, "abcde", "abcd"),
        ("mostly_html", {"html_share": 0.5}, "<b>abc", "<b>ab"),
        ("low_letter_share", {"letter_share": 0.5}, "ab12", "ab123"),
        ("low_script_share", {"script": "latin", "script_share": 0.5}, "abдж", "abджя"),
    ],
)
def test_an_answer_exactly_at_a_limit_is_kept(check, limits, kept, found):
    assert inspect(kept, **{**OFF, check: "reject", **limits}).reason == ""
    assert inspect(found, **{**OFF, check: "reject", **limits}).reason == check


def test_a_rejecting_check_comes_before_flags_and_the_flags_before_it_are_kept():
    both = {**OFF, "refusal": "flag", "odd_code_fences": "reject"}
    answer = "I can't help with that request, sorry.\n```python\nx"
    assert inspect(answer, **both) == Outcome(None, "odd_code_fences"), "a rejected record needs no flags"
    flagged = {**OFF, "refusal": "flag", "answer_too_short": "flag", "shortest_answer": 99, "secrets": "reject"}
    rejected = inspect(answer + " password = 'hunter" + "2!x'", **flagged)
    assert (rejected.texts, rejected.reason, rejected.flags) == (None, "secrets", ("answer_too_short", "refusal"))
    assert inspect(answer, **{**flagged, "odd_code_fences": "flag"}).flags == ("answer_too_short", "refusal", "odd_code_fences")


@pytest.mark.parametrize("group", ["secrets", "personal_data"])
def test_values_are_found_in_any_message_and_only_of_the_group_that_is_asked_for(group):
    value = {"secrets": "password = 'hunter" + "2!x'", "personal_data": "Ask anna@firma.org."}[group]
    other = {"secrets": "personal_data", "personal_data": "secrets"}[group]
    assert inspect(GOOD, f"{QUESTION} {value}", **{**OFF, group: "reject"}).reason == group
    assert inspect(GOOD, f"{QUESTION} {value}", **{**OFF, group: "flag"}).flags == (group,)
    assert inspect(GOOD, f"{QUESTION} {value}", **{**OFF, other: "reject"}) == Outcome([f"{QUESTION} {value}", GOOD])
    redacted = inspect(GOOD, f"{QUESTION} {value}", **{**OFF, group: "redact"})
    assert value not in redacted.texts[0] and redacted.flags == () and sum(redacted.redacted.values()) == 1
    assert inspect(GOOD, f"{QUESTION} {value}", **{**OFF, other: "redact"}).redacted == {}


@pytest.mark.parametrize("text", ["</s>", "[INST]", "<|im_end|>", "<<SYS>>", "<start_of_turn>"])
def test_control_strings_of_any_message_are_found(text):
    assert inspect(GOOD, f"{QUESTION} {text}", **{**OFF, "control_strings": "reject"}).reason == "control_strings"
    assert inspect(f"{GOOD} {text}", **{**OFF, "control_strings": "flag"}).flags == ("control_strings",)
    assert inspect("a < b and [1, 2]", f"{QUESTION} <INST> [s]", **{**OFF, "control_strings": "reject"}).reason == ""


def test_what_is_left_of_a_record_is_judged_with_all_that_was_done_to_it():
    empty = inspect(
        "anna@firma.org",
        "See\xa0here",
        **{**OFF, "normalized": "redact", "personal_data": "redact", "answer_too_short": "flag", "shortest_answer": 20},
    )
    assert empty == Outcome(None, "redacted_answer", {"email": 1}, ("answer_too_short",), ("normalized",))
    question = inspect(GOOD, "anna@firma.org", **{**OFF, "personal_data": "redact"})
    assert (question.texts, question.reason) == (["<EMAIL>", GOOD], ""), "only the answer may not be a placeholder alone"
    assert inspect("<EMAIL>", **OFF) == Outcome([QUESTION, "<EMAIL>"]), "nothing was redacted"
    assert inspect("\u200b", "\xa0x", **{**OFF, "normalized": "redact"}) == Outcome(None, "empty_answer", repairs=("normalized",))
    assert inspect(" ", " ", **OFF).reason == "empty_answer"


def test_newlines_are_unescaped_without_normalizing_and_only_if_asked():
    text = r"First line here.\nSecond line here.\nThird."
    assert inspect(text, "a\xa0b", **{**OFF, "unescaped_newlines": "redact"}) == Outcome(
        ["a\xa0b", text.replace(r"\n", "\n")], repairs=("unescaped_newlines",)
    )
    assert inspect(text, "a\xa0b", **{**OFF, "normalized": "redact"}) == Outcome(["a b", text], repairs=("normalized",))
    assert inspect(GOOD, "a\xa0b", **{**OFF, "unescaped_newlines": "redact"}) == Outcome(["a\xa0b", GOOD])
    both = inspect(text, "a\xa0b", **{**OFF, "normalized": "redact", "unescaped_newlines": "redact"})
    assert set(both.repairs) == {"normalized", "unescaped_newlines"} and len(both.repairs) == 2


HONEST = [
    ("Which of toxic, insult, none?", "none"), ("Is it a bug?", "None"), ("What is missing?", "N/A"), ("What does find() return?", "undefined"), ("One of null, some", "null"), ("2 + 2?", "4"), ("Positive?", "+"), ("Which emotion?", "😊"),
    ("什么颜色？", "红"), ("What is 404?", "Page not found"), ("Classify the answer of the server", "404 Not Found"), ("Which intent?", "privacy policy"), ("Which operator?", "!="), ("Is there an answer?", "no answer"),
    ("Write a cookie banner for my shop", COOKIES), ("Add a license to this file", LICENSE), ("Make a navigation menu", MENU), ("Give me filler text, lorem ipsum", "Lorem ipsum dolor sit amet."), ("What does TODO mean?", "TODO"),
    ("When is the release?", "TBD"), ("Classify: 1/0", "undefined"), ("Is a label missing? Answer with the label", "null"), ("What does the server send?", "Access denied. Error 403 is sent when a user has no right."),
    ("Write an HTML form", '<form action="/a"><input id="x" name="x"/><button type="submit" class="btn">Go</button></form>'), ("Fix this: <div>a", '<div class="a"><b>a</b></div>'), ("Create a button with an icon", '<a class="btn" href="#"><i class="x"></i></a>'),
    ("Schreibe ein HTML-Formular", '<form class="abc" id="def"></form>'), ("画一个网页", '<div class="abc" id="def"></div>'), ("Draw a house", '<div class="abc" id="def"></div>'),
    ("A house, please", '<svg viewBox="0 0 10 10"><path d="M0 0L1 1"/><path d="M1 1L2 2"/></svg>'), ("Extract as JSON: Anna, 7", '{"name": "Anna", "age": 7}'), ("Convert to XML", "<a><b>1</b></a>"),
]  # fmt: skip
LEFTOVERS = [("What is in it?", "nan", "placeholder_answer"), ("What is in it?", "NULL", "placeholder_answer"), ("What is in it?", "...", "placeholder_answer"), ("What is in it?", "TODO", "placeholder_answer"), ("How do I log in?", COOKIES, "boilerplate"),
             ("How do I sort a list of pages?", '<div class="row"><span style="color:red"><a href="https://x.org/a">Home</a></span></div>', "mostly_html")]  # fmt: skip


@pytest.mark.parametrize(("prompt", "answer"), HONEST)
def test_no_default_rejects_a_kind_of_honest_answer(prompt: str, answer: str) -> None:
    assert inspect(answer, prompt).texts == [prompt, answer]


@pytest.mark.parametrize(("prompt", "answer", "reason"), LEFTOVERS)
def test_what_a_failed_extraction_left_is_still_rejected(prompt: str, answer: str, reason: str) -> None:
    assert inspect(answer, prompt).reason == reason
