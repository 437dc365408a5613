"""What a training has cost so far, in seconds and USD, over all its attempts; and what is still to come."""

import statistics
import time


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
