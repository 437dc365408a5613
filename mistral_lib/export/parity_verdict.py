"""From numbers to a verdict: is a form, by what it answers, the adapter that was evaluated?

Compared token by token on the reference answers of the probe; f, a, b are the log-likelihoods by the form, the adapter and the base model:
- kept: the mean of f - b as a share of the mean of a - b, the share of the adapter's gain that is left; the interval is that of the paired
  difference f - a over records. Quantization lowers it although the adapter is in there.
- effect: the slope of f - b on a - b. Quantization moves f at random, which leaves it near 1; without the adapter it is near 0.
- unexplained: the sum of squares of f - a as a share of that of a - b. Rounding adds little; another adapter, which gains as much on other
  tokens, adds more, and the base model has 1.

What answers alone cannot tell: 4-bit quantization from another adapter trained on the same data, where both differ from the adapter alike.
For a file, what was added to the weights decides (adapter_in_weights.py); for an address nothing does.
Knows numbers; knows no file, model or server.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mistral_lib.evaluation import paired_difference
from mistral_lib.export.adapter_in_weights import Share
from mistral_lib.export.probe import SMALLEST_GAIN, Greedy, PerToken, Probe, are_finite

SAME, QUANTIZED, OTHER_ADAPTER, OTHER_TEMPLATE, NO_STOP = "same", "quantised", "not this adapter", "other template", "does not stop"
UNKNOWN, NO_ANSWER, LOADING, WRONG_KEY, DAMAGED = "cannot be told", "no answer", "loading", "wrong key", "damaged"
NEARER = 0.6  # effect above which a form is nearer to the adapter than to the base model, 0.5, by a margin
AS_KEPT, AS_EXPLAINED = 0.05, 0.02  # the same: keeps 1 ± the first of the gain, and leaves at most the second unexplained
# The most that a form may leave unexplained, as a share, or as rounding in nats per token if the adapter's own effect is small; other forms:
# IN_DOUBT. Measured with the demo: merged and LoRA-GGUF 0.00 %, Q8_0 0.5 %, an earlier state of the same training 0.8 %.
UNEXPLAINED = {"merged": 0.002, "f16": 0.002, "lora_gguf": 0.002, "adapter": 0.002, "q8_0": 0.02}
ROUNDING, ROUNDING_Q8_0, MOST_ROUNDING = (
    0.12,
    0.2,
    0.25,
)  # nats, root mean square (seen on two CPUs: up to 0.09 and 0.13); the last: of the effect, a share
EXACT = ("merged", "f16", "lora_gguf")  # forms in which the base model's weights are not quantized again
AS_HELD, AS_HELD_4BIT = 0.03, 0.4  # a file's weights hold the adapter if they hold 1 ± this share of it; 4 bits may round a part away
ERRORS, LARGEST_ERROR = 3, 0.15  # or ± so many standard errors; with larger ones the weights say nothing: all and nothing look alike
IN_DOUBT = 0.15  # unexplained, from which an unknown form may be quantized as well as be another adapter
STOPPED, ALPHA = 0.5, 0.05  # a form that ends fewer than this share of the answers that the adapter ends, beyond chance, does not stop
SHOWN = 12  # tokens on either side of a difference that are shown


Decode = Callable[[list[int]], str]  # token ids → text


@dataclass(frozen=True, slots=True)
class Answered:
    """What a form said to the probe."""

    prompt_ids: list[list[int]]  # for each record, the ids of its prompt as the form makes them from a chat
    log_likelihoods: PerToken
    greedy: list[tuple[list[int] | None, bool]] = field(default_factory=list)  # for Probe.asked: ids, and whether it ended by itself
    seconds: float = 0.0  # that the greedy answers took, their prompts included


@dataclass(frozen=True, slots=True)
class Finding:
    """The verdict on one form. kept: share of the adapter's gain, None if it was not measured."""

    form: str
    outcome: str
    kept: float | None
    passed: bool  # whether the form is the adapter, and keeps enough of its gain
    sentence: str
    evidence: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.form:10} {self.outcome:22} {self.sentence}"


