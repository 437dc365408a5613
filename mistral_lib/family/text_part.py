"""The language model of a multimodal checkpoint (Mistral3ForConditionalGeneration), loaded without vision tower and projector.

The language layers are a complete MistralForCausalLM or Ministral3ForCausalLM; only the names of their tensors differ. So that class is
loaded from the same files by renaming. transformers fills what is missing with random numbers, so every tensor is required
(`base_model.require_all_weights`), and the vision tensors are left unread.
"""

from collections.abc import Iterable
from typing import Any

MULTIMODAL = "Mistral3ForConditionalGeneration"
# As the hub's repositories name them, and as transformers names them in memory. Patterns and what replaces them, for `from_pretrained`.
RENAMED = {r"^language_model\.lm_head\.": "lm_head.", r"^language_model\.model\.": "model.", r"^model\.language_model\.": "model."}
EMBEDDINGS = ("model.embed_tokens.weight", "language_model.model.embed_tokens.weight", "model.language_model.embed_tokens.weight")
HEADS = ("lm_head.weight", "language_model.lm_head.weight")


def is_multimodal(config: dict[str, Any]) -> bool:
    """config: the content of config.json."""
    return MULTIMODAL in (config.get("architectures") or [])


def sizes(config: dict[str, Any]) -> dict[str, Any]:
    """The part of config.json that describes the language layers."""
    return config.get("text_config") or {} if is_multimodal(config) else config


def text_config(config: Any, tensors: Iterable[str] | None = None) -> Any:
    """transformers' configuration of the language layers; that of a text model is returned as it is.

    tensors: the names in the checkpoint. Whether head and embedding are one tensor is decided by them: the configuration says it
    twice, for the complete model and for its text part, and the two may differ.
    """
    if config.model_type != "mistral3":
        return config
    text = config.get_text_config()
    text.architectures = None  # else the complete model's class would be named in it
    if tensors is not None:
        text.tie_word_embeddings = not set(HEADS).intersection(tensors)
    return text


def adapter_key_for_complete_model(key: str) -> str:
    """The name of an adapter's tensor in the complete multimodal model, for tools that load that one (such as a server for images)."""
    return key.replace("base_model.model.model.layers.", "base_model.model.model.language_model.layers.")
