"""`export` and `parity` on the command line: which forms, what was written, what each one keeps of the adapter."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from mistral_lib.run import Run, files, params, paths
from mistral_lib.run.params import ParameterError
from mistral_lib.run.settings import ExportForm

GROUPS = {"gguf": ["q8_0", "q4_k_m"], "lora-gguf": ["lora_gguf"], "ollama": ["q4_k_m"]}  # names of --as that are no form


def export(run: Run, forms: Sequence[str] | None = None, push: str | None = None, public: bool = False) -> str:
    """Export a run, measure its forms, and upload them if `push` names a repository; the lines to print.

    forms: as --as gives them; None: those of the run's parameters. Errors: ParameterError; those of export, parity and hub_upload.
    """
    from mistral_lib.export import export, hub_upload, parity

    if push:
        hub_upload.require_name(push)
    if forms:
        run = Run.open(params.validate({**run.settings.model_dump(), "export_forms": chosen(forms)}, "--as"))
    written = export.export(run)
    lines = [f"{form}: {paths.short(run.folder / 'export' / facts['file'])}, {files.size_text(facts['bytes'])}"
             for form, facts in written["forms"].items()]  # fmt: skip
    if written["forms"]:
        lines.append(parity_text(parity.parity(run)))
    if push:
        lines += hub_upload.push(run, push, public)
    return "\n".join(lines)


def chosen(forms: Sequence[str]) -> list[str]:
    """The forms of these names, each once. Errors: ParameterError that lists all unknown names."""
    found = [form for name in forms for form in GROUPS.get(name, [name.replace("-", "_")])]
    known = get_args(ExportForm)
    if unknown := [form for form in found if form not in known]:
        raise ParameterError(f"--as {' '.join(unknown)}: no such form; expected {', '.join((*known, *GROUPS))}")
    return list(dict.fromkeys(found))


def parity_text(found: Mapping[str, Any]) -> str:
    """A line for each form or address. found: a result of parity."""
    return "\n".join(f"{one['form']}: {one['outcome']} — {one['sentence']}" for one in found["findings"])
