"""When a training ends before its last step: on purpose (nothing gained any more, the budget is spent) or because it went wrong.

Knows numbers only: losses, seconds, prices. Who stops, saves and says so is the trainer.
"""

import math
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mistral_lib.run.settings import Settings

SKIPPED_IN_A_ROW = 8  # float16's loss scale halves at each skip: 65536 is tamed well before
SKIPPED_SHARE = 0.1  # of all steps
FEWEST_STEPS = 2  # the first has learning rate 0 while it warms up, and so trains nothing
HOPELESS = 1.2  # times the loss of a guess that takes all tokens for alike
HOPELESS_STEPS = 8  # in a row


class Diverged(RuntimeError):
    """The training went wrong in its numbers; the message says what was seen and what to change."""


@dataclass(frozen=True, slots=True)
class StoppingRules:
    """Early stopping and budgets. 0 switches a rule off."""

    early_stopping_patience: int
    max_hours: float
    max_usd: float
    usd_per_hour: float

    @classmethod
    def of(cls, settings: Settings, usd_per_hour: float) -> "StoppingRules":
        return cls(settings.early_stopping_patience, settings.max_hours, settings.max_usd, usd_per_hour)

    def reached(self, step: int, validations: list[dict[str, Any]], seconds: float, ending_seconds: float) -> tuple[str, str] | None:
        """Which rule ends the training after this step, and why; None to go on.

        validations: the curve of validation losses, each with step and loss. seconds: spent so far, all attempts
        together. ending_seconds: what saving and verifying will still take; a budget pays for that as well.
        """
        if step < FEWEST_STEPS:
            return None
        since = waits(validations)
        if self.early_stopping_patience and since >= self.early_stopping_patience:
            return "early_stopping", f"no lower validation loss in the last {since} measurements"
        hours = (seconds + ending_seconds) / 3600
        if self.max_hours and hours >= self.max_hours:
            return "max_hours", f"{seconds / 3600:.4f} h spent and {ending_seconds / 3600:.4f} h for the ending, of {self.max_hours} h"
        if self.max_usd and hours * self.usd_per_hour >= self.max_usd:
            return "max_usd", f"{seconds / 3600 * self.usd_per_hour:.4f} USD spent, and the ending reaches {self.max_usd} USD"
        return None


def waits(validations: list[dict[str, Any]]) -> int:
    """How many measurements have passed since the lowest loss."""
    losses = [math.inf if event["loss"] is None else event["loss"] for event in validations]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


class Health:
    """Watches the numbers of each step, and ends a training that cannot come to anything.

    worst: a loss that a guess without any knowledge would have, in nats per supervised token.
    """

    def __init__(self, settings: Settings, steps: int, worst: float, skipped: int = 0):
        self.settings, self.steps, self.worst = settings, steps, worst
        self.skipped, self.in_a_row, self.hopeless = skipped, 0, 0

    def skip(self, step: int, because: str) -> dict[str, Any]:
        """Count a step that was left out, and return what to log. Errors: Diverged beyond the bound."""
        self.skipped += 1
        self.in_a_row += 1
        bound = max(SKIPPED_IN_A_ROW, math.ceil(SKIPPED_SHARE * self.steps))
        if self.in_a_row >= SKIPPED_IN_A_ROW or self.skipped > bound:
            raise Diverged(
                f"step {step}: {because}; {self.in_a_row} steps in a row and {self.skipped} in all had to be skipped. {self.advice()}"
            )
        return {"step": step, "because": because, "in_a_row": self.in_a_row, "in_all": self.skipped}

    def step(self, step: int, loss: float) -> None:
        """Take note of a step that was made. Errors: Diverged if the losses say that the model knows nothing any more."""
        self.in_a_row = 0
        self.hopeless = self.hopeless + 1 if loss > HOPELESS * self.worst else 0
        if self.hopeless >= HOPELESS_STEPS:
            raise Diverged(
                f"step {step}: a loss of {loss:.2f} nats per supervised token, the {self.hopeless}th in a row above "
                f"{HOPELESS} x {self.worst:.2f}, which is worse than guessing. {self.advice()}"
            )

    def broken(self, step: int, last: Path | None) -> None:
        """An adapter with NaN or infinity is never saved over a good one. Errors: Diverged."""
        safe = f"the last good checkpoint is {last.name}" if last else "there is no checkpoint yet"
        raise Diverged(f"the adapter became NaN or infinite by step {step}, so it is not saved; {safe}. {self.advice()}")

    def advice(self) -> str:
        s = self.settings
        words = f"Lower learning_rate (now {s.learning_rate:g}) to a third or a tenth, or raise warmup_share (now {s.warmup_share:g})"
        return words + (
            "; float16 overflows easily: where the GPU is fast in bfloat16, set dtype: bfloat16" if s.dtype == "float16" else ""
        )


# -- what a training has cost so far, in seconds and USD, over all its attempts; and what is still to come -----


class Spending:
    """Started with each attempt; `earlier_seconds` are those of the attempts before it."""

    def __init__(self, earlier_seconds: float, usd_per_hour: float):
        self.earlier_seconds, self.usd_per_hour = earlier_seconds, usd_per_hour
        self.began = time.perf_counter()
        self.loading_seconds = 0.0  # of the base model; it is loaded once more in the end
        self.measuring_seconds = 0.0  # of the last validation loss; it is measured twice more in the end
        self.step_seconds: list[float] = []

    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.began

    def usd(self) -> float:
        return self.seconds() / 3600 * self.usd_per_hour

    def ending_seconds(self) -> float:
        """What it takes to measure, save, load again and measure again."""
        return 2 * self.measuring_seconds + self.loading_seconds

    def seconds_left(self, steps: int, validations: int) -> float:
        """Until the adapter is verified: so many more steps and validations, and the ending."""
        step = statistics.median(self.step_seconds[-20:]) if self.step_seconds else 0.0
        return steps * step + validations * self.measuring_seconds + self.ending_seconds()