def judge(
    probe: Probe,
    form: str,
    answered: Answered,
    decode: Decode,
    min_kept: float,
    weights: str | None = None,
    in_weights: Share | None = None,
) -> Finding:
    """The verdict on what a form answered.

    min_kept: smallest share of the gain with which a quantized form passes. weights: the base weights that the
    form was made on, None if unknown. in_weights: the share of the adapter that its weights hold, None if nobody can look.
    """
    prompts = prompt_evidence(probe, answered, decode)
    evidence: dict[str, Any] = {"prompts": prompts, "in_weights": in_weights._asdict() if in_weights else None,
                                "tokens_per_second": speed(answered)}  # fmt: skip
    if weights is not None and weights not in probe.likelihoods:
        why = f"it was made on {weights} weights, and the probe has only {', '.join(probe.likelihoods)}: make the probe again"
        return Finding(form, UNKNOWN, None, False, why, evidence)
    if not are_finite(answered.log_likelihoods):
        return Finding(form, DAMAGED, None, False, "its log-likelihoods are not finite", evidence)
    weights = weights or nearest(probe, answered.log_likelihoods)
    found, expected = likelihood_evidence(probe, answered.log_likelihoods, weights), probe.answers[weights].adapter
    stops = stop_evidence(expected, answered)
    evidence |= {"likelihood": found, "stops": stops, "greedy": greedy_evidence(expected, answered, probe.end_id)}
    if form in EXACT:
        evidence["base_in_form"] = found["base"]  # the same weights in another file; of a quantized form nobody has measured it
    told = in_weights if in_weights and in_weights.error <= LARGEST_ERROR else None
    outcome, sentence = _weights_verdict(form, found, told)
    if outcome in (SAME, QUANTIZED):
        outcome, sentence = _other_faults(prompts, stops, outcome, sentence)
    passed = outcome == SAME or (outcome == QUANTIZED and found["kept"] >= min_kept)
    if outcome == QUANTIZED:
        outcome = f"{QUANTIZED}, keeps {found['kept']:.0%}"
        sentence += "" if passed else f"; at least {min_kept:.0%} of the gain is required"
    return Finding(form, outcome, found["kept"], passed, sentence, evidence)


def _weights_verdict(form: str, found: Mapping[str, Any], in_weights: Share | None) -> tuple[str, str]:
    """Outcome and sentence by log-likelihoods and weights alone."""
    effect, left, kept = found["effect"], found["unexplained"], found["kept"]
    shown = f"effect {effect:.2f}{_span(found['effect_low'], found['effect_high'])}"
    numbers = f"keeps {kept:.1%}{_span(found['kept_low'], found['kept_high'])} of the adapter's gain, {left:.1%} of its effect unexplained"
    if unclear := _why_nothing_can_be_told(found):
        return UNKNOWN, unclear
    near = AS_HELD if form in UNEXPLAINED else AS_HELD_4BIT
    if in_weights is not None and abs(in_weights.value - 1) > max(near, ERRORS * in_weights.error):
        return OTHER_ADAPTER, f"its weights hold {in_weights.value:.0%} of what the adapter adds; {shown}, {numbers}"
    if in_weights is None and found["effect_high"] < NEARER:
        what = "as the base model does" if abs(effect) < 1 - NEARER else "neither as the adapter nor as the base model"
        return OTHER_ADAPTER, f"it answers {what}: {shown}; {numbers}"
    if left > (limit := most_unexplained(form, found["effect_rms"])):
        return OTHER_ADAPTER, f"it is changed on other tokens than by this adapter (limit {limit:.1%}): {numbers}"
    if in_weights is None and found["effect_low"] < NEARER:
        return UNKNOWN, f"{shown} may be that of the base model as well; {numbers}"
    if in_weights is None and left > IN_DOUBT:
        return UNKNOWN, f"it may be this adapter, quantized, or another one trained on the same data: {numbers}"
    return (SAME if abs(kept - 1) <= AS_KEPT and left <= AS_EXPLAINED else QUANTIZED), numbers


