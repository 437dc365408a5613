"""The planned peak against the resident peak of real trainings on this CPU, each in its own process; docs/fit_plan.md states the bound."""

import pytest

from tests.benchmarks.measured_memory import CONFIGURATIONS, planned_and_measured


@pytest.mark.parametrize("configuration", CONFIGURATIONS)
def test_the_planned_peak_is_within_a_fifth_of_the_measured(configuration: str) -> None:
    planned, measured = planned_and_measured(configuration.split())
    print(f"\n{configuration:<28} planned {planned:>6.0f} MiB   measured {measured:>6} MiB   {planned / measured - 1:+.1%}")
    assert planned == pytest.approx(measured, rel=0.2)
