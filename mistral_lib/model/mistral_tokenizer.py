"""Mistral-7B-Instruct-v0.3's tokenizer without a hub: rebuilt from the vocabulary that mistral-common ships.

It gives the same token ids as the downloaded tokenizer, so token counts and plans are exact before a model is downloaded.
tests/tokens/test_chat_format.py compares it with mistral-common token by token.
Source: https://docs.mistral.ai/guides/tokenization/ (v3)
"""

from functools import cache
from pathlib import Path
from typing import Any

VOCABULARY = "mistral_instruct_tokenizer_240323.model.v3"
# The system text precedes the last user message; each answer begins with a space of its own.
TEMPLATE = (
    "{%- set system = messages[0]['content'] if messages[0]['role'] == 'system' else none %}"
    "{%- set turns = messages[1:] if system is not none else messages %}"
    "{%- set last = namespace(user=-1) %}"
    "{%- for turn in turns %}{%- if turn['role'] == 'user' %}{%- set last.user = loop.index0 %}{%- endif %}{%- endfor %}"
    "{{- bos_token }}"
    "{%- for turn in turns %}"
    "{%- if (turn['role'] == 'user') != (loop.index0 % 2 == 0) or turn['role'] not in ('user', 'assistant') %}"
    "{{- raise_exception('after an optional system message, user and assistant must take turns') }}{%- endif %}"
    "{%- if turn['role'] == 'assistant' %}{{- ' ' + turn['content'].rstrip(' ') + eos_token }}"
    "{%- elif loop.index0 == last.user and system is not none %}{{- '[INST] ' + system + '\\n\\n' + turn['content'] + '[/INST]' }}"
    "{%- else %}{{- '[INST] ' + turn['content'] + '[/INST]' }}{%- endif %}"
    "{%- endfor %}"
)


@cache
def load() -> Any:
    """A fast tokenizer with Mistral's v3 vocabulary, control tokens and chat template (`TEMPLATE`). Takes about a second."""
    from sentencepiece import SentencePieceProcessor
    from transformers import PreTrainedTokenizerFast

    words = SentencePieceProcessor(model_file=str(vocabulary_file()))
    return PreTrainedTokenizerFast(
        tokenizer_object=_fast(words), bos_token="<s>", eos_token="</s>", unk_token="<unk>", chat_template=TEMPLATE,
        clean_up_tokenization_spaces=False,
    )  # fmt: skip


def vocabulary_file() -> Path:
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / VOCABULARY


def _fast(words: Any) -> Any:
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

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
