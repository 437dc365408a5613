"""Before a training, in words: are there enough steps, can each domain be judged, and what does the verdict `ship` need?"""

import math
from collections.abc import Mapping
from typing import Any

from mistral_lib.evaluation import paired_difference, verdict
from mistral_lib.run.settings import Settings
from mistral_lib.training import workload
from mistral_lib.training.workload import Work


def text(settings: Settings, work: Work, report: Mapping[str, Any] | None = None) -> str:
    """A line each for steps and domains, then the list of what `ship` needs. report: data/report.json, if the data are prepared."""
    needs = [f"- {need}" for need in verdict.needs(settings)]
    return "\n".join([workload.steps_text(settings, work), domains(settings, report or {}), "The verdict `ship` needs:", *needs])


def domains(settings: Settings, report: Mapping[str, Any]) -> str:
    """How many source documents a domain must have to be judged; of prepared data, which domains have fewer."""
    fewest = paired_difference.FEWEST
    needed = math.ceil(fewest / settings.test_share)
    rule = f"A domain is judged from {fewest} test documents on, so it needs some {needed:,} documents in all"
    counted = report.get("documents", {}).get("test")  # an older version of the library did not count them
    if counted is None:
        return f"{rule} (test_share = {settings.test_share:g})."
    found = {name: counted.get(name, 0) for split in report["domains"].values() for name in split}
    few = [f"{name} {count}" for name, count in sorted(found.items()) if count < fewest]
    measured = f"; of the test split max_test_tokens = {settings.max_test_tokens:,} tokens are measured" if settings.max_test_tokens else ""
    return f"{rule}. Too few test documents in {len(few)} of {len(found)} domains{': ' + ', '.join(few) if few else ''}{measured}."
