"""The sizes of a base model without its weights: from the table of the family, a folder's config.json, or the hub."""

from typing import Any

from mistral_lib.family import published_models, text_part
from mistral_lib.model import base_model, demo_model, hub_model

PUBLISHED: dict[str, dict[str, Any]] = {
    name: {"model_type": model.model_type, **model.sizes} for name, model in published_models.by_hub_id().items()
} | {
    demo_model.NAME: {
        "vocab_size": 49152, "hidden_size": 576, "intermediate_size": 1536, "num_hidden_layers": 30, "num_attention_heads": 9,
        "num_key_value_heads": 3, "head_dim": 64, "rms_norm_eps": 1e-5, "sliding_window": None, "tie_word_embeddings": True,
    },
}  # fmt: skip


def config_of(name: str) -> Any:
    """The transformers configuration of a base model's language layers: hub id, local folder, s3:// prefix or embedded model. Nothing is
    fetched for those in PUBLISHED, and no weights for others. Errors: BaseModelError if there is no configuration."""
    from transformers import AutoConfig

    if (listed := hub_model.repository(name)) in PUBLISHED:  # no revision of these has other sizes
        return AutoConfig.for_model(**{"model_type": "mistral", **PUBLISHED[listed]})
    try:
        return text_part.text_config(AutoConfig.from_pretrained(str(base_model.folder(name, weights=False))))
    except base_model.BaseModelError as error:
        raise base_model.BaseModelError(f"{error}. Sizes are listed for: {', '.join(PUBLISHED)}") from error


def head_size(config: Any) -> int:
    """The width of an attention head."""
    return config.head_dim or config.hidden_size // config.num_attention_heads


def linear_parameters(config: Any) -> int:
    """Parameters of the linear layers between embedding and head: those that a token is multiplied with and that NF4 quantizes."""
    hidden, heads = config.hidden_size, head_size(config)
    attention = hidden * heads * (2 * config.num_attention_heads + 2 * config.num_key_value_heads)
    return config.num_hidden_layers * (attention + 3 * hidden * config.intermediate_size)


def checkpoint_bytes(config: Any) -> int:
    """Size of the weights as published: two bytes a parameter."""
    return 2 * (linear_parameters(config) + config.vocab_size * config.hidden_size * (1 if config.tie_word_embeddings else 2))
