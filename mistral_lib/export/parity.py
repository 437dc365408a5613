"""All exported forms of a run compared with its stored probe: stage `parity`. Is each the adapter that was evaluated?

The merged model is loaded into this process; a GGUF file is served by llama.cpp on the loopback, behind a key, one at a time. What is asked:
probe_answers.py; what the answers mean: parity_verdict.py; what the weights of a file hold: adapter_in_weights.py.
"""

import secrets
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mistral_lib.export import adapter_in_weights, base_in_forms, export_tables, probe_answers
from mistral_lib.export import probe as probes
from mistral_lib.export.adapter_in_weights import Share
from mistral_lib.export.parity_verdict import DAMAGED, NO_ANSWER, Finding
from mistral_lib.export.probe import PerToken, Probe
from mistral_lib.export.probe_answers import LoadedModel, Scorer
from mistral_lib.gguf_files import gguf_file
from mistral_lib.model import base_model, paired_answers
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, allocator, files, paths
from mistral_lib.run.progress import say
from mistral_lib.serving import llama_cpp
from mistral_lib.serving.endpoint import EndpointError
from mistral_lib.serving.server_process import ServerError

LIKELIHOODS = "log_likelihoods.json"  # beside result.json: what each form answered, with which an endpoint is compared


@dataclass(frozen=True, slots=True)
class Form:
    name: str
    file: Path  # the folder of the merged model, or a GGUF file
    base: Path | None = None  # for an adapter as GGUF: the GGUF of the base model that it is used with


def forms(run: Run) -> list[Form]:
    """The forms that the run has exported, as export/result.json lists them."""
    folder = run.folder / "export"
    listed = files.read_json(folder / "result.json")["forms"]
    return [Form(name, folder / facts["file"], folder / facts["base"] if "base" in facts else None) for name, facts in listed.items()]


def gguf_fault(file: Path) -> str:
    """What is wrong with a GGUF file, by its header and its size; "" if nothing is."""
    try:
        gguf_file.read(file)
    except (gguf_file.GgufError, OSError) as error:
        return str(error)
    return ""


class Comparison:
    """The forms of one run, compared one after another."""

    def __init__(self, run: Run) -> None:
        self.run, self.settings = run, paired_answers.trained_settings(run)
        self.probe = probes.load(run.folder / "export" / probes.FILE)
        probes.require_of_run(self.probe, run)
        self.decode = base_model.load_tokenizer(self.settings.base_model).decode
        self.adapter, self.min_kept = run.folder / "training" / "adapter", run.settings.min_gain_kept
        self.answered: dict[str, PerToken] = {}  # by form

    def all_forms(self) -> list[Finding]:
        """Errors: RuntimeError if there is none; none of a form: what is wrong with it is its finding."""
        damages = self.run.damages("export")
        found = [self.form(one, damages) for one in forms(self.run)]
        if not found:
            raise RuntimeError(
                f"{paths.short(self.run.folder)}: export_forms is empty, so there is no form to compare; name some and export again"
            )
        return found

    def form(self, form: Form, damages: list[str]) -> Finding:
        """damages: of the stage `export`, as texts that begin with the name of a file."""
        if reason := self.damage(form, damages):
            return Finding(form.name, DAMAGED, None, False, reason)
        share = self.share_in_weights(form)
        say(f"parity: {form.name} answers the probe")
        try:
            return self.loaded(form, share) if form.name == "merged" else self.served(form, share)
        except EndpointError as error:
            return probe_answers.fault(form.name, error)
        except ServerError as error:
            return Finding(form.name, NO_ANSWER, None, False, str(error))
        except (ValueError, RuntimeError, OSError) as error:
            return Finding(form.name, DAMAGED, None, False, f"it cannot be loaded: {error}")

    def damage(self, form: Form, damages: list[str]) -> str:
        for place in filter(None, (form.file, form.base)):
            if not place.exists():
                return f"{place.name} is missing; export again: notebook 05_serve_adapter"
            if place.suffix == ".gguf" and (reason := gguf_fault(place)):
                return reason
            name = str(place.relative_to(self.run.folder)) if place.is_relative_to(self.run.folder) else str(place)
            if altered := [one for one in damages if one.split()[0] == name or one.startswith(f"{name}/")]:
                return f"{altered[0]} since it was exported; export again: notebook 05_serve_adapter"
        return ""

    def share_in_weights(self, form: Form) -> Share | None:
        """None if the weights cannot be compared, for example because the adapter is no plain LoRA."""
        look = adapter_in_weights.in_lora_gguf if form.name == "lora_gguf" else adapter_in_weights.in_model
        try:
            return look(base_model.folder(self.settings.base_model), self.adapter, form.file)
        except ValueError as error:
            say(f"parity: the weights of {form.name} cannot be compared: {error}")
            return None

    def loaded(self, form: Form, share: Share | None) -> Finding:
        model = LoadedModel(form.file, self.settings)
        try:
            return self.compared(form.name, model, share)
        finally:
            del model
            allocator.release_unused_memory()

    def served(self, form: Form, share: Share | None) -> Finding:
        key, alias = secrets.token_urlsafe(24), f"{self.run.folder.name}-{form.name}-{self.probe.adapter_sha256[:12]}"
        model, lora = (form.base, form.file) if form.base else (form.file, None)
        with llama_cpp.start(model, lora=lora, alias=alias, key=key) as server:
            return self.compared(form.name, server.endpoint, share)

    def compared(self, name: str, scorer: Scorer, share: Share | None) -> Finding:
        def seen(values: PerToken) -> Share | None:
            self.answered[name] = values
            return share

        return probe_answers.compare(self.probe, scorer, name, self.decode, self.min_kept, merged_into(self.run, name), seen=seen)


