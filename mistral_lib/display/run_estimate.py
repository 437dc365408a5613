"""What a run with these parameters would take: steps, hours, USD, memory, and the step at which a budget would stop it.

Hours and USD are computed at once. The memory follows after a step was simulated on the model's shapes and, if that does
not fit, the parameters that do. The machines that could be rented for it come from mistral_lib.instance.in_notebook, as texts.
"""

import html
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from mistral_lib.corpus.sources import SourceFile
from mistral_lib.display.tables import TextTable
from mistral_lib.run import params
from mistral_lib.run.settings import Settings


@dataclass(frozen=True)
class Estimate:
    """An estimate as far as it is computed: `fit` with the memory, `fitting` if that does not fit. seconds: (least, most)."""

    settings: Settings
    work: Any  # workload.Work
    seconds: tuple[float, float]
    fit: Any = None  # fit_plan.Fit
    fitting: Any = None  # fit_plan.Fit

    def changes(self) -> dict[str, Any]:
        """The parameters to change so that the training fits; empty if it fits already, or if nothing helps."""
        from mistral_lib.training import plan_table

        return plan_table.changes(self.fit, self.fitting)

    def rows(self) -> list[tuple[str, str]]:
        """(name, text) of each quantity."""
        from mistral_lib.training.plan_table import batch, duration, memory, span
        from mistral_lib.training.workload import effective_batch, steps_text

        s, machine = self.settings, params.instances()[self.settings.instance]
        size = effective_batch(s) * s.max_tokens
        usd = [seconds / 3600 * machine["usd_per_hour"] for seconds in self.seconds]
        every, steps = s.checkpoint_every_steps, self.work.steps
        saved = f"a checkpoint every {every:,} steps" if every < steps else f"saved at the end: a checkpoint is due every {every:,} steps"
        words = f"{span(*usd) if usd[1] >= 0.005 else 'less than 0.01'}, at {machine['usd_per_hour']:g} an hour ({machine['priced']})"
        return [
            ("memory", memory(self.fit, self.fitting) if self.fit else "simulating a step …"),
            ("time", f"{duration(*self.seconds)} on {s.instance}"),
            ("USD", words if machine["usd_per_hour"] else "none: your own machine"),
            ("steps", steps_text(s, self.work)),
            ("batch", f"{size:,} tokens a step ({batch(self.fit.settings if self.fit else s)}, {s.max_tokens:,} tokens a block); {saved}"),
            ("budget", budget(s, self.seconds, self.work.steps, machine["usd_per_hour"])),
            ("data", self.work.origin),
        ]  # fmt: skip

    def table(self) -> str:
        cells = "".join(
            f'<tr><td style="padding-right:1em;vertical-align:top"><b>{name}</b></td><td>{html.escape(words)}</td></tr>'
            for name, words in self.rows()
        )
        return f'<table style="line-height:1.4"><caption style="text-align:left"><b>Estimate</b></caption>{cells}</table>'


@dataclass(frozen=True)
class RentalOptions:
    """Machines that could be rented for a run. commands: what rents one, by the name of its type; empty if it cannot be rented."""

    machines: Sequence[Mapping[str, str]] = ()  # a row per type
    own: Sequence[Mapping[str, str]] = ()  # a row per stopped machine of the account
    commands: Mapping[str, Sequence[str]] = field(default_factory=dict)
    notes: Sequence[str] = ()  # what else is known, and what was not seen

    def page(self, instance: str) -> str:
        """As HTML, with the commands for the machine that was chosen."""
        parts = ["<b>Machines to rent</b>"]
        parts += [TextTable(self.machines).shown] if self.machines else []
        parts += ["<b>Your stopped machines</b>", TextTable(self.own).shown] if self.own else []
        parts += [html.escape(note) + "<br>" for note in self.notes]
        parts.append(self._rent(instance))
        return f'<div style="line-height:1.4;overflow-x:auto">{"".join(parts)}</div>'

    def _rent(self, instance: str) -> str:
        if not self.commands:
            return ""
        if instance not in self.commands:
            return f"To rent one of them, choose it as the machine in place of <b>{html.escape(instance)}</b>."
        if not self.commands[instance]:
            return f"<b>{html.escape(instance)}</b> cannot be rented for this run as it is."
        lines = html.escape("\n".join(self.commands[instance]))
        return f'To rent {html.escape(instance)}, save, then type in a terminal:<pre style="white-space:pre-wrap;line-height:1.4">{lines}</pre>'


def estimates(settings: Settings, found: Sequence[SourceFile]) -> Iterator[Estimate]:
    """The estimate, each more complete than the one before. Errors: BaseModelError if the model's sizes cannot be read."""
    from mistral_lib.training import fit_plan, workload

    work, machine = workload.work_of(settings, source_files=found), params.instances()[settings.instance]
    estimate = Estimate(settings, work, workload.seconds(settings, work, machine))
    yield estimate
    fit = fit_plan.as_set(settings, work)
    estimate = replace(estimate, fit=fit, seconds=fit.seconds)
    yield estimate
    if not estimate.fit.fits and not estimate.fit.host:
        yield replace(estimate, fitting=fit_plan.best(settings, work, settings.instance))


def budget(settings: Settings, seconds: tuple[float, float], steps: int, usd_per_hour: float) -> str:
    """The step at which max_hours or max_usd, whichever comes first, would stop the training. seconds: (least, most) without a budget."""
    limits = {"max_hours": settings.max_hours * 3600}
    limits |= {"max_usd": settings.max_usd / usd_per_hour * 3600} if usd_per_hour else {}
    limits = {name: limit for name, limit in limits.items() if limit}
    if not limits:
        return "none: training runs to its last step"
    name = min(limits, key=limits.__getitem__)
    limit, (least, most) = limits[name], seconds
    shown = f"{name} = {getattr(settings, name):g}"
    if limit >= most:
        return f"{shown} is not reached"
    early, late = (max(1, min(steps, math.floor(steps * limit / time))) for time in (most, least))
    after = f"after {limit / 60:.3g} minutes" if limit < 5400 else f"after {limit / 3600:.3g} hours"
    if limit >= least:
        return f"{shown} may stop it {after}, at step {early:,} of {steps:,} at the earliest; it is still saved and verified"
    return f"{shown} stops it {after}, between step {early:,} and {late:,} of {steps:,}; it is still saved and verified"
