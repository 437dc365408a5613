"""Base model and adapter answer questions side by side in the terminal, loaded as the adapter was trained."""

import textwrap
import time
from collections.abc import Sequence
from itertools import zip_longest

from mistral_lib.model import paired_answers
from mistral_lib.model.paired_answers import TwoAnswers
from mistral_lib.run import Run, paths
from mistral_lib.run.progress import say

NARROWEST = 24  # characters of a column
REPORT_EVERY = 15  # seconds


def ask(run: Run, questions: Sequence[str], max_new_tokens: int | None = None, width: int = 80) -> None:
    """Print both answers to each question. max_new_tokens: None takes that of the run. width: of the terminal, in characters.

    Errors: ValueError if a question is empty; RuntimeError if the training is not complete; BaseModelError.
    """
    longest = run.settings.max_new_tokens if max_new_tokens is None else max_new_tokens
    refuse_useless(run, questions, longest)
    began = time.perf_counter()
    model, tokenizer = paired_answers.load(run, say)
    say(f"loaded in {time.perf_counter() - began:.0f} s")
    for question in questions:
        say(f"answering, at most {longest} tokens each …")
        began = time.perf_counter()
        both = paired_answers.answer(model, tokenizer, question, longest, Watcher(longest))
        print(f"\n> {question}\n\n{side_by_side(both, longest, width)}\n", flush=True)
        say(f"answered in {time.perf_counter() - began:.0f} s")


class Watcher:
    """Says every REPORT_EVERY seconds how many tokens are written; on a CPU an answer can take minutes."""

    def __init__(self, longest: int):
        self.longest, self.tokens, self.said = longest, 0, time.perf_counter()

    def __call__(self, texts: Sequence[str], ended: Sequence[bool]) -> bool:
        self.tokens += 1
        if time.perf_counter() - self.said > REPORT_EVERY:
            self.said = time.perf_counter()
            say(f"  {self.tokens} of at most {self.longest} tokens each")
        return False


def refuse_useless(run: Run, questions: Sequence[str], longest: int) -> None:
    """Errors: ValueError, before anything is loaded."""
    if not all(question.strip() for question in questions):
        example = f'python -m mistral_lib ask {paths.short(run.folder)} "What is a kernel?"'
        raise ValueError(f"a question is empty; expected words in quotation marks, as in: {example}")
    if longest < 1:
        raise ValueError(f"--max-new-tokens {longest}: expected 1 or more")


def side_by_side(both: TwoAnswers, longest: int, width: int) -> str:
    """The two answers in two columns; an answer that did not end by itself says so."""
    column = max(NARROWEST, (width - 3) // 2)
    texts = [text if ended else f"{text}\n\n(cut after {longest} tokens)" for text, ended in zip(both.texts(), both.ended, strict=True)]
    columns = [[head, "-" * column, *_wrapped(text, column)] for head, text in zip(("base model", "adapter"), texts, strict=True)]
    return "\n".join(f"{left:<{column}} | {right}".rstrip() for left, right in zip_longest(*columns, fillvalue=""))


def _wrapped(text: str, column: int) -> list[str]:
    """Lines of at most `column` characters; the text's own line breaks and indentation stay."""
    lines = text.expandtabs(4).splitlines()
    return [part for line in lines for part in textwrap.wrap(line, column) or [""]]
