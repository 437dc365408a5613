"""A tiny model of random weights for each row of the family's table, saved as its repository on the hub is laid out."""

from pathlib import Path
from typing import Any

from mistral_lib.family import published_models
from mistral_lib.family.published_models import FamilyModel

WORDS, HEAD_DIM = 96, {3072: 20, 4096: 16, 5120: 12}  # by hidden size: as in the models, heads together wider, as wide or narrower
WINDOW, SCALED_FROM = 24, 32  # tokens: sliding window, and original_max_position_embeddings of Ministral 3


def kind(model: FamilyModel) -> str:
    """Rows with the same kind have the same tiny model."""
    sizes = model.sizes
    layers = "-layers" if sizes.get("layer_types") else ""
    return (
        f"{model.architecture.removesuffix('ForCausalLM').removesuffix('ForConditionalGeneration')}-{model.model_type}-{sizes['hidden_size']}"
        f"{'-window' if sizes['sliding_window'] else ''}{layers}{'-tied' if sizes['tie_word_embeddings'] else ''}"
    )


def kinds() -> dict[str, FamilyModel]:
    """The first row of each kind."""
    return {kind(model): model for model in reversed(published_models.FAMILY)}


def text_sizes(model: FamilyModel) -> dict[str, Any]:
    """The row's sizes, shrunk."""
    sizes = {**model.sizes, "vocab_size": WORDS, "hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4,
             "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": HEAD_DIM[model.sizes["hidden_size"]],
             "initializer_range": 0.1, "max_position_embeddings": 256, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
    if sizes["sliding_window"]:
        sizes["sliding_window"] = WINDOW
    if sizes.get("layer_types"):
        sizes["layer_types"] = sizes["layer_types"][:4]
    if model.model_type == "ministral3":
        sizes["rope_parameters"] = {
            "rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": SCALED_FROM, "beta_fast": 32.0,
            "beta_slow": 1.0, "mscale": 1.0, "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.1,
        }  # fmt: skip
    return sizes


def complete(model: FamilyModel) -> Any:
    """The tiny model, of the class that config.json names; with a tiny vision tower if it is multimodal."""
    import torch
    import transformers

    torch.manual_seed(0)
    text = transformers.AutoConfig.for_model(model.model_type, **text_sizes(model))
    if not model.multimodal:
        return getattr(transformers, model.architecture)(text).eval()
    vision = transformers.PixtralVisionConfig(
        hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, tie_word_embeddings=model.sizes["tie_word_embeddings"], vision_feature_layer=-1
    )
    return transformers.Mistral3ForConditionalGeneration(config).eval()


def save(model: FamilyModel, folder: Path) -> Any:
    """Save the tiny model and a tokenizer of WORDS tokens to `folder`. Returns the model."""
    made = complete(model)
    made.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return made


def tokenizer() -> Any:
    from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    control = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]"]
    names = [*control, *(f"w{number}" for number in range(WORDS - len(control)))]
    fast = Tokenizer(models.WordLevel({name: number for number, name in enumerate(names)}, unk_token="<unk>"))
    fast.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in control])
    template = "{{ bos_token }}{% for m in messages %}{{ '[INST]' + m['content'] + '[/INST]' if m['role'] == 'user' else m['content'] + eos_token }}{% endfor %}"
    return PreTrainedTokenizerFast(
        tokenizer_object=fast, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>", chat_template=template
    )