def most_unexplained(form: str, effect: float) -> float:
    """The largest share of the adapter's effect that rounding explains in a form; infinite if it has 4 bits, or is unknown.

    effect: what the adapter changes in nats per token, root mean square.
    """
    if form not in UNEXPLAINED:
        return np.inf
    rounding = ROUNDING_Q8_0 if form == "q8_0" else ROUNDING
    return max(UNEXPLAINED[form], min(MOST_ROUNDING, (rounding / effect) ** 2))


def _why_nothing_can_be_told(found: Mapping[str, Any]) -> str:
    """A gain that is too small, or too few records; "" if there is enough of both."""
    if abs(found["gain"]) < SMALLEST_GAIN:
        return (
            f"the adapter changes the reference answers by {found['gain']:+.4f} nats per token, expected {SMALLEST_GAIN} or more: "
            "too little to tell it from its base model"
        )
    if found["effect_low"] is None:
        return f"{found['records']} records are too few for an interval, {paired_difference.FEWEST} are needed"
    return ""


def _other_faults(prompts: Mapping[str, Any], stops: Mapping[str, Any], outcome: str, sentence: str) -> tuple[str, str]:
    """The outcome if the weights are right: prompts that are written otherwise, and answers that do not end, are faults as well."""
    if prompts["equal"] < prompts["of"]:
        return OTHER_TEMPLATE, f"{prompts['of'] - prompts['equal']} of {prompts['of']} prompts get other ids: {prompts['first_difference']}"
    if stops["p"] < ALPHA:
        return NO_STOP, f"of {stops['adapter']} answers that the adapter ends by itself, it ends {stops['form']}; {sentence}"
    return outcome, sentence


def _span(low: float | None, high: float | None) -> str:
    return "" if low is None else f" ({low:.1%} to {high:.1%})"


# -- log-likelihoods ----------------------------------------------------------------------------------------------------


def likelihood_evidence(probe: Probe, form: PerToken, weights: str) -> dict[str, Any]:
    """The numbers of the module's docstring, for a form and the base weights with which it is compared. Means in nats per token."""
    base, adapter = probe.likelihoods[weights].base, probe.likelihoods[weights].adapter
    rows = [(np.array(b), np.array(a), np.array(f)) for b, a, f in zip(base, adapter, form, strict=True)]
    tokens = np.array([float(len(b)) for b, _, _ in rows])
    squares = np.array([((a - b) ** 2).sum() for b, a, _ in rows])
    gain = float(sum((a - b).sum() for b, a, _ in rows) / tokens.sum())
    if gain == 0.0 or squares.sum() == 0.0:  # an adapter without any effect on these answers
        nothing = dict.fromkeys(("effect", "effect_rms", "unexplained", "kept"), 0.0) | dict.fromkeys(
            ("effect_low", "effect_high", "kept_low", "kept_high")
        )
        return {"weights": weights, **_means(rows), "gain": gain, "records": len(rows), "tokens": int(tokens.sum()), **nothing}
    change = paired_difference.ratio(np.array([(f - a).sum() for _, a, f in rows]), tokens, probe.seed)
    effect = paired_difference.ratio(np.array([((f - b) * (a - b)).sum() for b, a, f in rows]), np.maximum(squares, 1e-12), probe.seed)
    ends = (None, None) if change.low is None else sorted((1 + change.low / gain, 1 + change.high / gain))
    return {
        "weights": weights, **_means(rows), "gain": gain, "records": len(rows), "tokens": int(tokens.sum()),
        "kept": 1 + change.value / gain, "kept_low": ends[0], "kept_high": ends[1],
        "effect": effect.value, "effect_low": effect.low, "effect_high": effect.high,
        "effect_rms": float(np.sqrt(squares.sum() / tokens.sum())),
        "unexplained": float(sum(((f - a) ** 2).sum() for _, a, f in rows) / squares.sum()),
    }  # fmt: skip


