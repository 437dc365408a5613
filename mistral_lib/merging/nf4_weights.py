"""The weights of a base model as a training in NF4 sees them: which are quantized, and what is left of each after it.

transformers and bitsandbytes decide both: the model is prepared for loading without weights, and each weight goes through the same
call as in loading. Knows one model; knows nothing of adapters or files of weights.
Source: transformers/integrations/bitsandbytes.py (replace_with_bnb_linear, Bnb4bitQuantize), QLoRA (arXiv:2305.14314) section 3.
"""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.model import base_model, model_folder
from mistral_lib.run import hardware


@dataclass(frozen=True)
class Nf4Weights:
    """names: of the weights that loading quantizes, as the loaded language model has them; options: of bitsandbytes' Params4bit."""

    names: frozenset[str]
    options: dict[str, Any]

    def dequantized(self, weight: Any, dtype: str) -> Any:
        """A weight (out, in) quantized in the dtype that the model is loaded in, and dequantized in it again; on the CPU.

        dtype: `float32`, `bfloat16` or `float16`; the scale of each block is taken from the weight rounded to it. On a machine with a
        GPU its kernel does it, as in training there.
        """
        import torch
        from bitsandbytes import functional
        from bitsandbytes.nn import Params4bit

        loaded = weight.to(device=hardware.device_of_this_process(hardware.device()), dtype=getattr(torch, dtype))
        quantized = Params4bit(loaded, requires_grad=False, **self.options).to(loaded.device)
        return functional.dequantize_4bit(quantized.data, quantized.quant_state).cpu()


def of_base(base: Path) -> Nf4Weights:
    """What loading the base model in this folder with `base_model.NF4` quantizes. Reads config.json and names of tensors only."""
    import torch
    from bitsandbytes.nn import Linear4bit
    from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig
    from transformers.quantizers.auto import AutoHfQuantizer

    config = model_folder.loading_options(base).get("config") or AutoConfig.from_pretrained(base)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    quantizer = AutoHfQuantizer.from_config(BitsAndBytesConfig(**base_model.NF4), pre_quantized=False)
    quantizer.preprocess_model(model, device_map=None)
    weights = {f"{name}.weight": module.weight for name, module in model.named_modules() if isinstance(module, Linear4bit)}
    options = copy.copy(next(iter(weights.values())).__dict__)
    return Nf4Weights(frozenset(weights), {**options, "module": None})
