"""The fit plan in words, as rows of a table or lines for a terminal; and after the run, what it took, and the plan against it."""

import math
import statistics
from typing import Any

import pandas as pd

from mistral_lib.model import model_shapes
from mistral_lib.model.step_memory import GIB, MIB
from mistral_lib.run import Run, disk, params
from mistral_lib.run.settings import FITTED, Settings, layers_recomputed
from mistral_lib.training import training_log, training_status, workload
from mistral_lib.training.fit_plan import STEP, Fit, as_set
from mistral_lib.training.workload import Work

CPU_TOLERANCE, GPU_TOLERANCE = 0.2, 0.1  # of the measured peak memory: docs/fit_plan.md


def rows(fits: list[Fit]) -> list[dict[str, Any]]:
    """One flat row per machine, for a data frame."""
    machines = params.instances()
    return [
        {
            "instance": fit.instance, "gpu": fit.gpu, "fits": fit.fits, "needed_gib": round(fit.peak / GIB, 2),
            "available_gib": round(fit.available / GIB, 2), "spare_gib": round((fit.available - fit.peak) / GIB, 2),
            "reserve_gib": round(fit.reserve / GIB, 2), "phase": fit.phase, "dtype": fit.dtype,
            "micro_batch_size": fit.settings.micro_batch_size, "gradient_accumulation_steps": fit.settings.gradient_accumulation_steps,
            "activation_checkpointing": fit.settings.activation_checkpointing, "checkpointing": layers_recomputed(fit.settings.activation_checkpointing),
            "hours": span(*_hours(fit)), "usd": span(*(hours * fit.usd_per_hour for hours in _hours(fit))), "priced": machines[fit.instance]["priced"], "advice": fit.advice,
        }
        for fit in fits
    ]  # fmt: skip


def _hours(fit: Fit) -> list[float]:
    """Shortest and longest, with the download and the evaluation's loading."""
    return [sum(both) / 3600 for both in zip(fit.seconds, fit.beyond, strict=True)]


def batch(settings: Settings) -> str:
    """Micro batch x accumulation, and which layers are recomputed."""
    return f"{settings.micro_batch_size} x {settings.gradient_accumulation_steps} blocks, layers recomputed: {layers_recomputed(settings.activation_checkpointing)}"


def phases(fit: Fit) -> str:
    """The peak of every phase, a line each, and what was counted beside them."""
    lines = [f"  {name:<20} {sum(parts.values()) / GIB:>5.1f} GiB" for name, parts in fit.phases.items()]
    kept = f"{fit.reserve / GIB:.1f} GiB are the reserve that the plan's choices leave free"
    gpu = "counted as 0, that GPU is not in this machine" if fit.others is None else f"{fit.others / GIB:.1f} GiB, measured now"
    others = "" if fit.gpu == "none" else f"; other processes on the GPU: {gpu}"
    trainable = fit.phases[STEP]["LoRA"] // 4  # float32
    weights, saved = model_shapes.checkpoint_bytes(model_shapes.config_of(fit.settings.base_model)), disk.training_bytes(trainable)
    return "\n".join(
        [
            *lines,
            f"  {kept}{others}",
            f"  on disk: {weights / GIB:.1f} GiB for the base model, {saved / GIB:.1f} for checkpoints and adapter",
        ]
    )


def parts(fit: Fit) -> list[dict[str, Any]]:
    """The parts of one machine's plan that are not zero, in MiB."""
    return [{"part": name, "mib": round(size / MIB)} for name, size in fit.parts.items() if size]


def time_and_money(settings: Settings, work: Work) -> str:
    """Training tokens, minutes and USD of a run, which are known at once."""
    machine = params.instances()[settings.instance]
    seconds = workload.seconds(settings, work, machine)
    minutes, usd = span(*(one / 60 for one in seconds)), span(*(one / 3600 * machine["usd_per_hour"] for one in seconds))
    return f"{work.origin}; {minutes} minutes, {usd} USD"


def memory_line(fit: Fit) -> str:
    """The memory that a run needs, and whether it fits."""
    fits = "fits" if fit.fits else fit.advice or fit.host or "does not fit; `python -m mistral_lib plan` finds a way that fits"
    return f"needs {fit.peak / GIB:.2f} GiB of {fit.available / GIB:.2f} GiB: {fits}"


def text(plans: list[Fit], work: Work) -> str:
    """The plan as lines of about 150 characters."""
    lines = [f"for {work.origin}; {work.train_tokens:,} tokens are trained on, padding and all epochs included", ""]
    lines.append(
        f"{'instance':<12} {'needs':>9} {'has':>9} {'reserve':>9}  {'':<12} {'dtype':<9} {'batch':<8} {'checkpointing':<14} {'decided by':<18} "
        f"{'hours':<14} USD"
    )
    for fit, row in zip(plans, rows(plans), strict=True):
        shape = f"{row['micro_batch_size']} x {row['gradient_accumulation_steps']}"
        fits = "fits" if fit.leaves_reserve else "fits barely" if fit.fits else "does not fit"
        lines.append(
            f"{fit.instance:<12} {fit.peak / GIB:>5.1f} GiB {fit.available / GIB:>5.1f} GiB {fit.reserve / GIB:>5.1f} GiB  {fits:<12} {fit.dtype:<9} "
            f"{shape:<8} {row['checkpointing']:<14} {fit.phase:<18} {row['hours']:<14} {row['usd']} ({row['priced']})"
        )
        lines += [f"{'':<12} {fit.advice}"] if fit.advice else []
    extra = f"{duration(*plans[0].beyond)} for loading the base model once more to evaluate, and for downloading it if it is not on this machine"
    return "\n".join([*lines, f"hours and USD: the training stage, and {extra}"])


