"""A fast tokenizer from a tekken vocabulary: byte-level BPE, with the control tokens before the vocabulary.

Source: tekken.py in mistral-common; tiktoken's merges: the adjacent pair whose union has the lowest rank comes first
"""

import base64
from pathlib import Path
from typing import Any

import orjson

FILLER = "<SPECIAL_{}>"  # a control token without a name


def load(path: Path, control: dict[int, str]) -> Any:
    """A `tokenizers.Tokenizer`. control: names of control tokens by id; the others are called FILLER, and no text can contain them."""
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors

    data = orjson.loads(path.read_bytes())
    setting = data["config"]
    first = setting["default_num_special_tokens"]
    names = [control.get(number, FILLER.format(number)) for number in range(first)]
    pieces = [base64.b64decode(entry["token_bytes"]) for entry in data["vocab"][: setting["default_vocab_size"] - first]]
    letters = byte_letters()
    texts = ["".join(letters[byte] for byte in piece) for piece in pieces]
    vocabulary = {name: number for number, name in enumerate(names)} | {text: first + rank for rank, text in enumerate(texts)}
    fast = Tokenizer(models.BPE(vocab=vocabulary, merges=_merges(texts), ignore_merges=True))
    fast.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(setting["pattern"]), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    fast.decoder = decoders.ByteLevel()
    bos = names.index("<s>")
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", bos)])
    fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in control.values()])
    return fast


def byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in a byte-level vocabulary.   Source: encoder.py of GPT-2"""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {byte: chr(byte) for byte in printable} | {byte: chr(256 + place) for place, byte in enumerate(others)}


def _merges(texts: list[str]) -> list[tuple[str, str]]:
    """Every pair of tokens that forms a token, in the order of that token's rank."""
    known = set(texts)
    return [(text[:cut], text[cut:]) for text in texts for cut in range(1, len(text)) if text[:cut] in known and text[cut:] in known]
