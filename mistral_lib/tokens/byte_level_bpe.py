"""The token ids of a byte-level BPE tokenizer, worked out by tiktoken: the same ids as the model's own in a quarter of the time.

Only for tokenizers whose file proves it (`of`), and checked again on texts of the corpus (`agrees`). Why the ids are the same: both
libraries cut a text by one pattern, and inside a piece join the pair of lowest rank, the leftmost of equals. tokenizers knows which
pairs may be joined, tiktoken joins any two neighbours that make a token. That is no difference where each merge joins bytes or
results of earlier merges, makes a token of its own, and every token's text becomes that one token: merges then happen in the order of
their ranks; no merge so far reached across the ends of two neighbours, so what stands between them is what their text alone would
have become by that rank; alone it becomes one token, and the last step of that has one pair only, which is the merge's.

Source: https://github.com/openai/tiktoken/blob/main/src/lib.rs, https://github.com/huggingface/tokenizers/blob/main/tokenizers/src/models/bpe/word.rs
"""

from collections.abc import Iterable, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import orjson

from mistral_lib.tokens import control_tokens

# tokenizers' own pattern of its ByteLevel step, from GPT-2; tests try it on every Unicode character in both libraries
PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
PIECES = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
PLAIN = {"dropout": (None, 0.0), "continuing_subword_prefix": (None, ""), "end_of_word_suffix": (None, ""), "ignore_merges": (None, False)}
BORDER = "\x01\x02"  # between two texts; marks begin with \x01 and end with \x02, so that no text can complete one
NO_BYTE, NO_TOKEN = -1, -2  # in place of an id: a byte that the vocabulary lacks, the border

Tokenised = tuple[np.ndarray, np.ndarray]  # ids, int32 (tokens,), and how many of them each stretch has, int64 (stretches,)


class ByteLevelBPE:
    def __init__(self, ranks: dict[bytes, int], ids: Sequence[int], control: Iterable[int]):
        """ranks: of each token's bytes; ids: of each rank, NO_BYTE for a byte that is no token; control: ids of control tokens."""
        import tiktoken

        control = sorted(control)
        self.marks = {number: f"\x01{number}\x02" for number in control}
        special = {mark: len(ids) + place for place, mark in enumerate((BORDER, *self.marks.values()))}
        self.ids = np.array([*ids, NO_TOKEN, *control], np.int32)  # of each rank
        self.special, self.first_special = frozenset(special), len(ids)
        self.encoding = tiktoken.Encoding("byte-level BPE", pat_str=PATTERN, mergeable_ranks=ranks, special_tokens=special)

    def tokenise(self, stretches: Sequence[str | int]) -> Tokenised | None:
        """Token ids of texts and control tokens (given by id) that follow each other; None for texts that only tokenizers can answer for:
        with a byte that is no token, or our marks, or a million blanks in a row. No text sees its neighbours."""
        places, words, behind_text = [], [], True  # of each stretch, the mark that it stands behind or is
        marks = []
        for stretch in stretches:
            is_text = isinstance(stretch, str)
            if behind_text or not is_text:
                marks.append(NO_TOKEN if is_text else stretch)
                words.append(BORDER if is_text else self.marks[stretch])
            if is_text:
                words.append(stretch)
            behind_text = is_text
            places.append(len(marks) - 1)
        ranks = self._ranks("".join(words))
        if ranks is None:
            return None
        found = np.flatnonzero(ranks >= self.first_special)
        ids = self.ids[ranks]
        if len(found) != len(marks) or (ids == NO_BYTE).any():
            return None
        behind = np.diff(found, append=len(ranks)) - 1  # tokens of the text behind each mark
        is_text = np.fromiter((isinstance(stretch, str) for stretch in stretches), bool, len(stretches))
        return ids[ids != NO_TOKEN], np.where(is_text, behind[places], 1)

    def _ranks(self, text: str) -> np.ndarray | None:
        try:
            return self.encoding.encode_to_numpy(text, allowed_special=self.special, disallowed_special=())
        except ValueError:  # the pattern's stack is full, or half a surrogate pair is no text
            return None

    def agrees(self, tokenizer: Any, texts: Sequence[str]) -> bool:
        """Whether tokenizers finds the same ids in these texts, wherever this one has an answer."""
        plain = control_tokens.of(tokenizer).behind
        own = [self.tokenise([text]) for text in texts]
        true = control_tokens.ids_of(plain, texts)
        return all(mine is None or mine[0].tolist() == ids for mine, ids in zip(own, true, strict=True))


