"""Placeholder text that shows in the complete corpus: many records repeat one sentence that only copies a name from the prompt.

"Processed content from report_7.pdf" says nothing that the prompt does not say. So only file names, paths, addresses and identifiers are
masked, and in an answer only those that its prompt contains: a value that is not in the prompt is to be learnt. Equal prompt and answer,
masked, are a pattern; patterns are counted by their hashes. Labels, canned replies, code and calls of tools are no pattern.
"""

import re

import numpy as np

from mistral_lib.run.files import hash64

MASK = "·"
MACHINE_NAME = re.compile(
    r"""[a-z]{2,10}://\S+ | (?<!\S)(?:[A-Za-z]:)?[\w.~-]{0,80}[/\\]\S*   # addresses and paths
    | (?<![\w.])[\w-]{1,120}\.[A-Za-z][A-Za-z0-9]{0,9}(?!\w)             # file names
    | (?<!\w)[A-Za-z]\w{0,60}(?:_\w{1,60}|[0-9]{1,12})(?!\w)             # identifiers: module_17, part3""",
    re.VERBOSE,
)
LONGEST = 300  # characters of a pattern: placeholder texts are short, and masking takes time
STRUCTURE = re.compile(r"\s*[\[{(<`]|[^\n]*[\n{}<>`]|\w+\(|[\w ]{1,30}[:=] ")  # code, calls, JSON, markup, several lines, `key: value`


def pattern(answer: str, prompt: str | None) -> str:
    """Prompt and answer with the copied names masked; "" for a record that is a pattern of its own. prompt: None for a document."""
    if len(answer) > LONGEST or len(prompt or "") > LONGEST or STRUCTURE.match(answer):
        return ""
    masked = MACHINE_NAME.sub(lambda found: MASK if prompt is None or found.group() in prompt else found.group(), answer)
    return f"{MACHINE_NAME.sub(MASK, prompt or '')}\x1f{' '.join(masked.split())}" if masked != answer else ""


def pattern_hash(answer: str, prompt: str | None) -> int | None:
    """The 64-bit hash of a record's pattern; None if it is one of its own."""
    found = pattern(answer, prompt)
    return hash64(found) if found else None


def repeated(hashes: np.ndarray, more_than: int) -> np.ndarray:
    """The hashes that occur more than `more_than` times, ascending. hashes: uint64 (records,)."""
    values, counts = np.unique(hashes, return_counts=True)
    return values[counts > more_than]
