"""The verdict: `ship`, `do not ship` or `not enough evidence`, from rules. Two thresholds are parameters: of forgetting and of stopping.

A rule without enough data, or whose measurement was switched off, is `unknown`, which never counts as passed.
To add a rule: a function here, and its call in `rules`. Its number is in the result: of answers, `answer_metrics.summary` makes it.
Its threshold, if it is to be chosen, is a parameter in run/settings.py with keeps="evaluation", so that nothing is measured again when
it changes.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from mistral_lib.evaluation import paired_difference
from mistral_lib.run.settings import Settings

SHIP, DO_NOT_SHIP, NOT_ENOUGH = "ship", "do not ship", "not enough evidence"
PASSED, FAILED, UNKNOWN = "passed", "failed", "unknown"
ACTIVE = "adapter is active"  # without it no other rule counts
LARGE = 0.2  # share of the tokens from which the longest document is named
FEWEST_VOTES = 10  # decided votes from which the blind vote is a rule

Facts = Mapping[str, Any]


class NotToShipError(RuntimeError):
    """`require_ship` is set and the verdict is not `ship`."""


def rule(name: str, question: str, number: str, threshold: str, outcome: str) -> dict[str, str]:
    return {"rule": name, "question": question, "number": number, "threshold": threshold, "outcome": outcome}


def rules(result: Facts, settings: Settings) -> list[dict[str, str]]:
    """Every rule with its number, threshold and outcome. Labels and one's own retention set are judged if there are any, the blind vote
    if there are enough votes."""
    found = [
        active(result["largest_logit_difference"]),
        overall(result["overall"]),
        domains(result["domains"]),
        prompts(result["prompt_worth"]),
        retention(result["retention"], settings.max_retention_loss),
    ]
    if result.get("labels") is not None:
        found.insert(1, labels(result["labels"]))
    if result["own_retention"] is not None:
        found.append(retention(result["own_retention"], settings.max_retention_loss, "own texts kept"))
    found.append(stopping(result["answers"], settings.min_stop_rate))
    if result["votes"]["adapter"] + result["votes"]["base"] >= FEWEST_VOTES:
        found.append(preferred(result["votes"]))
    return found


def needs(settings: Settings) -> list[str]:
    """What each rule needs to pass; and where the parameters rule that out."""
    documents, answers = paired_difference.FEWEST, fewest(settings.min_stop_rate)
    found = [
        f"better overall: {documents} test documents or more, and a loss that fell beyond chance",
        f"no domain worse: no loss that rose beyond chance; a rise is judged from {documents} test documents of the domain on",
        f"prompts still count: test chats from {documents} documents or more, at least two documents in a domain",
        "little forgotten: the loss on general prompts (general_prompts above 0) rises by at most max_retention_loss = "
        f"{settings.max_retention_loss:g} nats{_ruled_out(settings.general_prompts == 0, 'general_prompts')}",
        f"answers stop: {answers} answers or more (sample_count), {settings.min_stop_rate:.0%} of which end; only test chats count whose reference "
        f"is shorter than max_new_tokens = {settings.max_new_tokens}{_ruled_out(settings.sample_count < answers, 'sample_count')}",
    ]
    found.append(
        f"labels better, if there are label domains: an accuracy that is higher, beyond chance, than the base model's and than that of always "
        f"answering the most frequent label, on {documents} documents or more"
    )
    found += ["own texts kept: the same rise at most on the texts of retention_paths"] if settings.retention_paths else []
    return [*found, f"preferred in a blind vote, if there are {FEWEST_VOTES} decided votes or more: at least half of them"]


def _ruled_out(is_too_low: bool, name: str) -> str:
    return f" — {name} is too low for that" if is_too_low else ""


def active(largest: float) -> dict[str, str]:
    outcome = PASSED if largest > 0 else UNKNOWN
    return rule(ACTIVE, "Do logits differ when it is switched on?", f"largest difference {largest:.3g}", "above 0", outcome)


def labels(found: Facts) -> dict[str, str]:
    """The most likely labels of the adapter against those of the base model and against the most frequent label. found: what
    label_accuracy.measure returns."""
    name, question, required = "labels better", "Are more labels right than before, and than by chance?", "both intervals above 0"
    if not found["records"]:
        return rule(name, question, f"not measured: none of {found['of']} test records is suitable", required, UNKNOWN)
    facts = found["likelihood"]
    sides = [_higher(facts[key]) for key in ("difference", "over_majority")]
    outcome = FAILED if FAILED in sides else UNKNOWN if UNKNOWN in sides else PASSED
    number = (
        f"{facts['base']['accuracy']:.1%} → {facts['adapter']['accuracy']:.1%}, {points(facts['difference'])}; always the most frequent label "
        f"{found['majority_accuracy']:.1%}, {points(facts['over_majority'])}"
    )
    return rule(name, question, number, required, outcome)


def _higher(facts: Facts) -> str:
    return UNKNOWN if facts["low"] is None else PASSED if facts["low"] > 0 else FAILED if facts["high"] < 0 else UNKNOWN


def points(facts: Facts) -> str:
    """A difference of accuracies in percentage points, with its interval."""
    if facts["low"] is None:
        return f"{100 * facts['difference']:+.1f} points (too few documents for an interval)"
    return f"{100 * facts['difference']:+.1f} points ({100 * facts['low']:+.1f} to {100 * facts['high']:+.1f})"


def overall(facts: Facts) -> dict[str, str]:
    number = (
        f"{facts['difference']:+.3f} nats per token{span(facts)}, better on {facts['documents_better']} of {facts['documents']} documents"
    )
    return rule("better overall", "Is held-out text predicted better?", number + on_one_document(facts), "interval below 0", _side(facts))


def _side(facts: Facts) -> str:
    return UNKNOWN if facts["low"] is None else PASSED if facts["high"] < 0 else FAILED if facts["low"] > 0 else UNKNOWN


def on_one_document(facts: Facts) -> str:
    """What the longest document decides: said if it holds much of the tokens, or if the outcome without it would be another one."""
    rest = facts["without_largest"]
    if rest is None or (facts["largest_share"] < LARGE and _side(rest) == _side(facts)):
        return ""
    return f"; one document holds {facts['largest_share']:.0%} of the tokens, without it {rest['difference']:+.3f}{span(rest)}"


def span(facts: Facts) -> str:
    if facts["low"] is None:
        return " (too few documents for an interval)"
    return f" ({facts['low']:+.3f} to {facts['high']:+.3f})"


def domains(by_domain: Mapping[str, Facts]) -> dict[str, str]:
    """A domain is worse if its loss rose beyond chance, corrected for testing all domains (Holm)."""
    worse = [name for name, f in by_domain.items() if f["difference"] > 0 and paired_difference.is_beyond_chance(f)]
    undecided = [name for name, f in by_domain.items() if f["difference"] > 0 and f["holm_p"] is None]
    outcome = FAILED if worse else UNKNOWN if undecided else PASSED
    number = f"{len(worse)} of {len(by_domain)} worse" + (f": {', '.join(worse)}" if worse else "")
    number += f"; higher loss, too few documents to judge: {', '.join(undecided)}" if undecided else ""
    return rule("no domain worse", "Did a domain get worse, beyond chance?", number, "0, Holm-corrected at 5 %", outcome)


def prompts(worth: Facts | None) -> dict[str, str]:
    """An adapter that was trained on answers to other prompts has learned to ignore its own. None: the test split has no such chats."""
    name, question = "prompts still count", "Is the right prompt worth as much as to the base model?"
    if worth is None:
        return rule(name, question, "not measured: it takes two chats of one domain from different documents", "no less", UNKNOWN)
    outcome = UNKNOWN if worth["low"] is None else PASSED if worth["difference"] >= 0 else FAILED if worth["high"] < 0 else UNKNOWN
    number = f"{worth['base']:.3f} → {worth['adapter']:.3f} nats per token, {worth['difference']:+.3f}{span(worth)}"
    return rule(name, question, number, "no less", outcome)


def retention(found: Facts | None, threshold: float, name: str = "little forgotten") -> dict[str, str]:
    """found: base against adapter on a retention set, as of the test split; None if it was not measured. threshold: nats per token."""
    question, required = "Is text of other kinds predicted as well as before?", f"interval at most +{threshold:.3f}"
    if found is None:
        return rule(name, question, "not measured: general_prompts is 0", required, UNKNOWN)
    facts = found["overall"]
    passed, failed = facts["low"] is not None and facts["high"] <= threshold, facts["low"] is not None and facts["low"] > threshold
    outcome = PASSED if passed else FAILED if failed else UNKNOWN
    return rule(name, question, f"{facts['difference']:+.3f} nats per token{span(facts)}", required, outcome)


def stopping(answers: Facts, threshold: float) -> dict[str, str]:
    """Judged only on a sample that is large enough to pass with one answer that does not stop: else a single answer decides.

    Fails if fewer answers end than required, beyond chance: the 95 % interval of their share is below the threshold.
    """
    name, question, required = "answers stop", "Do answers end by themselves?", f"at least {threshold:.1%}"
    if not answers["answers"]:
        return rule(name, question, "not measured: sample_count is 0, or no test prompt is suitable", required, UNKNOWN)
    rate, base = answers["adapter"]["stop_rate"], answers["base"]["stop_rate"]
    number = f"{rate['count']} of {rate['of']} ({rate['low']:.0%} to {rate['high']:.0%}); base model {base['count']} of {base['of']}"
    if (rate["of"] - 1) / rate["of"] < threshold:  # as a quotient: 10 * (1 - 0.9) is just below 1
        return rule(name, question, f"{number}; at least {fewest(threshold)} answers are needed", required, UNKNOWN)
    outcome = FAILED if rate["high"] < threshold else PASSED if rate["share"] >= threshold else UNKNOWN
    return rule(name, question, number, required, outcome)


def fewest(threshold: float) -> int:
    """The smallest sample that passes with one answer that does not stop."""
    return next(count for count in range(1, 10_000) if (count - 1) / count >= threshold)


def preferred(votes: Facts) -> dict[str, str]:
    """The blind vote: which answers people preferred, ties left out."""
    outcome = FAILED if votes["high"] < 0.5 else PASSED if votes["share"] >= 0.5 else UNKNOWN
    number = f"{votes['adapter']} of {votes['adapter'] + votes['base']} votes ({votes['low']:.0%} to {votes['high']:.0%})"
    return rule("preferred in a blind vote", "Do people prefer the adapter's answers?", number, "at least half", outcome)


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
    parts = []
    for outcome in (FAILED, UNKNOWN):
        decided = [one for one in found if one["outcome"] == outcome]
        texts = "; ".join(f"“{one['rule']}” — {one['number']}, required {one['threshold']}" for one in decided)
        parts += [f"{outcome} {texts}"] if decided else []
    return ": " + "; ".join(parts)


def require_ship(result: Facts, settings: Settings) -> None:
    """Errors: NotToShipError if require_ship is set and the verdict is not `ship`; a headless run then exits with an error."""
    if settings.require_ship and result["verdict"] != SHIP:
        raise NotToShipError(f"require_ship is set, and the verdict is: {result['sentence']}")
