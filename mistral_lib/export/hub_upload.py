"""Publishes a run on the Hugging Face hub: the adapter, the exported forms that parity found to be it, and a model card.

Private unless public is requested. Nothing else of a run leaves the machine: the probe, for example, holds texts of the corpus.
Knows what is uploaded, and why not; the hub itself: hub_repository.py.
"""

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mistral_lib.export import export_card
from mistral_lib.export.hub_repository import Repository, Upload, UploadCutError, UploadError
from mistral_lib.preparation import stage_inputs
from mistral_lib.run import Run, files, paths
from mistral_lib.run.folder import now, summary
from mistral_lib.run.params import ParameterError

__all__ = ["NoTokenError", "Upload", "UploadCutError", "UploadError", "planned", "push", "require_name"]

UPLOADS = "uploads.jsonl"  # in the run folder: a line for each upload that was read back
CARD = "README.md"
OWN_LISTS = ("merge.json", "complete.json")  # in the folder of the merged model: lists of this workbook, which nothing else reads
PATH = re.compile(r"(?:/|~/|[A-Za-z]:[\\/])[^\s/\\]+[/\\]\S*")  # a value that is an absolute path


class NoTokenError(UploadError):
    """There is no token on this machine. The message lists what would be uploaded."""


def require_name(name: str) -> None:
    """Errors: ParameterError unless it can be the name of a repository, with its owner."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        raise ParameterError(f"--push {name}: not a valid name on the hub: {error}") from None
    if "/" not in name:
        raise ParameterError(f"--push {name}: expected owner/name; the owner is your account or an organization on the hub")


def push(run: Run, name: str, public: bool = False) -> list[str]:
    """Upload the files of `planned`, read them back, and return the lines to print.

    Without a token nothing is sent, and the error lists what would be: who looks at the exit code alone must not take it for done.
    Errors: ParameterError; NoTokenError, UploadCutError, UploadError; RuntimeError and StaleStageError of `require_current`.
    """
    from huggingface_hub import constants, get_token

    require_name(name)
    uploads = planned(run, name)
    visible = "public: everybody can read it" if public else "private"
    title, description = message(run)
    lines = [f"{constants.ENDPOINT}/{name}, {visible}", f"{title}. {description}",
             *(f"  {one.path}, {files.size_text(one.bytes)}" for one in uploads)]  # fmt: skip
    token = get_token()
    if not token:
        raise NoTokenError("\n".join([
            "nothing was uploaded: there is no token on this machine. With one, this would be uploaded to", *lines,
            f"1. make a token with write access at {constants.ENDPOINT}/settings/tokens 2. `hf auth login`, or set the environment variable "
            "HF_TOKEN 3. give the same command again",
        ]))  # fmt: skip
    repository = Repository(name, public, token)
    lines += repository.upload(uploads, uploads[0].content.decode(), title, description)
    files.append_json_line(run.folder / UPLOADS, {
        "time": now(), "repository": name, "public": public, "commit": repository.commit,
        "files": {one.path: {"sha256": one.sha256, "bytes": one.bytes} for one in uploads},
    })  # fmt: skip
    return lines


def message(run: Run) -> tuple[str, str]:
    """Title and description of the commit: which adapter, in which forms, with which verdict."""
    exported = files.read_json(run.folder / "export" / "result.json")
    verdict = files.read_json(run.folder / "evaluation" / "result.json")["verdict"]
    forms, digest = ", ".join(["adapter", *exported["forms"]]), exported["adapter_sha256"]
    return f"Adapter {digest[:12]}: {forms}", f"SHA-256 of adapter_model.safetensors: {digest}. Verdict of its evaluation: {verdict}."


# -- what is uploaded ----------------------------------------------------------------------------------------------------


def planned(run: Run, name: str) -> list[Upload]:
    """The model card, and the files with the sizes and hashes that the manifest has of them.

    Errors: UploadError if one was altered, holds a path of this machine, or is of a form that is not proven; those of `require_current`.
    """
    stage_inputs.require_current(run, "export")
    exported, found = files.read_json(run.folder / "export" / "result.json"), {"findings": []}
    if exported["forms"]:
        stage_inputs.require_current(run, "parity")
        found = files.read_json(run.folder / "parity" / "result.json")
    if damages := [damage for stage in ("training", "evaluation", "export", "parity") for damage in run.damages(stage)]:
        raise UploadError(f"nothing was uploaded: {paths.short(run.folder)}: {summary(damages)}; make it again: notebook 05_serve_adapter")
    refuse_unproven(run, name, exported, found)
    uploads = [*below(run, "training", "training/adapter", "adapter"), *of_forms(run, exported)]
    refuse_paths(uploads)
    listed = {one.path: {"sha256": one.sha256, "bytes": one.bytes} for one in uploads}
    card = export_card.text(run, name, exported, found, listed).encode()
    return [Upload(CARD, card, len(card), hashlib.sha256(card).hexdigest()), *uploads]


def of_forms(run: Run, exported: Mapping[str, Any]) -> list[Upload]:
    """The files of all forms; of an adapter as GGUF also its base model's, with which it was compared; and the Modelfile."""
    places = sorted({place for facts in exported["forms"].values() for place in (facts["file"], facts.get("base")) if place}, reverse=True)
    found = [one for place in [*places, "Modelfile"] for one in below(run, "export", f"export/{place}", place)]
    return [one for one in found if one.path.rpartition("/")[2] not in OWN_LISTS]


def below(run: Run, stage: str, place: str, target: str) -> list[Upload]:
    """The outputs of a stage that are `place`, a file or a folder; in the repository they are at `target`."""
    outputs = run.entry(stage)["outputs"].items()
    return [
        Upload(target + name.removeprefix(place), run.folder / name, fact["bytes"], fact["sha256"])
        for name, fact in outputs
        if name == place or name.startswith(f"{place}/")
    ]


def refuse_unproven(run: Run, name: str, exported: Mapping[str, Any], found: Mapping[str, Any]) -> None:
    """Errors: UploadError that names each form that parity did not find to be the adapter."""
    findings = {one["form"]: one for one in found["findings"]}
    faults = {form: "it was not compared with the adapter" for form in exported["forms"] if form not in findings}
    faults |= {form: f"{one['outcome']}: {one['sentence']}" for form, one in findings.items() if not one["passed"]}
    if not faults:
        return
    proven = [form for form in exported["forms"] if form not in faults]
    without = f"python -m mistral_lib export {paths.short(run.folder)} --as {' '.join(proven)} --push {name}"
    raise UploadError("\n".join([
        "nothing was uploaded: parity did not find these forms to be the adapter:",
        *(f"  {form}: {fault}" for form, fault in faults.items()),
        *([f"without them: {without}"] if proven else []), "what to do about each finding: docs/serving.md",
    ]))  # fmt: skip


def refuse_paths(uploads: Sequence[Upload]) -> None:
    """Errors: UploadError that names each absolute path in the configurations: some programs write one into a tokenizer's files."""
    configurations = [one for one in uploads if one.path.endswith(("config.json", "provenance.json"))]
    found = [
        f"{one.path}: {key}: {value}"
        for one in configurations
        for key, value in texts(files.read_json(one.content))
        if PATH.fullmatch(value)
    ]
    if found:
        raise UploadError(
            f"nothing was uploaded: {summary(found)}: a path of a machine, expected none; delete the entry from the base model's file, and "
            "export again: notebook 05_serve_adapter"
        )


def texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """Every text in a JSON value, with the keys that lead to it."""
    if isinstance(value, str):
        yield key, value
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for name, one in inner:
        yield from texts(one, f"{key}.{name}" if key else str(name))
