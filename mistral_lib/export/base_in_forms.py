"""The base model in each exported form, measured on the probe: what a form does to a model without an adapter.

The files are made for the measurement and deleted after it. For a form that was merged into NF4 weights the base model has those as well.
"""

from collections.abc import Sequence
from pathlib import Path
from secrets import token_urlsafe
from tempfile import TemporaryDirectory

import numpy as np

from mistral_lib.export import export
from mistral_lib.export.probe import PerToken, Probe
from mistral_lib.gguf_files import gguf_conversion, gguf_quantization
from mistral_lib.merging import merged_weights
from mistral_lib.model import base_model
from mistral_lib.run import Run, files
from mistral_lib.run.progress import say
from mistral_lib.serving import llama_cpp

AS_F16 = ("f16", "lora_gguf")  # forms whose base model is in float16


def log_likelihoods(run: Run, probe: Probe, forms: Sequence[str]) -> dict[str, float]:
    """`{form: mean log-likelihood}` of the reference answers, nats per token. Errors: MergeError, ConversionError, DiskFullError, ServerError."""
    into = files.read_json(run.folder / "export" / "result.json")["merged_into"]
    found = {"merged": mean(probe.likelihoods[into].base)} if "merged" in forms else {}
    with TemporaryDirectory(dir=run.folder, prefix=".base.") as place:
        for weights in ("16bit", "nf4"):
            made_on = [form for form in forms if form != "merged" and weights == ("16bit" if form == "lora_gguf" else into)]
            if made_on:
                found |= _in_gguf(_float16(run, Path(place), weights), Path(place), made_on, probe)
    return found


def _in_gguf(f16: Path, place: Path, forms: Sequence[str], probe: Probe) -> dict[str, float]:
    """The base model in each GGUF form. f16: its file in float16. place: for the others while they are measured."""
    found = {}
    if shared := [form for form in forms if form in AS_F16]:
        found |= dict.fromkeys(shared, _measured(f16, probe, "f16"))
    for form in (form for form in forms if form not in AS_F16):
        file = place / f"base-{form}.gguf"
        gguf_quantization.quantize(f16, file, form)
        found[form] = _measured(file, probe, form)
        file.unlink()
    return found


def mean(values: PerToken) -> float:
    return float(np.concatenate(values).mean())


def _float16(run: Run, place: Path, weights: str) -> Path:
    """The base model with these weights as GGUF in float16: the exported file, or one made now."""
    there = run.folder / "export" / export.BASE
    if weights == "16bit" and there.is_file():
        return there
    folder = base_model.folder(run.settings.base_model)
    if weights == "nf4":
        merged_weights.merge(folder, run.folder / "training" / "adapter", place / "nf4", "nf4", adapted=False)
        folder = place / "nf4"
    gguf_conversion.convert(folder, place / f"base-{weights}.gguf")
    return place / f"base-{weights}.gguf"


def _measured(file: Path, probe: Probe, form: str) -> float:
    say(f"parity: the base model in the form {form} answers the probe")
    with llama_cpp.start(file, alias=f"base-{form}", key=token_urlsafe(24)) as server:
        return mean(server.endpoint.log_likelihoods([(record.prompt_ids, record.answer_ids) for record in probe.records]))