def of(tokenizer: Any) -> ByteLevelBPE | None:
    """The quick way to a tokenizer's ids; None where its file does not prove that they are the same."""
    return _of(tokenizer, len(tokenizer))


@lru_cache(maxsize=8)
def _of(tokenizer: Any, size: int) -> ByteLevelBPE | None:
    control, setting = control_tokens.of(tokenizer), orjson.loads(tokenizer.backend_tokenizer.to_str())
    model = setting["model"]
    if control.at_start is not control.behind or not _is_plain(setting) or not all(token["special"] for token in setting["added_tokens"]):
        return None
    merged = _merged(model["merges"], model["vocab"])
    if merged is None or not _each_is_one_token(setting, merged):
        return None
    ids = [model["vocab"].get(name, NO_BYTE) for name in _characters()]
    names = [*_characters(), *merged]
    return ByteLevelBPE(dict(zip(_as_bytes(names), range(len(names)), strict=True)), [*ids, *merged.values()], control.ids.values())


def _is_plain(setting: dict[str, Any]) -> bool:
    """Whether nothing but GPT-2's pattern stands before the merges, and nothing but merges makes tokens."""
    model, pieces = setting["model"], setting["pre_tokenizer"] or {}
    return (
        setting["normalizer"] is None
        and model["type"] == "BPE"
        and all(pieces.get(name) == value for name, value in PIECES.items())
        and all(model.get(name) in values for name, values in PLAIN.items())
    )


def _merged(merges: Sequence[Sequence[str]], vocabulary: dict[str, int]) -> dict[str, int] | None:
    """The id of each merge's token, in the order of the merges; None unless each joins known parts to a token of its own."""
    merged: dict[str, int] = {}
    known = {name for name in _characters() if name in vocabulary}
    for left, right in merges:
        name = left + right
        if left not in known or right not in known or name in known or name not in vocabulary:
            return None
        known.add(name)
        merged[name] = vocabulary[name]
    return merged


def _each_is_one_token(setting: dict[str, Any], merged: dict[str, int]) -> bool:
    """Whether the merges make one token of each token's text."""
    from tokenizers import Tokenizer

    bare = Tokenizer.from_str(orjson.dumps({**setting, "pre_tokenizer": None, "post_processor": None}).decode())
    bare.encode_special_tokens = True
    names = list(merged)  # none of them becomes no token, since its bytes are tokens: as many ids as names is one each
    words = [names[start : start + 1024] for start in range(0, len(names), 1024)]
    found = bare.encode_batch_fast(words, is_pretokenized=True, add_special_tokens=False)
    return [number for encoding in found for number in encoding.ids] == list(merged.values())


def _as_bytes(names: Sequence[str]) -> list[bytes]:
    """The bytes that tokens stand for, given as byte-level vocabularies write them: one character for each byte."""
    every = "".join(names).translate({ord(character): byte for byte, character in enumerate(_characters())}).encode("latin-1")
    return [every[start:end] for start, end in pairwise([0, *np.cumsum(list(map(len, names))).tolist()])]


@lru_cache(maxsize=1)
def _characters() -> list[str]:
    """Of each byte the character that byte-level vocabularies write instead of it. Source: GPT-2, encoder.py, bytes_to_unicode."""
    shown = {*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)}
    others = iter(range(256, 512))
    return [chr(byte if byte in shown else next(others)) for byte in range(256)]
