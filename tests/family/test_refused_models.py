"""Models that need what the workbook lacks are refused by name before anything is fetched, or by config.json; each with what to do."""

import pytest

from mistral_lib.family import published_models, refused_models
from mistral_lib.model import base_model, model_folder

NAMES = {
    "mistralai/Mixtral-8x7B-Instruct-v0.1": "mixture of experts",
    "mistralai/Mistral-Large-3-675B-Instruct-2512": "mixture of experts",
    "mistralai/Mistral-Large-4-1T-A52B": "mixture of experts",
    "mistralai/Mistral-Small-4-119B-2603@main": "mixture of experts",
    "mistralai/Mamba-Codestral-7B-v0.1": "a Mamba model",
    "mistralai/Pixtral-12B-2409": "layout of Llava",
    "mistralai/Voxtral-Mini-3B-2507": "for speech",
    "mistralai/Ministral-3-8B-Instruct-2512": r"FP8 only.*set base_model to mistralai/Ministral-3-8B-Instruct-2512-BF16",
}


@pytest.mark.parametrize("name", NAMES)
def test_a_model_is_refused_by_name_before_anything_is_fetched(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda *_, **__: pytest.fail("the hub was asked"))
    with pytest.raises(base_model.BaseModelError, match=f"cannot train this model: .*{NAMES[name]}"):
        base_model.folder(name)


def test_no_model_of_the_table_is_refused() -> None:
    names = published_models.by_hub_id()
    assert len(names) == sum(len(row.hub_ids) for row in published_models.FAMILY), "each hub id is in one row"
    assert not [name for name in names if refused_models.reason_by_name(name)]


@pytest.mark.parametrize(
    ("config", "reason"),
    [
        ({"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}, "a mixture of experts"),
        ({"architectures": ["Mistral4ForCausalLM"], "model_type": "mistral4"}, "a mixture of experts"),
        ({"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": {"model_type": "mistral4"}}, "a mixture of experts"),
        ({"architectures": ["Mamba2ForCausalLM"], "model_type": "mamba2"}, "a Mamba model"),
        ({"architectures": ["LlavaForConditionalGeneration"], "model_type": "llava"}, "layout of Llava"),
    ],
)  # fmt: skip
def test_a_folder_is_refused_by_its_configuration(config: dict, reason: str) -> None:
    (fault,) = model_folder.config_faults(config)
    assert fault.startswith(f"config.json: {reason}" if reason.startswith("a ") else "config.json: multimodal") and reason in fault
    assert "choose" in fault


def test_fp8_weights_of_a_multimodal_folder_are_refused_with_what_to_use() -> None:
    config = {"architectures": ["Mistral3ForConditionalGeneration"], "model_type": "mistral3", "text_config": {"model_type": "ministral3"}}
    assert model_folder.config_faults(config) == []
    (fault,) = model_folder.config_faults({**config, "quantization_config": {"quant_method": "fp8"}})
    assert "already quantized (fp8)" in fault and "-BF16" in fault
