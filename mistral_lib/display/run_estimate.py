"""What a run would take, exactly as its parameters say: steps, hours, USD, memory, and where a budget would stop it.

Hours and USD are arithmetic and come at once; the memory follows when a step has been walked on the model's shapes, and where
that does not fit, the way of training that does.
"""

import html
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from mistral_lib.corpus.sources import SourceFile
from mistral_lib.run import params
from mistral_lib.run.settings import Settings

BYTES_A_TOKEN = 4.0  # of files that nothing is known of; the demo corpus has 4.0 bytes of JSON to a token that is kept
WAY = ("micro_batch_size", "gradient_accumulation_steps", "activation_checkpointing")


@dataclass(frozen=True)
class Estimate:
    """As far as it is known: `fit` once the memory is, `way` where it does not fit as set. Seconds and USD as (least, most)."""

    settings: Settings
    work: Any  # workload.Work
    seconds: tuple[float, float]
    fit: Any = None  # fit_plan.Fit
    way: Any = None  # fit_plan.Fit

    def changes(self) -> dict[str, Any]:
        """The parameters that make it fit where it does not; empty if nothing has to change, or nothing helps."""
        found = {name: getattr(self.way, name) for name in WAY} if self.way is not None and self.way.fits else {}
        return {name: value for name, value in found.items() if value != getattr(self.settings, name)}

    def rows(self) -> list[tuple[str, str]]:
        """The estimate as names and words."""
        from mistral_lib.training.plan_table import span

        s, machine = self.settings, params.instances()[self.settings.instance]
        size = s.micro_batch_size * s.gradient_accumulation_steps * s.max_tokens
        usd = [seconds / 3600 * machine["usd_per_hour"] for seconds in self.seconds]
        words = f"{span(*usd) if usd[1] >= 0.005 else 'less than 0.01'}, at {machine['usd_per_hour']:g} an hour ({machine['priced']})"
        return [
            ("memory", self._memory()),
            ("time", f"{duration(*self.seconds)} on {s.instance}"),
            ("USD", words if machine["usd_per_hour"] else "none: your own machine"),
            ("steps", f"{self.work.steps:,} of {size:,} tokens ({s.micro_batch_size} × {s.gradient_accumulation_steps} blocks of {s.max_tokens:,}), saved every {s.checkpoint_every_steps:,}"),
            ("budget", budget(s, self.seconds, self.work.steps, machine["usd_per_hour"])),
            ("data", self.work.origin),
        ]  # fmt: skip

    def _memory(self) -> str:
        gib = 2**30
        if self.fit is None:
            return "walking through a step …"
        needs = f"needs {self.fit.peak / gib:.1f} of {self.fit.available / gib:.1f} GiB"
        if self.fit.fits:
            return f"{needs}: fits"
        if self.fit.host:
            return f"does not fit: {self.fit.host}"
        if self.way is None:
            return f"{needs}: does not fit as set; looking for a way that does …"
        if not self.way.fits:
            return f"{needs}: does not fit; {self.way.advice}"
        way = ", ".join(f"{name} = {value}" for name, value in self.changes().items())
        return f"{needs}: does not fit as set, but with {way}: {self.way.peak / gib:.1f} GiB, {duration(*self.way.seconds)}"

    def table(self) -> str:
        cells = "".join(
            f'<tr><td style="padding-right:1em;vertical-align:top"><b>{name}</b></td><td>{html.escape(words)}</td></tr>'
            for name, words in self.rows()
        )
        return f'<table style="line-height:1.4"><caption style="text-align:left"><b>Estimate</b></caption>{cells}</table>'


def estimates(settings: Settings, found: Sequence[SourceFile]) -> Iterator[Estimate]:
    """The estimate as it becomes more complete. Errors: BaseModelError where the model's sizes cannot be had."""
    from mistral_lib.model import model_shapes
    from mistral_lib.training import fit_plan, workload

    work, machine = known_work(settings, found), params.instances()[settings.instance]
    seconds = workload.seconds(
        model_shapes.config_of(settings.base_model), work, machine, max_tokens=settings.max_tokens,
        micro_batch_size=settings.micro_batch_size, checkpointing=settings.activation_checkpointing, quantization=settings.quantization,
    )  # fmt: skip
    estimate = Estimate(settings, work, seconds)
    yield estimate
    estimate = replace(estimate, fit=fit_plan.as_set(settings, work))
    yield estimate
    if not estimate.fit.fits and not estimate.fit.host:
        yield replace(estimate, way=fit_plan.best(settings, work, settings.instance))


def known_work(settings: Settings, found: Sequence[SourceFile]) -> Any:
    """What is to be trained on: counted or estimated by the run's own stages where these are of the same data, else guessed from bytes."""
    from mistral_lib.training import workload

    try:
        return workload.work_of(settings)
    except ValueError:
        size = sum(file.size for file in found)
        tokens = max(1, int(size / BYTES_A_TOKEN * (1 - settings.validation_share - settings.test_share)))
        guess = f"about {tokens:,} training tokens, guessed from {size / 2**20:,.2f} MiB; notebook 01 counts them"
        return replace(workload.work_of(settings, tokens), origin=guess)


def duration(low: float, high: float) -> str:
    """Seconds as a range, in the unit that suits its upper end: `1.2 – 9.1 minutes`."""
    from mistral_lib.training.plan_table import span

    return f"{span(low / 60, high / 60)} minutes" if high < 5400 else f"{span(low / 3600, high / 3600)} hours"


def budget(settings: Settings, seconds: tuple[float, float], steps: int, usd_per_hour: float) -> str:
    """Where max_hours or max_usd, whichever comes first, would stop the training. seconds: (least, most) without a budget."""
    limits = {"max_hours": settings.max_hours * 3600}
    limits |= {"max_usd": settings.max_usd / usd_per_hour * 3600} if usd_per_hour else {}
    limits = {name: limit for name, limit in limits.items() if limit}
    if not limits:
        return "none: training runs to its last step"
    name = min(limits, key=limits.__getitem__)
    limit, (least, most) = limits[name], seconds
    said = f"{name} = {getattr(settings, name):g}"
    if limit >= most:
        return f"{said} is not reached"
    early, late = (max(1, min(steps, math.floor(steps * limit / time))) for time in (most, least))
    after = f"after {limit / 60:.3g} minutes" if limit < 5400 else f"after {limit / 3600:.3g} hours"
    if limit >= least:
        return f"{said} may stop it {after}, at step {early:,} of {steps:,} at the earliest: saved and verified all the same"
    return f"{said} stops it {after}, between step {early:,} and {late:,} of {steps:,}: saved and verified all the same"