def merged_into(run: Run, form: str) -> str | None:
    """The base weights that a form was made on: nf4 or 16bit; None for a form that the run has not exported."""
    exported = files.read_json(run.folder / "export" / "result.json")
    if form not in exported["forms"]:
        return None
    return "16bit" if form == "lora_gguf" else exported["merged_into"]


def parity(run: Run, url: str | None = None, key_file: Path | None = None) -> dict[str, Any]:
    """Compare all exported forms as stage `parity` and return parity/result.json; with `url`, what answers there instead.

    The result has `findings` and `passed`. Errors: RuntimeError if the export is not complete, or StaleStageError if it is stale;
    ProbeError; those of `paired_answers.trained_settings`.
    """
    if url is not None:
        from mistral_lib.export import endpoint_parity

        finding = endpoint_parity.check_url(run, url, key_file)
        return {"findings": [asdict(finding)], "passed": finding.passed}
    stage_inputs.require_current(run, "export")
    run.run_stage("parity", stage_inputs.hashes(run, "parity"), lambda folder: work(run, folder))
    return files.read_json(run.folder / "parity" / "result.json")


def work(run: Run, folder: Path) -> dict[str, Any]:
    """Write result.json and the log-likelihoods into an empty folder, and return the figures for the manifest."""
    comparison = Comparison(run)
    findings = comparison.all_forms()
    bases = base_in_forms.log_likelihoods(run, comparison.probe, list(comparison.answered))
    for finding in findings:
        finding.evidence["base_in_form"] = bases.get(finding.form)
    passed = all(finding.passed for finding in findings)
    result = {"findings": [asdict(one) for one in findings], "passed": passed, **about(comparison.probe)}
    result["recommended"] = export_tables.recommended(files.read_json(run.folder / "export" / "result.json"), result)
    files.write_json(folder / LIKELIHOODS, comparison.answered)
    files.write_json(folder / "result.json", result)
    return {"passed": passed, "recommended": result["recommended"], **{finding.form: finding.outcome for finding in findings}}


def about(probe: Probe) -> dict[str, Any]:
    """What the probe is, in a result."""
    tokens = sum(len(record.answer_ids) for record in probe.records)
    gains = {name: probe.gain(name) for name in probe.likelihoods}
    return {
        "records": len(probe.records),
        "answer_tokens": tokens,
        "chosen": probe.chosen,
        "adapter_sha256": probe.adapter_sha256,
        "gains": gains,
    }
