"""Mistral's tokenizers without a hub: rebuilt from the vocabularies that mistral-common ships, for token counts and plans.

A version whose file is shipped gives the same token ids as the downloaded tokenizer, so counts are exact before a model is downloaded.
The other tekken versions (`COMPOSED`) have the shipped vocabulary with control tokens by their names: their counts are right, but the
ids of control tokens may differ from the model's own file. A training needs the real files.
tests/tokens/test_mistral_versions.py compares every version with mistral-common token by token.
Source: https://docs.mistral.ai/guides/tokenization/
"""

from copy import copy
from functools import cache
from pathlib import Path
from typing import Any

from mistral_lib.family import chat_templates, published_models, sentencepiece_tokenizer, tekken_tokenizer
from mistral_lib.run.progress import say

TEMPLATE = chat_templates.in_user_message(" ")  # of v3
TEKKEN = "tekken_240911.json"
FILES = {
    "v1": "tokenizer.model.v1", "v2": "mistral_instruct_tokenizer_240216.model.v2", "v3": "mistral_instruct_tokenizer_240323.model.v3",
    "v7": "mistral_instruct_tokenizer_241114.model.v7", "v7m1": "mistral_instruct_tokenizer_241114.model.v7m1",
    "v3-tekken": "tekken_240718.json", "v3m1-tekken": TEKKEN, "v7-tekken": TEKKEN, "v11": TEKKEN, "v13": TEKKEN,
}  # fmt: skip
COMPOSED = ("v7-tekken", "v11", "v13")  # mistral-common ships their vocabulary, not their file
TEMPLATES = {
    "v1": chat_templates.AS_TEXT, "v2": TEMPLATE, "v3": TEMPLATE, "v7": chat_templates.with_system_tokens(" "),
    "v7m1": chat_templates.with_system_tokens(" "), "v3-tekken": chat_templates.in_user_message(""),
    "v3m1-tekken": chat_templates.in_user_message(""), "v7-tekken": chat_templates.with_system_tokens(""),
    "v11": chat_templates.CALLS_WITH_IDS + chat_templates.with_system_tokens(""),
    "v13": chat_templates.CALLS_WITHOUT_IDS + chat_templates.with_system_tokens(""),
}  # fmt: skip
# Control tokens of tekken by their ids. Up to v7 mistral-common has them in its code; the last four come with the files of later versions.
NAMES = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
         "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]", "[SUFFIX]", "[SYSTEM_PROMPT]",
         "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]")  # fmt: skip
CONTROL = dict(enumerate(NAMES)) | {32: "[ARGS]", 33: "[CALL_ID]", 34: "[THINK]", 35: "[/THINK]"}


@cache
def load(version: str = "v3") -> Any:
    """A fast tokenizer with the vocabulary, control tokens and chat template of a version (a key of FILES). Takes some seconds."""
    tokenizer = copy(_vocabulary("v3-tekken" if FILES[version].endswith(".json") else version))  # the shipped tekken vocabularies are equal
    tokenizer.chat_template = TEMPLATES[version]
    return tokenizer


@cache
def _vocabulary(version: str) -> Any:
    from transformers import PreTrainedTokenizerFast

    path = vocabulary_file(version)
    tekken = path.suffix == ".json"
    return PreTrainedTokenizerFast(
        tokenizer_object=tekken_tokenizer.load(path, CONTROL) if tekken else sentencepiece_tokenizer.load(path),
        bos_token="<s>", eos_token="</s>", unk_token="<unk>", clean_up_tokenization_spaces=False, **({"pad_token": "<pad>"} if tekken else {}),
    )  # fmt: skip


def without_hub(name: str, error: Exception) -> Any | None:
    """The tokenizer of a published model of the family if the hub cannot be reached, with a message; None for any other hub id.

    name: owner/name without a revision. error: why the hub was not reached.
    """
    model = published_models.by_hub_id().get(name)
    if model is None:
        return None
    exact = "its token ids are exact" if model.tokenizer not in COMPOSED else "its counts are right, its control tokens may have other ids"
    say(
        f"{error}\nUntil then its tokenizer is version {model.tokenizer} from mistral-common, for counts and plans ({exact}); training needs the model's own files"
    )
    return load(model.tokenizer)


def vocabulary_file(version: str = "v3") -> Path:
    import mistral_common

    return Path(mistral_common.__file__).parent / "data" / FILES[version]
