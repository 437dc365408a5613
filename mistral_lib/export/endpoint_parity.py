"""Whatever answers at an address, compared with the stored probe of a run: is it the adapter that was evaluated?

An address shows no weights. If it answers as an exported file did whose weights were looked into, what these hold is known all the same.
"""

import math
import re
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from mistral_lib.export import parity_verdict, probe_answers
from mistral_lib.export.adapter_in_weights import Share
from mistral_lib.export.parity import LIKELIHOODS, Comparison, merged_into
from mistral_lib.export.parity_verdict import LOADING, Finding
from mistral_lib.export.probe import PerToken, Probe
from mistral_lib.run import Run, files
from mistral_lib.run.folder import now
from mistral_lib.serving import access_key
from mistral_lib.serving.endpoint import Endpoint, EndpointError

SERVED = "served"  # the name of a form at an address whose alias names none
ENDPOINTS = "endpoints.jsonl"  # in the run folder: a line for each address that was checked


def check_url(run: Run, url: str, key_file: Path | None = None, model: str | None = None) -> Finding:
    """The finding on what answers at an address; it is added to endpoints.jsonl in the run folder. The key is not written anywhere.

    model: the name that requests give; None: the one that names this run if there is one, else the first that is listed.
    Errors: ProbeError; KeyFileError, FileNotFoundError; those of `paired_answers.trained_settings`.
    """
    comparison, key = Comparison(run), access_key.read(key_file) if key_file else None
    try:
        finding = _answered(comparison, url, key, model)
    except EndpointError as error:
        finding = probe_answers.fault(SERVED, error)
    files.append_json_line(run.folder / ENDPOINTS, {"time": now(), "url": url, **asdict(finding)})
    return finding


def _answered(comparison: Comparison, url: str, key: str | None, model: str | None) -> Finding:
    """Errors: EndpointError."""
    run, server = comparison.run, Endpoint(url, key)
    if server.health() == "loading":
        return Finding(SERVED, LOADING, None, False, f"{server.url}: the server is still loading its model; try again when it is ready")
    names = server.models()
    alias = model or next((name for name in names if form_of(name, run.folder.name)), names[0] if names else None)
    form, known = form_of(alias or "", run.folder.name) or SERVED, Known(run, comparison.probe)
    scorer = Endpoint(url, key, alias)
    finding = probe_answers.compare(
        comparison.probe, scorer, form, comparison.decode, comparison.min_kept, merged_into(run, form), seen=known
    )
    return replace(finding, evidence={**finding.evidence, "alias": alias, "answers_as": known.form})


def form_of(alias: str, run_name: str) -> str | None:
    """The form that an alias of ours names."""
    match = re.fullmatch(rf"{re.escape(run_name)}-(.+)-[0-9a-f]{{12}}", alias)
    return match[1] if match else None


class Known:
    """The exported forms whose answers are on record: an endpoint that answers as one of them serves its weights, which were looked into."""

    def __init__(self, run: Run, probe: Probe) -> None:
        self.form, self.probe = "", probe
        complete = run.status("parity") == "complete" and not run.damages("parity")
        place = run.folder / "parity"
        findings = files.read_json(place / "result.json")["findings"] if complete else []
        held = {one["form"]: one["evidence"].get("in_weights") for one in findings}
        self.shares = {form: Share(**share) for form, share in held.items() if share}
        self.answers: dict[str, PerToken] = files.read_json(place / LIKELIHOODS) if complete else {}

    def __call__(self, values: PerToken) -> Share | None:
        """The share of the adapter in the weights of the form that answers so; None if none does. `form` is then its name."""
        left = {name: self.unexplained(values, known) for name, known in self.answers.items()}
        self.form = min(left, key=lambda name: left[name], default="")
        if not self.form or left[self.form] > parity_verdict.AS_EXPLAINED:
            self.form = ""
        return self.shares.get(self.form)

    def unexplained(self, values: PerToken, known: PerToken) -> float:
        """The squares of the differences as a share of those that the adapter makes; infinite if they are answers to another probe."""
        if [len(row) for row in values] != [len(row) for row in known]:
            return math.inf
        both = self.probe.likelihoods[self.probe.evaluated_on]
        return squares(values, known) / max(squares(both.adapter, both.base), 1e-12)


def squares(ones: PerToken, others: PerToken) -> float:
    """The sum of the squared differences, token by token."""
    return float(sum(((np.array(one) - np.array(other)) ** 2).sum() for one, other in zip(ones, others, strict=True)))
