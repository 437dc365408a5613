"""A fast tokenizer from a SentencePiece vocabulary of Mistral: BPE with byte fallback, and a blank before a text's first word.

Source: sentencepiece.py in mistral-common; the conversion of Llama's vocabulary in transformers has the same parts
"""

from pathlib import Path
from typing import Any


def load(path: Path) -> Any:
    """A `tokenizers.Tokenizer`."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    words = SentencePieceProcessor(model_file=str(path))
    every = range(words.vocab_size())
    names = [words.id_to_piece(number) for number in every]
    control = [number for number in every if words.IsControl(number) or words.IsUnknown(number)]
    pieces = [number for number in every if not (words.IsControl(number) or words.IsUnknown(number) or words.IsByte(number))]
    symbols = [number for number in pieces if words.get_score(number) == 0]  # such as [REFERENCE_DOC_1]: never split
    fast = Tokenizer(
        models.BPE(
            vocab={name: number for number, name in enumerate(names)}, merges=_merges(words, {names[number]: number for number in pieces}),
            unk_token="<unk>", fuse_unk=True, byte_fallback=True,
        )
    )  # fmt: skip
    fast.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="first", split=False)
    fast.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(content=" ", left=1)]
    )
    fast.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", words.bos_id())])
    fast.add_special_tokens([AddedToken(names[number], normalized=False, special=True) for number in control])
    fast.add_tokens([AddedToken(names[number], normalized=False) for number in symbols])
    return fast


def _merges(words: Any, pieces: dict[str, int]) -> list[tuple[str, str]]:
    """Every pair of pieces that forms another piece, best score first: SentencePiece's BPE as merge rules. pieces: name → id."""
    merges = []
    for name in sorted(pieces, key=lambda name: -words.get_score(pieces[name])):
        pairs = [(name[:cut], name[cut:]) for cut in range(1, len(name)) if name[:cut] in pieces and name[cut:] in pieces]
        merges += sorted(pairs, key=lambda pair: (pieces[pair[0]], pieces[pair[1]]))
    return merges
