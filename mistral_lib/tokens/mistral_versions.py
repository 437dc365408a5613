"""Which of Mistral's chat formats a tokenizer has: v1, v3, v7, v11 or v13, by its control tokens and by what its template can write.

v2 differs from v3 in tools only, which no published model with v2 needs. Each format exists with a SentencePiece vocabulary, which
begins every text with a blank, and with tekken, which adds none.   Source: https://docs.mistral.ai/guides/tokenization/
"""

from functools import lru_cache
from typing import Any

from mistral_lib.tokens import control_tokens

WORD = "▁the"  # in every SentencePiece vocabulary of Mistral, and in no byte-level one


def version(tokenizer: Any) -> str:
    """`v1`, `v3`, `v7`, `v11` or `v13`; "" for the tokenizer of another family."""
    return _version(tokenizer, tokenizer.chat_template)


@lru_cache(maxsize=64)
def _version(tokenizer: Any, template: str) -> str:
    names = control_tokens.of(tokenizer).ids.keys()
    if {"[INST]", "[/INST]"} <= names:
        if "[ARGS]" in template and "[ARGS]" in names:
            return "v11" if "[CALL_ID]" in template else "v13"
        return "v7" if "[SYSTEM_PROMPT]" in template and "[SYSTEM_PROMPT]" in names else "v3"
    as_text = "[INST]" in template and "[/INST]" in template and "<<SYS>>" not in template  # that is Llama 2's
    return "v1" if as_text and WORD in tokenizer.get_vocab() else ""


def blank(tokenizer: Any) -> str:
    """What the tokenizer puts before every text by itself: " " for Mistral's SentencePiece vocabularies, "" for all others."""
    return " " if version(tokenizer) and _has_word(tokenizer) else ""


@lru_cache(maxsize=64)
def _has_word(tokenizer: Any) -> bool:
    return tokenizer.convert_tokens_to_ids(WORD) not in (None, tokenizer.unk_token_id)
