"""README.md of an adapter's folder, which is what one hands on: what the adapter is, the counts of its training, how to load it.

Nothing private is in it: no path, no name of a file, run or person. It has no verdict; that is in the evaluation's model_card.md.
"""

from typing import Any

import yaml

from mistral_lib.model import base_model, demo_model
from mistral_lib.run.settings import Settings

TEXT = """# A LoRA adapter of {name}

This folder holds what training changed, not a complete model: it belongs to {base}. On any other base model its answers are nonsense.

There is no verdict here. Whether the adapter is better than its base model, and where it is worse, stands in the model card that its evaluation wrote: `evaluation/model_card.md` in the folder of the run. A model may repeat texts that it was trained on: give the adapter only to people who may read them.

## What it was trained on

{counts}

The texts themselves are not in this folder. `provenance.json` has all parameters and the hash of the weights.

## Load it

```python
{loading}
```
"""
LOADING = """import torch{workbook}
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer{import_nf4}

base = {base}
adapter = "."  # the folder of this README
{nf4}tokenizer = AutoTokenizer.from_pretrained(base{revision}, mistral_format=False)  # its tokenizer.json, also beside mistral-common
model = AutoModelForCausalLM.from_pretrained(base{revision}, dtype=torch.{dtype}{use_nf4}, device_map="auto")
model = PeftModel.from_pretrained(model, adapter).eval()

chat = [{{"role": "user", "content": "What is a kernel?"}}]
prompt = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_dict=True, return_tensors="pt").to(model.device)
answer = model.generate(**prompt, max_new_tokens=64, do_sample=False)
print(tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :], skip_special_tokens=True))"""
NF4 = "nf4 = BitsAndBytesConfig({options}, bnb_4bit_compute_dtype=torch.{dtype})\n"


def front_matter(metadata: dict[str, Any]) -> str:
    """The block at the head of a README that the Hugging Face hub reads."""
    return f"---\n{yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True)}---\n"


def metadata(settings: Settings) -> dict[str, Any]:
    """What the hub wants to know of an adapter."""
    tags = ["lora", "qlora"] if settings.quantization == "nf4" else ["lora"]
    shown = base_model.shown_name(settings.base_model)
    return {"base_model": shown, "library_name": "peft", "pipeline_tag": "text-generation", "tags": tags}


def text(settings: Settings, provenance: dict[str, Any]) -> str:
    """The complete README. provenance: the content of provenance.json."""
    name, commit = base_model.shown_name(settings.base_model), provenance["base_revision"]
    at = f" at commit `{commit}`" if commit else f", whose weights and configuration have the fingerprint `{provenance['base_identity']}`"
    filled = TEXT.format(name=name, base=f"`{name}`{at}", counts=counts(settings, provenance), loading=loading(settings, provenance))
    return front_matter(metadata(settings)) + "\n" + filled


def counts(settings: Settings, provenance: dict[str, Any]) -> str:
    """The training in numbers, as a table."""
    made = provenance["trained_on"]
    passes = made["steps"] * made["blocks_per_step"] / made["blocks"]
    rows = {
        "training split": f"{made['records']:,} records, {made['supervised_tokens']:,} supervised tokens, in {made['blocks']:,} blocks of "
                          f"{made['block_tokens']:,} tokens",
        "training": f"{made['steps']:,} optimizer steps of {made['blocks_per_step']} blocks: {passes:.2f} passes over the training split",
        "adapter": f"of step {made['adapter_step']:,}; rank {settings.lora_rank}, alpha {settings.lora_alpha}, on {settings.lora_targets}",
        "learning rate": f"{settings.learning_rate}, seed {settings.seed}",
        "base weights": f"{settings.quantization}, compute type {provenance['dtype']}",
    }  # fmt: skip
    return "\n".join(["| what | how much |", "|---|---|", *(f"| {what} | {how_much} |" for what, how_much in rows.items())])


def loading(settings: Settings, provenance: dict[str, Any]) -> str:
    """A Python program that loads base model and adapter as they were trained, and asks a question."""
    quantized, dtype, commit = settings.quantization == "nf4", provenance["dtype"], provenance["base_revision"]
    embedded = settings.base_model == demo_model.NAME
    named = f'"{provenance["base_model"]}"'
    options = ", ".join(f"{key}={value}" if value is True else f'{key}="{value}"' for key, value in base_model.NF4.items())
    return LOADING.format(
        workbook="\nfrom mistral_lib.model import base_model  # the workbook has this model" if embedded else "",
        import_nf4=", BitsAndBytesConfig" if quantized else "",
        base=f"base_model.folder({named})" if embedded else named if commit else f"{named}  # the folder of your copy of this model",
        nf4=NF4.format(options=options, dtype=dtype) if quantized else "",
        revision=f', revision="{commit}"' if commit else "",
        dtype=dtype,
        use_nf4=", quantization_config=nf4" if quantized else "",
    )
