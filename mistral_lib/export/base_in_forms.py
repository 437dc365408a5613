"""The base model in each exported form, measured on the probe: what a form does to a model without an adapter.

The files are made for the measurement and deleted after it. A form that was merged into NF4 weights has no such file of the base model, which
is then left out.
"""

from collections.abc import Sequence
from pathlib import Path
from secrets import token_urlsafe
from tempfile import TemporaryDirectory

import numpy as np

from mistral_lib.export import export
from mistral_lib.export.probe import PerToken, Probe
from mistral_lib.gguf_files import gguf_conversion, gguf_quantization
from mistral_lib.model import base_model
from mistral_lib.run import Run, files
from mistral_lib.run.progress import say
from mistral_lib.serving import llama_cpp

AS_F16 = ("f16", "lora_gguf")  # forms whose base model is in float16


def log_likelihoods(run: Run, probe: Probe, forms: Sequence[str]) -> dict[str, float]:
    """`{form: mean log-likelihood}` of the reference answers, nats per token. Errors: ConversionError, DiskFullError, ServerError."""
    exported = files.read_json(run.folder / "export" / "result.json")
    into = exported["merged_into"]
    found = {"merged": mean(probe.likelihoods[into].base)} if "merged" in forms else {}
    as_gguf = [form for form in forms if form != "merged" and (into == "16bit" or form == "lora_gguf")]
    if not as_gguf:
        return found
    with TemporaryDirectory(dir=run.folder, prefix=".base.") as place:
        f16 = _float16(run, Path(place))
        if shared := [form for form in as_gguf if form in AS_F16]:
            found |= dict.fromkeys(shared, _measured(f16, probe, "f16"))
        for form in (form for form in as_gguf if form not in AS_F16):
            file = Path(place) / f"base-{form}.gguf"
            gguf_quantization.quantize(f16, file, form)
            found[form] = _measured(file, probe, form)
            file.unlink()
    return found


def mean(values: PerToken) -> float:
    return float(np.concatenate(values).mean())


def _float16(run: Run, place: Path) -> Path:
    """The base model as GGUF in float16: the exported file, or one made now."""
    there = run.folder / "export" / export.BASE
    if there.is_file():
        return there
    gguf_conversion.convert(base_model.folder(run.settings.base_model), place / "base-f16.gguf")
    return place / "base-f16.gguf"


def _measured(file: Path, probe: Probe, form: str) -> float:
    say(f"parity: the base model in the form {form} answers the probe")
    with llama_cpp.start(file, alias=f"base-{form}", key=token_urlsafe(24)) as server:
        return mean(server.endpoint.log_likelihoods([(record.prompt_ids, record.answer_ids) for record in probe.records]))
