"""`ask`: both answers side by side in the terminal, by the model that was trained and not by today's parameters."""

import subprocess
import sys

import pytest

from mistral_lib.commands import ask
from mistral_lib.model import paired_answers
from mistral_lib.model.paired_answers import TwoAnswers
from mistral_lib.run import Run
from tests.support.corpora import other

QUESTIONS = ("What does red.tensor_0 do?", "What does green.matrix_1 do?")


def command(*words: str) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-m", "mistral_lib", "ask", *words], capture_output=True, text=True, timeout=300)


def test_each_question_gets_the_answers_of_the_trained_model(trained_run: Run) -> None:
    model, tokenizer = paired_answers.load(trained_run, print)
    both = [paired_answers.answer(model, tokenizer, question, 12, lambda texts, ended: False) for question in QUESTIONS]
    other(trained_run, base_model="models/another", quantization="nf4")  # today's parameters, in params.yaml
    done = command("runs/small", *QUESTIONS, "--max-new-tokens", "12")
    assert done.returncode == 0, done.stderr
    shown = "\n".join(f"\n> {question}\n\n{ask.side_by_side(two, 12, 80)}\n" for question, two in zip(QUESTIONS, both, strict=True))
    assert done.stdout.strip() == shown.strip() and both[0].texts()[0] != both[0].texts()[1]
    said = [line for line in done.stderr.splitlines() if line.startswith(("loading", "loaded", "answer"))]
    assert said[0] == "loading tiny (none) and the adapter of small …" and said[1].startswith("loaded in ")
    assert said[2] == "answering, at most 12 tokens each …" and len(said) == 6, "loaded once for all questions"


def test_useless_requests_are_refused_before_anything_is_loaded(prepared: Run, capsys: pytest.CaptureFixture) -> None:
    missing = command("runs/small")
    assert missing.returncode == 2 and "usage: python -m mistral_lib ask" in missing.stderr
    assert "the following arguments are required: question" in missing.stderr
    untrained = command("runs/small", "What?")
    assert untrained.returncode == 1 and "stage training is not started, expected complete; train first" in untrained.stderr
    with pytest.raises(ValueError, match=r"a question is empty.*ask runs/small \"What is a kernel\?\""):
        ask.ask(prepared, ["What?", "  "])
    with pytest.raises(ValueError, match="--max-new-tokens 0: expected 1 or more"):
        ask.ask(prepared, ["What?"], 0)
    assert "loading" not in capsys.readouterr().err


class Answered(TwoAnswers):
    """Two given texts, the first one complete."""

    def __init__(self, *given: str):
        self.given, self.ended = given, [True, False]

    def texts(self) -> list[str]:
        return list(self.given)


def test_columns_keep_line_breaks_and_indentation_and_fit_the_terminal() -> None:
    code = "Use it:\n\n    for one in many:\n        print(one)"
    words = " ".join(f"word{n}" for n in range(30))
    lines = ask.side_by_side(Answered(code, words), 48, 80).splitlines()
    assert lines[0] == f"{'base model':<38} | adapter" and {len(lines[1])} == {79}
    left, right = ([line.partition("|")[side] for line in lines[2:]] for side in (0, 2))
    assert "    for one in many:" in left[2] and "        print(one)" in left[3] and not any(map(str.strip, left[4:]))
    assert " ".join("".join(right).split()) == f"{words} (cut after 48 tokens)", "nothing is lost at a line's end"
    assert max(map(len, lines)) <= 80
    narrow = ask.side_by_side(Answered(code, words), 48, 10).splitlines()
    assert max(map(len, narrow)) <= 2 * ask.NARROWEST + 3


def test_a_long_answer_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    seconds = iter([0.0, 10.0, 16.0, 16.0, 20.0])
    monkeypatch.setattr(ask.time, "perf_counter", lambda: next(seconds))
    watcher = ask.Watcher(256)
    assert not any(watcher(["a", "b"], [False, False]) for _ in range(3)), "it never stops an answer"
    assert capsys.readouterr().err == "  2 of at most 256 tokens each\n"
