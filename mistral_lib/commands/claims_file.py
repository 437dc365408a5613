"""A claims file: what somebody says is there, one entry for each claim, checked for form. Every fault is named with its line, all at once.

Knows YAML and the kinds of claims; claims.py looks whether they are true.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from mistral_lib.run import parameter_faults, paths

Sha256 = Annotated[str, Field(pattern=r"^[0-9a-fA-F]{12,64}$")]
Size = Annotated[int, Field(ge=1)]
Name = Annotated[str, Field(min_length=1)]
State = Literal["pending", "running", "stopping", "stopped", "shutting-down", "terminated"]
AS_LISTED = "expected `claims:` and below it a list, each entry with its `kind`, as in params/claims_example.yaml"


class ClaimsError(ValueError):
    """A claims file that cannot be read; the message lists every fault with its line."""


class Claim(BaseModel):
    """What every claim may have. said: the words of the report that makes it, which are repeated beside the finding."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    kind: str
    said: str = ""


class AdapterClaim(Claim):
    """An adapter folder, with the sha256 (or its first 12 or more digits) and the size of adapter_model.safetensors."""

    folder: Name
    sha256: Sha256 | None = None
    bytes: Size | None = None


class RunClaim(Claim):
    """A run whose stages are complete and not stale; no `stages`: data, training and evaluation."""

    run: Name
    stages: list[Literal["corpus", "data", "training", "evaluation", "export", "parity"]] = ["data", "training", "evaluation"]
    verdict: Literal["ship", "do not ship", "not enough evidence"] | None = None


class CorpusClaim(Claim):
    """Records and domains, of files (`paths`) or of what a run has read. at_least: there may be more."""

    paths: list[Name] = []
    run: Name | None = None
    entries: Size | None = None
    domains: Size | None = None
    at_least: bool = False


class ModelClaim(Claim):
    """A folder with a complete model in safetensors; bytes: of its weights together."""

    folder: Name
    bytes: Size | None = None


class GgufClaim(Claim):
    """A GGUF file."""

    file: Name
    sha256: Sha256 | None = None
    bytes: Size | None = None


class EndpointClaim(Claim):
    """An address that answers; run: whose adapter it is, by the probe of the run. alias: a name that it lists."""

    url: Annotated[str, Field(pattern=r"^https?://[^\s/@]+(/\S*)?$")]
    run: Name | None = None
    alias: Name | None = None
    key_file: Name | None = None


class BucketClaim(Claim):
    """An S3 bucket, and something below a prefix in it."""

    bucket: Name
    prefix: str = ""
    region: Name | None = None


class InstanceClaim(Claim):
    """An EC2 instance by its id or the value of its tag `Name`, in a state."""

    instance: Name
    state: State
    type: Name | None = None
    region: Name | None = None


KINDS: dict[str, type[Claim]] = {
    "adapter": AdapterClaim, "run": RunClaim, "corpus": CorpusClaim, "model": ModelClaim, "gguf": GgufClaim, "endpoint": EndpointClaim,
    "bucket": BucketClaim, "instance": InstanceClaim,
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Listed:
    """A claim and the line of the file on which it begins."""

    line: int
    claim: Claim


def load(path: Path) -> list[Listed]:
    """The claims of a file, in its order. Errors: ClaimsError that lists every fault with file and line."""
    place = next((place for place in (path, paths.home() / path, paths.project() / path) if place.is_file()), path)
    shown = paths.short(place)
    if not place.is_file():
        raise ClaimsError(f"{shown}: no such claims file; params/claims_example.yaml shows what one looks like")
    try:
        root = yaml.compose(place.read_text(encoding="utf-8-sig"), Loader=yaml.SafeLoader)
    except UnicodeDecodeError:
        raise ClaimsError(f"{shown}: not UTF-8; save it as UTF-8 in your editor") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ClaimsError(f"{shown}:{line}: not valid YAML: {error.problem}") from None
    faults: list[tuple[int, str]] = []
    found = [one for node in _entries(root, faults) if (one := _listed(node, faults))]
    if faults:
        raise ClaimsError("\n".join(f"{shown}:{line}: {fault}" for line, fault in sorted(faults)))
    return found


def _entries(root: Any, faults: list[tuple[int, str]]) -> list[Any]:
    """The nodes of the claims; what else the file has is a fault."""
    if not isinstance(root, yaml.MappingNode):
        faults.append((1, AS_LISTED))
        return []
    lines, nodes = _lines(root, faults), {key.value: value for key, value in root.value}
    faults += [(line, parameter_faults.unknown("key", key, ["claims"])) for key, line in lines.items() if key != "claims"]
    listed = nodes.get("claims")
    if not isinstance(listed, yaml.SequenceNode) or not listed.value:
        faults.append((lines.get("claims", 1), AS_LISTED))
        return []
    return listed.value


def _listed(node: Any, faults: list[tuple[int, str]]) -> Listed | None:
    """The claim of one entry; None if it has a fault, which is added."""
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        faults.append((line, f"expected an entry such as `kind: run`, found {node.value!r}"))
        return None
    lines = _lines(node, faults)
    loader = yaml.SafeLoader("")
    try:
        values = loader.construct_mapping(node, deep=True)
    except yaml.MarkedYAMLError as error:
        faults.append((line, f"{error.problem}"))
        return None
    kind = values.get("kind")
    if kind not in KINDS:
        seen = parameter_faults.unknown("kind", str(kind), KINDS) if kind else f"no `kind`; known are {', '.join(KINDS)}"
        faults.append((lines.get("kind", line), seen))
        return None
    try:
        claim = KINDS[kind].model_validate(values)
    except ValidationError as error:
        faults += [(lines.get(str(fault["loc"][0]), line), _explained(kind, fault)) for fault in error.errors()]
        return None
    if missing := _says_nothing(claim):
        faults.append((line, missing))
        return None
    return Listed(line, claim)


def _lines(node: yaml.MappingNode, faults: list[tuple[int, str]]) -> dict[str, int]:
    """Key → line. A key that is there twice is a fault: YAML takes the last value without a word."""
    lines: dict[str, int] = {}
    for key, _ in node.value:
        name, line = str(key.value), key.start_mark.line + 1
        if name in lines:
            faults.append((line, f"{name} is given twice, in lines {lines[name]} and {line}: delete one of them"))
        lines[name] = line
    return lines


def _explained(kind: str, fault: Any) -> str:
    key, known = str(fault["loc"][0]), list(KINDS[kind].model_fields)
    if fault["type"] == "extra_forbidden":
        return parameter_faults.unknown(f"key of {kind}", key, known)
    if fault["type"] == "missing":
        return f"{kind} has no {key}: {' '.join((KINDS[kind].__doc__ or '').split())}"
    if key == "url":  # it is not repeated: it may hold a password
        return "url: expected http://host:port or https://host:port, without user and password"
    wanted = "expected 12 to 64 hexadecimal digits, in quotation marks" if key == "sha256" else fault["msg"]
    return f"{key} = {fault['input']!r}: {wanted}"


def _says_nothing(claim: Claim) -> str:
    """Why a valid claim cannot be checked; "" if it can."""
    if not isinstance(claim, CorpusClaim):
        return ""
    if bool(claim.paths) == bool(claim.run):
        return "corpus: give either `paths` (files) or `run` (what it has read)"
    return "" if claim.entries or claim.domains else "corpus: give `entries`, `domains` or both"
