"""Why a training stops before its last step: a signal, a rule (patience or a budget), or losses that went wrong.

Knows signals, losses, seconds and prices; the trainer saves and stops.
"""

import math
import signal
import statistics
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mistral_lib.run.settings import Settings

SKIPPED_IN_A_ROW = 8  # float16's loss scale halves at each skip, so 65536 becomes usable well before
SKIPPED_SHARE = 0.1  # of all steps
FEWEST_STEPS = 2  # the first step of a warm-up has learning rate 0 and trains nothing
HOPELESS = 1.2  # times the loss of a uniform guess over the vocabulary
HOPELESS_STEPS = 8  # in a row


# -- a signal: SIGTERM, as before a spot instance is taken away, or SIGINT -----------------------------------------------


class Stopped(KeyboardInterrupt):
    """A signal stopped the process, after it had saved what there was to save."""


class StopSignal:
    """During the steps a signal is a request, which the trainer follows after saving; outside of them it raises at once."""

    def __init__(self) -> None:
        self.requested = False
        self.stepping = False
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._receive)

    def _receive(self, number: int, frame: Any) -> None:
        self.requested = True
        if not self.stepping:
            raise Stopped(f"{signal.Signals(number).name} received between the steps, where there is nothing new to save")

    @contextmanager
    def during(self, stepping: bool) -> Iterator[None]:
        """True for the steps; within them, False for work between two steps that can be repeated."""
        before, self.stepping = self.stepping, stepping
        try:
            yield
        finally:
            self.stepping = before


# -- a rule: patience and budgets ----------------------------------------------------------------------------------------


class Spending:
    """Seconds and USD that all attempts of a training have cost, and what this one will still cost. earlier_seconds: of those before."""

    def __init__(self, earlier_seconds: float, usd_per_hour: float):
        self.earlier_seconds, self.usd_per_hour = earlier_seconds, usd_per_hour
        self.began = time.perf_counter()
        self.loading_seconds = 0.0  # of the base model; it is loaded once more at the end
        self.measuring_seconds = 0.0  # of the last validation loss; it is measured twice more at the end
        self.step_seconds: list[float] = []

    def seconds(self) -> float:
        return self.earlier_seconds + time.perf_counter() - self.began

    def usd(self) -> float:
        return self.seconds() / 3600 * self.usd_per_hour

    def ending_seconds(self) -> float:
        """Time to measure, save, load again and measure again."""
        return 2 * self.measuring_seconds + self.loading_seconds

    def seconds_left(self, steps: int, validations: int) -> float:
        """Time until the adapter is verified: so many more steps and validations, and the ending."""
        step = statistics.median(self.step_seconds[-20:]) if self.step_seconds else 0.0
        return steps * step + validations * self.measuring_seconds + self.ending_seconds()


def reached_rule(s: Settings, spending: Spending, step: int, validations: list[dict[str, Any]]) -> tuple[str, str] | None:
    """The rule (early stopping or a budget) that ends the training after this step, and why; None to continue.

    A parameter of 0 switches its rule off. A budget also pays for the ending. validations: each with step and loss.
    """
    if step < FEWEST_STEPS:
        return None
    since = validations_since_best(validations)
    if s.early_stopping_patience and since >= s.early_stopping_patience:
        return "early_stopping", f"no lower validation loss in the last {since} measurements"
    hours, ending = spending.seconds() / 3600, spending.ending_seconds() / 3600
    if s.max_hours and hours + ending >= s.max_hours:
        return "max_hours", f"{hours:.4f} h spent and {ending:.4f} h for the ending, of {s.max_hours} h"
    if s.max_usd and (hours + ending) * spending.usd_per_hour >= s.max_usd:
        return "max_usd", f"{hours * spending.usd_per_hour:.4f} USD spent, and the ending reaches {s.max_usd} USD"
    return None


def validations_since_best(validations: list[dict[str, Any]]) -> int:
    """How many validations came after the one with the lowest loss."""
    losses = [math.inf if event["loss"] is None else event["loss"] for event in validations]
    return len(losses) - 1 - losses.index(min(losses)) if losses else 0


# -- losses that went wrong ----------------------------------------------------------------------------------------------


class DivergedError(RuntimeError):
    """The losses or weights went wrong; the message says what was seen and what to change."""


class DivergenceCheck:
    """Watches each step's loss and ends a training that can no longer succeed.

    uniform_loss: the loss of a guess without any knowledge, in nats per supervised token.
    """

    def __init__(self, settings: Settings, steps: int, uniform_loss: float, skipped: int = 0):
        self.settings, self.steps, self.uniform_loss = settings, steps, uniform_loss
        self.skipped, self.in_a_row, self.hopeless = skipped, 0, 0
        self.skipped_at: int | None = None  # the last step that was skipped

    def skip(self, step: int, because: str) -> dict[str, Any]:
        """Count a skipped step, and return what to log. Errors: DivergedError if there were too many."""
        self.skipped += 1
        self.in_a_row += 1
        self.skipped_at = step
        bound = max(SKIPPED_IN_A_ROW, math.ceil(SKIPPED_SHARE * self.steps))
        if self.in_a_row >= SKIPPED_IN_A_ROW or self.skipped > bound:
            raise DivergedError(
                f"step {step}: {because}; skipped {self.in_a_row} steps in a row and {self.skipped} in total. {self.advice()}"
            )
        return {"step": step, "because": because, "in_a_row": self.in_a_row, "in_all": self.skipped}

    def step(self, step: int, loss: float) -> None:
        """Count a step with a finite loss. Errors: DivergedError if the losses have been worse than guessing for too long."""
        if step != self.skipped_at:  # a gradient that overflowed may belong to a finite loss
            self.in_a_row = 0
        self.hopeless = self.hopeless + 1 if loss > HOPELESS * self.uniform_loss else 0
        if self.hopeless >= HOPELESS_STEPS:
            raise DivergedError(
                f"step {step}: a loss of {loss:.2f} nats per supervised token, the {self.hopeless}th in a row above "
                f"{HOPELESS} x {self.uniform_loss:.2f}, which is worse than guessing. {self.advice()}"
            )

    def broken_adapter(self, step: int, last: Path | None) -> DivergedError:
        """The error for an adapter with NaN or infinity, which is never saved over a good one. last: the last checkpoint."""
        safe = f"the last good checkpoint is {last.name}" if last else "there is no checkpoint yet"
        return DivergedError(f"the adapter became NaN or infinite by step {step}, so it is not saved; {safe}. {self.advice()}")

    def advice(self) -> str:
        s = self.settings
        text = f"Lower learning_rate (now {s.learning_rate:g}) to a third or a tenth, or raise warmup_share (now {s.warmup_share:g})"
        float16 = "; float16 overflows easily: if the GPU is fast in bfloat16, set dtype: bfloat16"
        return text + (float16 if s.dtype == "float16" else "")