def _means(rows: Sequence[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> dict[str, float]:
    """Mean log-likelihoods in nats per token."""
    together = [np.concatenate(part) for part in zip(*rows, strict=True)]
    return {name: float(values.mean()) for name, values in zip(("base", "adapter", "form"), together, strict=True)}


def nearest(probe: Probe, form: PerToken) -> str:
    """The base weights on which base model or adapter are most like the form, token by token."""

    def distance(values: PerToken) -> float:
        return float(sum(((np.array(one) - np.array(other)) ** 2).sum() for one, other in zip(values, form, strict=True)))

    return min(probe.likelihoods, key=lambda name: min(distance(probe.likelihoods[name].base), distance(probe.likelihoods[name].adapter)))


# -- prompts and greedy answers -----------------------------------------------------------------------------------------


def prompt_evidence(probe: Probe, answered: Answered, decode: Decode) -> dict[str, Any]:
    """How many prompts get exactly the ids of the trained format, and where the first one differs."""
    pairs = [(record.prompt_ids, ids) for record, ids in zip(probe.records, answered.prompt_ids, strict=True)]
    differing = [pair for pair in pairs if pair[0] != pair[1]]
    first = difference(*differing[0], decode, probe.start_id) if differing else ""
    return {"equal": len(pairs) - len(differing), "of": len(pairs), "first_difference": first}


def difference(expected: Sequence[int], found: Sequence[int], decode: Decode, start_id: int | None) -> str:
    """The first difference of two lists of ids, with the text around it; a second start token is named as such."""
    if start_id is not None and list(found[:2]) == [start_id, start_id] and list(expected[:2]) != [start_id, start_id]:
        return (
            f"the prompt begins with {decode([start_id])!r} (id {start_id}) twice: the template writes one, and the tokenizer adds another"
        )
    place = next((n for n, (one, other) in enumerate(zip(expected, found, strict=False)) if one != other), min(len(expected), len(found)))
    before = decode(list(expected[max(0, place - SHOWN) : place]))
    one, other = (decode(list(ids[place : place + SHOWN])) for ids in (expected, found))
    return f"from token {place} on, after {before!r}, it has {other!r}, trained was {one!r} ({len(found)} tokens, trained {len(expected)})"


def stop_evidence(expected: Sequence[Greedy], answered: Answered) -> dict[str, Any]:
    """Of the answers that the adapter ended by itself, how many the form ends. p: of so few, if it ends at least STOPPED of them."""
    from scipy.stats import binom

    both = [ended for one, (_, ended) in zip(expected, answered.greedy, strict=False) if one.ended]
    return {"adapter": len(both), "form": sum(both), "asked": len(answered.greedy), "p": float(binom.cdf(sum(both), len(both), STOPPED))}


def speed(answered: Answered) -> float | None:
    """Tokens of greedy answers a second, one answer at a time, prompts included; None if none was timed or no ids were returned."""
    tokens = sum(len(ids or ()) for ids, _ in answered.greedy)
    return round(tokens / answered.seconds, 2) if answered.seconds and tokens else None


def greedy_evidence(expected: Sequence[Greedy], answered: Answered, end_id: int) -> dict[str, Any]:
    """Greedy answers that are equal to the adapter's, and the mean share of their tokens before the first difference. Evidence only:
    one rounding changes all that follows."""
    shares = []
    for known, (ids, _) in zip(expected, answered.greedy, strict=False):
        if ids is not None:  # some servers return none
            one, other = ([token for token in tokens if token != end_id] for tokens in (known.ids, ids))
            same = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other)))
            shares.append(same / max(len(one), len(other), 1))
    mean = float(np.mean(shares)) if shares else None
    return {"equal": sum(share == 1 for share in shares), "of": len(shares), "tokens_before_difference": mean}
