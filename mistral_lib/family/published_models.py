"""The models of the Mistral family that the workbook trains: hub ids, class in transformers, sizes, tokenizer version, sources.

Data only. The language layers are what is trained; the vision tower of a multimodal model is not loaded (`text_part`).
tests/family/test_published_models.py takes a tiny model of every row through loading, training, measuring and reloading, and makes
docs/models.md from these rows.
"""

from dataclasses import dataclass, field
from functools import cache
from typing import Any

COMMON = {"num_attention_heads": 32, "num_key_value_heads": 8, "head_dim": 128, "rms_norm_eps": 1e-5, "sliding_window": None,
          "tie_word_embeddings": False}  # fmt: skip
MISTRAL_7B = {"vocab_size": 32768, "hidden_size": 4096, "intermediate_size": 14336, "num_hidden_layers": 32, **COMMON}
SMALL_24B = {"vocab_size": 131072, "hidden_size": 5120, "intermediate_size": 32768, "num_hidden_layers": 40, **COMMON}
MINISTRAL_3 = {"vocab_size": 131072, **COMMON}
CONFIG_JSON = "config.json of the hub's repository, as public projects quote it"
TOKENIZERS = "docs/models.md of mistral-common (tokenizer)"
BRIDGE = "its provider in NVIDIA's Megatron-Bridge"


@dataclass(frozen=True)
class FamilyModel:
    """A row of the table. All hub ids of a row have the same sizes."""

    name: str
    hub_ids: tuple[str, ...]
    architecture: str  # `architectures` in config.json
    model_type: str  # of the language layers: `mistral`, `ministral`, `ministral3`
    sizes: dict[str, Any] = field(hash=False)
    tokenizer: str  # version: a key of `mistral_tokenizer.FILES`
    source: str
    unverified: str = ""  # what no source confirmed

    @property
    def multimodal(self) -> bool:
        return self.architecture == "Mistral3ForConditionalGeneration"


def _seven(version: str, tokenizer: str, **sizes: Any) -> FamilyModel:
    ids = (f"mistralai/Mistral-7B-{version}", f"mistralai/Mistral-7B-Instruct-{version}")
    return FamilyModel(f"Mistral 7B {version}", ids, "MistralForCausalLM", "mistral", {**MISTRAL_7B, **sizes}, tokenizer,
                       f"{CONFIG_JSON}; {TOKENIZERS}")  # fmt: skip


def _small(name: str, ids: tuple[str, ...], tokenizer: str, source: str, unverified: str = "") -> FamilyModel:
    architecture = "MistralForCausalLM" if "2501" in name else "Mistral3ForConditionalGeneration"
    return FamilyModel(name, ids, architecture, "mistral", SMALL_24B, tokenizer, source, unverified)


def _ministral_3(size: str, **sizes: Any) -> FamilyModel:
    ids = tuple(f"mistralai/Ministral-3-{size}-{kind}" for kind in ("Base-2512", "Instruct-2512-BF16", "Reasoning-2512"))
    source = f"{BRIDGE}; defaults of Ministral3Config in transformers"
    return FamilyModel(f"Ministral 3 {size}", ids, "Mistral3ForConditionalGeneration", "ministral3", {**MINISTRAL_3, **sizes}, "v13", source,
                       "tokenizer version")  # fmt: skip


FAMILY: tuple[FamilyModel, ...] = (
    _seven("v0.1", "v1", vocab_size=32000, sliding_window=4096),
    _seven("v0.2", "v1", vocab_size=32000),
    _seven("v0.3", "v3"),
    FamilyModel(
        "Mistral Nemo 12B 2407", ("mistralai/Mistral-Nemo-Base-2407", "mistralai/Mistral-Nemo-Instruct-2407"), "MistralForCausalLM", "mistral",
        {**SMALL_24B, "intermediate_size": 14336}, "v3-tekken",
        f"{CONFIG_JSON}; {TOKENIZERS}",
    ),
    FamilyModel(
        "Ministral 8B 2410", ("mistralai/Ministral-8B-Instruct-2410",), "MinistralForCausalLM", "ministral",
        {**MISTRAL_7B, "vocab_size": 131072, "intermediate_size": 12288, "num_hidden_layers": 36, "sliding_window": 32768,
         "layer_types": ["full_attention", *["sliding_attention"] * 3] * 9},
        "v3-tekken", f"{CONFIG_JSON}; page of Ministral in transformers (order of the layers)",
        "whether config.json names the layers (if not, it is loaded as MistralForCausalLM)",
    ),
    _small("Mistral Small 24B 2501", ("mistralai/Mistral-Small-24B-Base-2501", "mistralai/Mistral-Small-24B-Instruct-2501"), "v7-tekken",
           f"{BRIDGE}; {TOKENIZERS}"),
    _small("Mistral Small 3.1 24B 2503", ("mistralai/Mistral-Small-3.1-24B-Base-2503", "mistralai/Mistral-Small-3.1-24B-Instruct-2503"),
           "v7-tekken", f"defaults of Mistral3Config in transformers; {TOKENIZERS}"),
    _small("Mistral Small 3.2 24B 2506", ("mistralai/Mistral-Small-3.2-24B-Instruct-2506",), "v11",
           "taken as those of 2503", "sizes and tokenizer version"),
    _ministral_3("3B", hidden_size=3072, intermediate_size=9216, num_hidden_layers=26, tie_word_embeddings=True),
    _ministral_3("8B", hidden_size=4096, intermediate_size=14336, num_hidden_layers=34),
    _ministral_3("14B", hidden_size=5120, intermediate_size=16384, num_hidden_layers=40),
)  # fmt: skip


@cache
def by_hub_id() -> dict[str, FamilyModel]:
    return {name: model for model in FAMILY for name in model.hub_ids}


def text_config(model: FamilyModel) -> Any:
    """transformers' configuration of the model's language layers, with the published sizes."""
    from transformers import AutoConfig

    return AutoConfig.for_model(model.model_type, **model.sizes)