def memory(fit: Fit, fitting: Fit | None) -> str:
    """Whether a run fits as it is set, in words. fitting: the best way on the same machine, None if it is not known yet."""
    needs = f"needs {fit.peak / GIB:.1f} of {fit.available / GIB:.1f} GiB"
    if fit.fits:
        return f"{needs}: fits"
    if fit.host:
        return f"does not fit: {fit.host}"
    if fitting is None:
        return f"{needs}: does not fit as set; searching parameters that fit …"
    if not fitting.fits:
        return f"{needs}: does not fit; {fitting.advice}"
    changed = ", ".join(f"{name} = {value}" for name, value in changes(fit, fitting).items())
    return f"{needs}: does not fit as set, but with {changed}: {fitting.peak / GIB:.1f} GiB, {duration(*fitting.seconds)}"


def changes(fit: Fit, fitting: Fit | None) -> dict[str, Any]:
    """The parameters to change so that the run fits; empty if nothing helps."""
    fitted = {name: getattr(fitting.settings, name) for name in FITTED} if fitting is not None and fitting.fits else {}
    return {name: value for name, value in fitted.items() if value != getattr(fit.settings, name)}


def duration(low: float, high: float) -> str:
    """Seconds as a range, in the unit that suits its upper end: `1.2 – 9.1 minutes`."""
    return f"{span(low / 60, high / 60)} minutes" if high < 5400 else f"{span(low / 3600, high / 3600)} hours"


def span(low: float, high: float) -> str:
    """A range with two significant digits: `0.42 – 1.3`."""
    return f"{_short(low)} – {_short(high)}"


def _short(value: float) -> str:
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2f}"


def score(settings: Settings, work: Work, result: dict[str, Any]) -> list[dict[str, Any]]:
    """The plan of a run as it was set, `auto` as its training chose, and what its training/result.json has.

    `off`: measured / planned - 1, so +3 % if more was used than planned; `within_plan`: whether the measured value is in the planned range, memory within the tolerance.
    On a GPU the result counts tensors only, so context and allocator are left out of the planned memory.
    """
    as_run = {name: result[name] for name in settings.open_choices() if name in result}
    fit = as_set(settings.model_copy(update=as_run), work)
    memory = sum(size for name, size in fit.phases[STEP].items() if name not in ("CUDA context", "allocator")) / MIB
    measured = result["peak_memory_mib"]
    off, tolerance = measured / memory - 1, CPU_TOLERANCE if fit.gpu == "none" else GPU_TOLERANCE
    return [
        {"what": "peak memory, MiB", "planned": f"{memory:.0f}", "measured": measured, "off": off, "within_plan": abs(off) <= tolerance},
        _ranged("training stage, seconds", *fit.seconds, result["seconds"]),
        _ranged("training stage, USD", *fit.usd, result["usd"]),
    ]


def score_table(settings: Settings, work: Work, result: dict[str, Any]) -> pd.DataFrame:
    """`score` for a notebook: a row per quantity, the deviation in percent."""
    table = pd.DataFrame(score(settings, work, result)).set_index("what")
    return table.assign(off=table["off"].map("{:+.0%}".format))


def used(run: Run, result: dict[str, Any]) -> str:
    """What a training took, in two lines: speed, memory, time and USD; the batch in use at its end, and what went wrong on the way."""
    now, steps = training_status.status(run), training_log.steps(run.folder / "training" / "log.jsonl")
    speed = statistics.median(step["tokens_per_second"] for step in steps)
    return (
        f"{speed:.0f} tokens/s (median of the steps), {result['peak_memory_mib']:,} MiB at most, {now.seconds:.0f} s, {now.usd:.2f} USD\n"
        f"micro batch {now.micro_batch_size}, accumulation {now.gradient_accumulation_steps}, out of memory {now.out_of_memory} times, "
        f"{now.skipped_steps} steps skipped, attempts: {result['attempts']}"
    )


def _ranged(what: str, low: float, high: float, measured: float) -> dict[str, Any]:
    """A row for a planned range; `off` counts from the nearer end of the range and is 0 inside it."""
    within = low <= measured <= high
    nearer = high if measured > high else low
    off = 0.0 if within else measured / nearer - 1 if nearer else math.inf
    return {"what": what, "planned": span(low, high), "measured": measured, "off": off, "within_plan": within}
