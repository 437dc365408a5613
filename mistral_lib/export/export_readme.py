"""README.md of the export folder: which form is for which program, how to use it, and that nothing is claimed of it here.

Nothing private is in it: no path, no name of a person. It has no verdict of any form; that is in parity/result.json.
"""

from typing import Any

from mistral_lib.model import adapter_readme, base_model
from mistral_lib.run import Run, files

USES = {
    "merged": "a complete model in 16 bits: transformers, vLLM, TGI",
    "f16": "a complete model as GGUF in float16: llama.cpp, Ollama, LM Studio",
    "q8_0": "the same in 8 bits",
    "q4_k_m": "the same in about 4.8 bits",
    "lora_gguf": "the adapter alone as GGUF, for llama.cpp with a GGUF file of the base model",
}
TEXT = """# {name}: an adapter of {base}, exported

| form | file | size | for |
|---|---|---|---|
{rows}

The adapter (SHA-256 `{adapter}`) was merged into {into} base weights: {why}.

No form has a verdict here. Which of them is the adapter that was evaluated, and how much of its gain each one keeps, was measured apart: `parity/result.json` in the folder of the run.

## Use

```bash
python -m mistral_lib serve runs/{name} --form {served}    # OpenAI-compatible, on this machine only, behind a key
{ollama}```

A text that already begins with `<s>` gets a second one from programs that add it themselves: send chats as messages, not as text.
"""


def text(run: Run, result: dict[str, Any]) -> str:
    """The complete README. result: that of the export stage."""
    forms = result["forms"]
    rows = [f"| {form} | `{facts['file']}` | {files.size_text(facts['bytes'])} | {USES[form]} |" for form, facts in forms.items()]
    quantized = [form for form in forms if form not in ("merged", "lora_gguf")]
    head = adapter_readme.front_matter(adapter_readme.metadata(run.settings) | {"library_name": "transformers"})
    return head + "\n" + TEXT.format(
        name=run.folder.name, base=base_model.shown_name(run.settings.base_model), rows="\n".join(rows), adapter=result["adapter_sha256"],
        into="dequantized NF4" if result["merged_into"] == "nf4" else "16-bit", why=result["why"], served=(quantized or ["adapter"])[0],
        ollama=f"ollama create {run.folder.name.lower()} -f Modelfile    # Ollama itself was not run here\n" if quantized else "",
    )  # fmt: skip
