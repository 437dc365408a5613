"""The stored probe: what base model and adapter, as evaluated, say about a few test records, for comparing exported and served forms with.

It holds prompts as messages and as token ids, the log-likelihood of every token of the reference answers, and greedy answers. Where the
adapter was trained on 4-bit weights and forms are made on 16-bit ones, it holds the log-likelihoods on both: changing the base weights alone
can change them as much as the adapter does. Knows the file and what belongs to it; probe_measurement.py makes it, parity.py uses it.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from mistral_lib.evaluation import paired_difference
from mistral_lib.preparation.audit import WEIGHTS
from mistral_lib.run import Run, files, paths

FILE = "probe.json"  # in export/
FORMAT = 2
SMALLEST_GAIN = 0.01  # nats per token between base and adapter; engines differ from each other by about a tenth of it

PerToken = list[list[float]]  # for each record, the log-likelihood of each of its answer tokens, in nats


class ProbeError(ValueError):
    """A probe that cannot be made or used; the message says why and what to do."""


@dataclass(frozen=True, slots=True)
class ProbeRecord:
    """A test record: its prompt, and the beginning of its reference answer. A complete answer ends with the end token."""

    record_id: str
    document: str
    domain: str
    messages: list[dict[str, str]]  # the prompt
    prompt_ids: list[int]
    answer_ids: list[int]


@dataclass(frozen=True, slots=True)
class Greedy:
    """A greedy answer: its token ids, the end token included, and whether it ended by itself."""

    ids: list[int]
    ended: bool


@dataclass(frozen=True, slots=True)
class Answers:
    """Greedy answers to some of the prompts, those of Probe.asked; of the base model only as evaluated."""

    base: list[Greedy]
    adapter: list[Greedy]


@dataclass(frozen=True, slots=True)
class Likelihoods:
    """Of the reference answers, by the base model and by the adapter on it."""

    base: PerToken
    adapter: PerToken


@dataclass(frozen=True, slots=True)
class Probe:
    run_name: str
    adapter_sha256: str  # of adapter_model.safetensors
    base_fingerprint: str
    tokenizer_sha256: str
    seed: int
    chosen: str  # how the records were chosen: `by seed`, or `by gain` if those showed no gain beyond chance
    evaluated_on: str  # base weights of training and evaluation: nf4 or 16bit
    max_new_tokens: int
    start_id: int | None  # BOS
    end_id: int  # EOS
    records: list[ProbeRecord]
    likelihoods: dict[str, Likelihoods]  # by base weights: nf4, 16bit
    asked: list[int]  # numbers of the records whose prompts were answered
    answers: dict[str, Answers]  # by base weights

    def gain(self, weights: str) -> dict[str, Any]:
        """What the adapter gains over the base model with these base weights: `value`, `low`, `high` in nats per token, over records."""
        return gain(self.records, self.likelihoods[weights], self.seed)


# -- the file -----------------------------------------------------------------------------------------------------------


def save(probe: Probe, folder: Path) -> Path:
    """Write probe.json into a folder, completely or not at all."""
    files.write_json(folder / FILE, {"format": FORMAT, **asdict(probe)})
    return folder / FILE


def load(path: Path) -> Probe:
    """Errors: ProbeError if there is none, or if it cannot be read."""
    again = "make it again: notebook 05_serve_adapter"
    if not path.is_file():
        raise ProbeError(f"{paths.short(path)}: no probe there, so no form can be compared with the adapter; {again}")
    try:
        values = files.read_json(path)
        if (found := values.pop("format")) != FORMAT:
            raise ProbeError(f"{paths.short(path)}: a probe of format {found}, expected {FORMAT}; {again}")
        values["records"] = [ProbeRecord(**record) for record in values["records"]]
        values["likelihoods"] = {name: Likelihoods(**both) for name, both in values["likelihoods"].items()}
        values["answers"] = {name: _answers(both) for name, both in values["answers"].items()}
        probe = Probe(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise error if isinstance(error, ProbeError) else ProbeError(f"{paths.short(path)}: cannot be read ({error}); {again}") from None
    _refuse_incomplete(probe, path)
    return probe


def _answers(both: dict[str, list[dict[str, Any]]]) -> Answers:
    return Answers(**{who: [Greedy(**one) for one in answers] for who, answers in both.items()})


def _refuse_incomplete(probe: Probe, path: Path) -> None:
    """Every record needs a finite log-likelihood for every token. Errors: ProbeError."""
    expected = [len(record.answer_ids) for record in probe.records]
    for name, both in probe.likelihoods.items():
        for who, values in (("base", both.base), ("adapter", both.adapter)):
            if [len(row) for row in values] != expected or not are_finite(values):
                raise ProbeError(
                    f"{paths.short(path)}: the log-likelihoods of the {who} on {name} weights are incomplete or not finite; "
                    "make it again: notebook 05_serve_adapter"
                )
    answered = (
        all(len(both.adapter) == len(probe.asked) for both in probe.answers.values()) and probe.answers.keys() == probe.likelihoods.keys()
    )
    if not answered or not set(probe.asked) <= set(range(len(expected))):
        raise ProbeError(f"{paths.short(path)}: greedy answers are missing; make it again: notebook 05_serve_adapter")
    if not probe.records or probe.evaluated_on not in probe.likelihoods:
        raise ProbeError(f"{paths.short(path)}: it has no records, or none measured as evaluated; make it again: notebook 05_serve_adapter")


def are_finite(values: PerToken) -> bool:
    """JSON writes NaN as null, which is read as None."""
    return all(value is not None and math.isfinite(value) for row in values for value in row)


def require_of_run(probe: Probe, run: Run) -> None:
    """Errors: ProbeError if the probe is of another adapter than the run has now."""
    place = run.folder / "training" / "adapter" / WEIGHTS
    found = files.sha256(place) if place.is_file() else "none"
    if found != probe.adapter_sha256:
        raise ProbeError(
            f"{paths.short(run.folder)}: the probe is of the adapter {probe.adapter_sha256[:12]}, the run has {found[:12]} now; "
            "export again: notebook 05_serve_adapter"
        )


def gain(records: Sequence[ProbeRecord], both: Likelihoods, seed: int) -> dict[str, Any]:
    """The adapter's gain over the base model in nats per token, with its 95 % interval over records; None with too few of them."""
    change = np.array([sum(a) - sum(b) for b, a in zip(both.base, both.adapter, strict=True)])
    found = paired_difference.ratio(change, np.array([float(len(record.answer_ids)) for record in records]), seed)
    return {"value": found.value, "low": found.low, "high": found.high, "records": found.documents}
