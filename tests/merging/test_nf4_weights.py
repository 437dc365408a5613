"""What is dequantized is bit by bit what a model that is loaded in NF4 holds, and the same weights are quantized."""

from pathlib import Path
from typing import Any

import pytest
import torch

from mistral_lib.merging import merged_weights, nf4_weights
from mistral_lib.merging.adapter_tensors import text_part_name
from mistral_lib.model import base_model, model_folder
from tests.support import family, sharded_model
from tests.support.corpora import short_run

DTYPES = ("float32", "bfloat16", "float16")


def loaded(folder: Path, dtype: str) -> Any:
    """The language model as `base_model.load_base` loads it, in a dtype that it would not choose on a CPU as well."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    nf4 = BitsAndBytesConfig(**base_model.NF4, bnb_4bit_compute_dtype=getattr(torch, dtype))
    options = {
        **model_folder.loading_options(folder),
        "dtype": getattr(torch, dtype),
        "quantization_config": nf4,
        "device_map": {"": "cpu"},
    }
    return AutoModelForCausalLM.from_pretrained(folder, **options)


def held(model: Any) -> dict[str, torch.Tensor]:
    """The quantized weights of a loaded model, dequantized by peft."""
    from bitsandbytes.nn import Linear4bit
    from peft.utils.integrations import dequantize_module_weight

    quantized = {name: module for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    return {f"{name}.weight": dequantize_module_weight(module).data for name, module in quantized.items()}


def file_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """The tensors of all shards, by their names in the loaded language model."""
    from safetensors.torch import load_file

    return {text_part_name(name): tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("kind", family.kinds())
def test_the_weights_that_loading_quantizes_are_found_in_every_model_of_the_family(kind: str, tmp_path: Path) -> None:
    family.save(family.kinds()[kind], tmp_path)
    found, expected, tensors = nf4_weights.of_base(tmp_path), held(loaded(tmp_path, "float32")), file_tensors(tmp_path)
    assert found.names == expected.keys() and len(expected) == 4 * 7
    assert all(torch.equal(found.dequantized(tensors[name], "float32"), weight) for name, weight in expected.items())


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stored", ["float32", "bfloat16"])
def test_a_weight_is_dequantized_to_what_loading_in_the_dtype_holds(stored: str, dtype: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    sharded_model.save(tmp_path / "bfloat16", tied=True)
    AutoModelForCausalLM.from_pretrained(tmp_path / "bfloat16", dtype=torch.float32).save_pretrained(tmp_path / "float32")
    place = tmp_path / stored
    found, expected, tensors = nf4_weights.of_base(place), held(loaded(place, dtype)), file_tensors(place)
    assert found.names == expected.keys() and len(expected) == 28, "no embedding, head or norm"
    for name, weight in expected.items():
        dequantized = found.dequantized(tensors[name], dtype)
        assert dequantized.dtype == getattr(torch, dtype) and torch.equal(dequantized, weight)
        assert not torch.equal(dequantized.float(), tensors[name].float()), "something is lost"


@pytest.mark.parametrize("dtype", DTYPES[:2])
def test_the_merge_is_what_peft_has_before_it_quantizes_again(dtype: str, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Weights that the adapter does not touch are dequantized too; embedding, head and norms stay as they are in the files."""
    import bitsandbytes
    from peft import PeftModel

    base = sharded_model.save(home / "base")
    settings = short_run(base_model=str(base), quantization="nf4", dtype=dtype, lora_targets="q_proj,up_proj", lora_rank=4)
    adapter = sharded_model.trained_adapter(settings, home / "training")
    merged_weights.merge(base, adapter, home / "merged", "nf4")
    model = PeftModel.from_pretrained(base_model.load_base(settings), str(adapter))
    expected = {f"{name}": weight for name, weight in held(model.get_base_model()).items()}
    names = [name.removesuffix(".base_layer.weight") + ".weight" for name in expected if ".base_layer." in name]
    expected = {name.replace(".base_layer.", "."): weight for name, weight in expected.items()}
    quantized_again, quantize = [], bitsandbytes.nn.Params4bit
    monkeypatch.setattr(bitsandbytes.nn, "Params4bit", lambda data, **options: quantized_again.append(data) or quantize(data, **options))
    model.merge_and_unload()
    assert len(quantized_again) == len(names) == 8
    expected |= dict(zip(names, quantized_again, strict=True))
    before, after = file_tensors(base), file_tensors(home / "merged")
    assert before.keys() == after.keys()
    wrong = [name for name in before if not torch.equal(after[name], expected.get(name, before[name]).to(torch.bfloat16))]
    assert wrong == [] and len(expected) == 28
