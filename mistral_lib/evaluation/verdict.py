"""The verdict: `ship`, `do not ship` or `not enough evidence`, from rules. Two thresholds are parameters: of forgetting and of stopping.

A rule without enough data is `unknown`, which never counts as passed. To add a rule: a function here, and its call in `rules`.
Its number is in the result: of answers, `answer_metrics.summary` makes it. Its threshold, if it is to be chosen, is a parameter in
run/settings.py with keeps="evaluation", so that nothing is measured again when it changes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mistral_lib.evaluation import paired_difference
from mistral_lib.run.settings import Settings

SHIP, DO_NOT_SHIP, NOT_ENOUGH = "ship", "do not ship", "not enough evidence"
PASSED, FAILED, UNKNOWN = "passed", "failed", "unknown"
ACTIVE = "adapter is active"  # without it no other rule counts

Facts = Mapping[str, Any]


class NotToShip(RuntimeError):
    """`require_ship` is set and the verdict is not `ship`."""


def rule(name: str, question: str, number: str, threshold: str, outcome: str) -> dict[str, str]:
    return {"rule": name, "question": question, "number": number, "threshold": threshold, "outcome": outcome}


def rules(result: Facts, settings: Settings) -> list[dict[str, str]]:
    """Every rule with its number, threshold and outcome. Prompts, forgetting and stopping are judged only if they were measured."""
    found = [active(result["largest_logit_difference"]), overall(result["overall"]), domains(result["domains"])]
    if result["prompt_worth"] is not None:
        found.append(prompts(result["prompt_worth"]))
    if result["retention"] is not None:
        found.append(retention(result["retention"]["change"], settings.max_retention_loss))
    if settings.sample_count:
        found.append(stopping(result["answers"], settings.min_stop_rate))
    return found


def active(largest: float) -> dict[str, str]:
    outcome = PASSED if largest > 0 else UNKNOWN
    return rule(ACTIVE, "Do logits differ when it is switched on?", f"largest difference {largest:.3g}", "above 0", outcome)


def overall(facts: Facts) -> dict[str, str]:
    outcome = UNKNOWN if facts["low"] is None else PASSED if facts["high"] < 0 else FAILED if facts["low"] > 0 else UNKNOWN
    return rule("better overall", "Is held-out text predicted better?", f"{facts['difference']:+.3f} nats per token{span(facts)}",
                "interval below 0", outcome)  # fmt: skip


def span(facts: Facts, percent: bool = False) -> str:
    if facts["low"] is None:
        return " (too few documents for an interval)"
    form = "{:+.1%} to {:+.1%}" if percent else "{:+.3f} to {:+.3f}"
    return f" ({form.format(facts['low'], facts['high'])})"


def domains(by_domain: Mapping[str, Facts]) -> dict[str, str]:
    """A domain is worse if its loss rose beyond chance, corrected for testing all domains (Holm)."""
    worse = [name for name, f in by_domain.items() if f["difference"] > 0 and paired_difference.is_beyond_chance(f)]
    undecided = [name for name, f in by_domain.items() if f["difference"] > 0 and f["holm_p"] is None]
    outcome = FAILED if worse else UNKNOWN if undecided else PASSED
    number = f"{len(worse)} of {len(by_domain)} worse" + (f": {', '.join(worse)}" if worse else "")
    number += f"; higher loss, too few documents to judge: {', '.join(undecided)}" if undecided else ""
    return rule("no domain worse", "Did a domain get worse, beyond chance?", number, "0, Holm-corrected at 5 %", outcome)


def prompts(worth: Facts) -> dict[str, str]:
    """An adapter that was trained on answers to other prompts has learned to ignore its own."""
    outcome = UNKNOWN if worth["low"] is None else PASSED if worth["difference"] >= 0 else FAILED if worth["high"] < 0 else UNKNOWN
    number = f"{worth['base']:.3f} → {worth['adapter']:.3f} nats per token, {worth['difference']:+.3f}{span(worth)}"
    return rule("prompts still count", "Is the right prompt worth as much as to the base model?", number, "no less", outcome)


def retention(change: Facts, threshold: float) -> dict[str, str]:
    """change: of the loss on the retention set, relative to the base model's loss."""
    outcome = (
        UNKNOWN if change["low"] is None else PASSED if change["high"] <= threshold else FAILED if change["low"] > threshold else UNKNOWN
    )
    return rule("little forgotten", "Is text of other kinds predicted as well as before?",
                f"{change['value']:+.1%} loss{span(change, percent=True)}", f"interval at most +{threshold:.1%}", outcome)  # fmt: skip


def stopping(answers: Facts, threshold: float) -> dict[str, str]:
    """The sample must be large enough to pass with one answer that does not stop; else a single answer decides."""
    rate = answers["adapter"]["stop_rate"] if answers["answers"] else None
    question, required = "Do answers end by themselves?", f"at least {threshold:.1%}"
    if rate is None:
        return rule("answers stop", question, "no suitable prompt", required, UNKNOWN)
    enough = (rate["of"] - 1) / rate["of"] >= threshold  # as a quotient: 10 * (1 - 0.9) is just below 1
    outcome = FAILED if rate["high"] < threshold else UNKNOWN if not enough else PASSED if rate["share"] >= threshold else UNKNOWN
    return rule("answers stop", question, f"{rate['count']} of {rate['of']} ({rate['low']:.0%} to {rate['high']:.0%})", required, outcome)


def decide(found: Sequence[Facts]) -> str:
    """`do not ship` if a rule failed, `ship` if all passed, else `not enough evidence`: also if the adapter is not active, whatever else was measured."""
    outcomes = {one["rule"]: one["outcome"] for one in found}
    if outcomes[ACTIVE] != PASSED:
        return NOT_ENOUGH
    return DO_NOT_SHIP if FAILED in outcomes.values() else SHIP if set(outcomes.values()) == {PASSED} else NOT_ENOUGH


def sentence(result: Facts) -> str:
    """The verdict in one sentence, with the rules that decided it and the numbers."""
    facts, by_domain = result["overall"], result["domains"]
    lower = sum(one["difference"] < 0 for one in by_domain.values())
    numbers = (
        f"{facts['base']:.3f} → {facts['adapter']:.3f} nats per supervised token, {facts['difference']:+.3f}{span(facts)}, "
        f"on {facts['records']} held-out test records; lower in {lower} of {len(by_domain)} domains"
    )
    return f"{result['verdict']}{because(result['rules'], result['verdict'])}. {numbers}."


def because(found: Sequence[Facts], verdict: str) -> str:
    if verdict == SHIP:
        return f": all {len(found)} rules passed"
    deciding = FAILED if verdict == DO_NOT_SHIP else UNKNOWN
    decided = [one for one in found if one["outcome"] == deciding]
    return f": {deciding} " + "; ".join(f"“{one['rule']}” — {one['number']}, required {one['threshold']}" for one in decided)


def require_ship(result: Facts, settings: Settings) -> None:
    """Errors: NotToShip if require_ship is set and the verdict is not `ship`; a headless run then exits with an error."""
    if settings.require_ship and result["verdict"] != SHIP:
        raise NotToShip(f"require_ship is set, and the verdict is: {result['sentence']}")
