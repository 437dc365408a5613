"""Whether a run fits on a machine of params/instances.yaml, how long it takes and what it costs, without loading a weight.

Of the ways of training (micro batch, accumulation, checkpointing) with the requested effective batch, the fastest one is chosen whose
memory, in every phase of the run, leaves the reserve free. A parameter that is `auto` takes that choice; `resolved` is the one place
for it. Phases that need less by their nature are not simulated: the trial of the fullest batch is a training step without the
gradients of earlier passes, and a validation is one without any; the final check has one model in memory, and no optimizer.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from mistral_lib.model import model_shapes, step_memory
from mistral_lib.model.step_memory import GIB, Peak, Step
from mistral_lib.run import hardware, params, system_memory
from mistral_lib.run.progress import say
from mistral_lib.run.settings import ANSWERED_AT_ONCE, FITTED, LONGEST_PROMPT, Settings
from mistral_lib.training import workload
from mistral_lib.training.workload import Work

PROCESS_GIB = 1.2  # on a CPU, beyond the tensors: libraries, heap gaps, mapped pages of the weights; docs/fit_plan.md has the errors
CUDA_CONTEXT = round(0.5 * GIB)  # the driver's context and the workspaces of cuBLAS: assumed, not measured
ALLOCATOR_SHARE = 0.05  # of the tensors: what PyTorch's caching allocator keeps on a GPU beyond them: assumed, not measured
HOST_PROCESS = round(4 * GIB)  # memory of the trainer on the host of a GPU, with notebook server and system: assumed
RESERVE_SHARE, LEAST_RESERVE = 0.1, GIB  # of the machine's memory: the plan's choices leave the larger of the two free
SHORTEST = 128  # tokens: the shortest max_tokens that is advised
MOST_IN_A_PASS = 8192  # tokens of a forward pass: with more a GPU gains nothing from a larger micro batch
CHECKPOINTING = (False, 4, 3, 2, True)  # that the plan chooses from: none, every n-th layer, all; each needs less memory than the last
STEP, EVALUATION, ANSWERS = "training step", "paired evaluation", "generated answers"  # the phases


@dataclass(frozen=True)
class Fit:
    """One way of training on one machine. Bytes, seconds as (shortest, longest), USD likewise."""

    instance: str
    gpu: str
    dtype: str
    settings: Settings  # of this way of training, without `auto`
    phases: dict[str, dict[str, int]]  # bytes by part at the peak of each phase
    available: int
    reserve: int  # of `available`: what the plan's choices leave free
    others: int | None  # bytes that other processes hold on the GPU; None if it is not in this machine, and counted as 0
    seconds: tuple[float, float]  # of the training stage
    beyond: tuple[float, float]  # seconds of the download and of loading for the evaluation
    usd_per_hour: float
    host: str  # why the host's memory does not suffice, or empty
    advice: str = ""  # what would have to change, if it does not fit

    @property
    def phase(self) -> str:
        """The phase that needs the most memory."""
        return max(self.phases, key=lambda name: sum(self.phases[name].values()))

    @property
    def parts(self) -> dict[str, int]:
        """Bytes by part at the moment when most are in use."""
        return self.phases[self.phase]

    @property
    def peak(self) -> int:
        """Bytes in use at that moment."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.available and not self.host

    @property
    def leaves_reserve(self) -> bool:
        return self.fits and self.peak + self.reserve <= self.available

    @property
    def usd(self) -> tuple[float, float]:
        """Of the training stage."""
        return tuple(seconds / 3600 * self.usd_per_hour for seconds in self.seconds)  # type: ignore[return-value]


# -- the choice -----------------------------------------------------------------------------------------------------------


def best(settings: Settings, work: Work, instance: str) -> Fit:
    """The fastest way of training that fits, whatever the parameters say, with the effective batch unchanged; if none fits, the
    smallest one with advice. Errors: BaseModelError if the sizes of the base model cannot be found."""
    everything_open = {**dict.fromkeys(FITTED, "auto"), "blocks_per_step": workload.effective_batch(settings)}
    fit = as_set(settings.model_copy(update=everything_open), work, instance)
    return fit if fit.fits else replace(fit, advice=what_would_have_to_change(settings, work, fit))


def resolved(settings: Settings, work: Work, here: bool = False) -> Settings:
    """The settings with the plan's choice for whatever is `auto`. here: this is the machine that trains."""
    return as_set(settings, work, here=here).settings if settings.open_choices() else settings


def as_set(settings: Settings, work: Work, instance: str = "", here: bool = False) -> Fit:
    """The run as its parameters set it, on `instance` or that of the settings. What is `auto` takes the fastest way that leaves the
    reserve free, else the one that needs the least memory. here: as in `resolved`."""
    instance = instance or settings.instance
    found, too_large, machine = None, [], params.instances()[instance]
    for way in ways(settings):
        if any(_is_smaller(other, way) for other in too_large):
            continue
        if found and sum(workload.seconds(way, work, machine)) > sum(found.seconds):
            continue  # of two that take as long, the larger micro batch
        fit = _planned(way, work, instance, here)
        found, too_large = (fit, too_large) if fit.leaves_reserve else (found, [*too_large, way])
    return found or _planned(smallest(settings), work, instance, here)


def ways(settings: Settings) -> Iterator[Settings]:
    """Every way of training that the settings leave open; one if nothing is `auto`."""
    levels = CHECKPOINTING if settings.activation_checkpointing == "auto" else (settings.activation_checkpointing,)
    for level in levels:
        for batch in _batches(settings):
            yield settings.model_copy(update={**batch, "activation_checkpointing": level})


def _batches(s: Settings) -> list[dict[str, int]]:
    """Micro batch and accumulation with the effective batch, micro batches ascending."""
    blocks, micro, accumulation = workload.effective_batch(s), s.micro_batch_size, s.gradient_accumulation_steps
    if micro == accumulation == "auto":
        sizes = [m for m in range(1, blocks + 1) if blocks % m == 0 and (m == 1 or m * s.max_tokens <= MOST_IN_A_PASS)]
    else:
        sizes = [blocks // accumulation if micro == "auto" else micro]
    return [{"micro_batch_size": size, "gradient_accumulation_steps": blocks // size} for size in sizes]


def smallest(settings: Settings) -> Settings:
    """The way with the least memory among `ways`."""
    return min(ways(settings), key=lambda way: (-_recomputed(way), way.micro_batch_size))


def _is_smaller(one: Settings, other: Settings) -> bool:
    """Whether `one` never needs more memory than `other`."""
    return one.micro_batch_size <= other.micro_batch_size and _recomputed(one) >= _recomputed(other)


def _recomputed(settings: Settings) -> float:
    """The share of layers that are recomputed."""
    return 1 / int(settings.activation_checkpointing) if settings.activation_checkpointing else 0.0


def _planned(settings: Settings, work: Work, instance: str, here: bool) -> Fit:
    """The fit of settings without `auto`. If a step does not fit, the other phases are not simulated."""
    machine = params.instances()[instance]
    dtype = dtype_on(settings, machine)
    step, (available, others) = step_of(settings, work, machine, dtype), room(machine, here)
    reserve = max(LEAST_RESERVE, round(RESERVE_SHARE * _listed(machine)))
    phases = {STEP: parts_of(step)}
    if sum(phases[STEP].values()) <= available:
        phases |= other_phases(settings, step)
    return Fit(
        instance, machine["gpu"], dtype, settings, phases, available, reserve, others, workload.seconds(settings, work, machine),
        workload.beyond_training(settings), machine["usd_per_hour"], host_shortage(settings, machine),
    )  # fmt: skip


def of_training(settings: Settings, events: list[dict[str, Any]]) -> tuple[Settings, dict[str, Any]]:
    """The settings of a training without `auto`, and the facts of its `chosen` event, empty if nothing was chosen now.

    events: of its log. What an earlier attempt chose stays, so that a resumed training has the same steps.
    """
    earlier = next((event for event in reversed(events) if event["event"] == "chosen"), {"parameters": []})
    kept = {name: earlier[name] for name in settings.open_choices() if name in earlier["parameters"]}
    settings = settings.model_copy(update=kept)
    if not (chosen := settings.open_choices()):
        return settings, {}
    say(f"chooses {', '.join(chosen)} for {settings.instance}")
    fit = as_set(settings, workload.work_of(settings), here=True)
    step_memory.build.cache_clear()
    facts = {"parameters": chosen, **{name: getattr(fit.settings, name) for name in FITTED}, "instance": fit.instance, "phase": fit.phase}
    sizes = {"needed_gib": fit.peak, "available_gib": fit.available, "reserve_gib": fit.reserve}
    return fit.settings, {**facts, **{name: round(size / GIB, 2) for name, size in sizes.items()}}


# -- what there is, and what is needed ------------------------------------------------------------------------------------


def room(machine: dict[str, Any], here: bool) -> tuple[int, int | None]:
    """Bytes for the run, and those that other processes hold on the GPU; None if that is not known.

    On the machine that trains, and for a GPU that is in this machine, what is free now bounds what params/instances.yaml lists.
    """
    listed = _listed(machine)
    if machine["gpu"] == "none":
        left = system_memory.left_bytes() if here else 0
        return min(listed, left) if left else listed, None
    free = system_memory.left_on_card("" if here else machine["gpu"])
    if free is None:
        return listed, None
    available = min(listed, free + CUDA_CONTEXT)  # asking made this process's context, which the plan counts itself
    return available, listed - available


def _listed(machine: dict[str, Any]) -> int:
    return round((machine["memory_gib"] if machine["gpu"] == "none" else machine["usable_gib"]) * GIB)


def dtype_on(settings: Settings, machine: dict[str, Any]) -> str:
    """The compute type: on a GPU that of params/instances.yaml, on a CPU the requested one, or for `auto` the fast one of this CPU."""
    if machine["gpu"] != "none":
        return machine["dtype"]
    if settings.dtype != "auto":
        return "float32" if settings.dtype == "float16" else settings.dtype
    return "bfloat16" if hardware.cpu_flags() & set(hardware.BF16_FLAGS) else "float32"


def step_of(s: Settings, work: Work, machine: dict[str, Any], dtype: str) -> Step:
    gpu = machine["gpu"] != "none"
    return Step(
        s.base_model, s.max_tokens, s.micro_batch_size, s.activation_checkpointing, s.quantization,
        "bfloat16" if gpu else dtype,  # on a GPU float16 takes the same bytes: counted once for both
        "cuda" if gpu else "cpu", s.gradient_accumulation_steps > 1,
        round(work.supervised_share, 2), lora_rank=s.lora_rank, lora_targets=s.lora_targets, lora_dropout=min(s.lora_dropout, 0.5),
        compute_capability=(7, 5) if dtype == "float16" else (8, 0),  # params/instances.yaml has float16 for GPUs below 8.0
    )  # fmt: skip


def other_phases(settings: Settings, step: Step) -> dict[str, dict[str, int]]:
    """Bytes by part of the phases besides a training step."""
    phases = {EVALUATION: _with_process(step_memory.evaluation_peak(step), step)}
    if rows := min(settings.sample_count, ANSWERED_AT_ONCE):
        phases[ANSWERS] = _with_process(step_memory.generation_peak(step, rows, LONGEST_PROMPT, settings.max_new_tokens), step)
    return phases


def parts_of(step: Step) -> dict[str, int]:
    """Bytes by part at the peak of a training step: the tensors, and what the process takes beyond them."""
    return _with_process(step_memory.peak(step), step)


def _with_process(tensors: Peak, step: Step) -> dict[str, int]:
    if step.device == "cpu":
        return {**tensors.parts, "process": round(PROCESS_GIB * GIB)}
    return {**tensors.parts, "CUDA context": CUDA_CONTEXT, "allocator": round(ALLOCATOR_SHARE * tensors.total)}


def host_shortage(settings: Settings, machine: dict[str, Any]) -> str:
    """Why the host of a GPU cannot load the model; empty if it can. Checkpoints are memory-mapped and their pages can be dropped, but
    not the process itself, nor the largest tensor on its way to the GPU."""
    config = model_shapes.config_of(settings.base_model)
    largest = 4 * config.vocab_size * config.hidden_size
    needed = HOST_PROCESS + 2 * largest
    if machine["gpu"] == "none" or needed <= machine["memory_gib"] * GIB:
        return ""
    return f"loading needs {needed / GIB:.1f} GiB of host memory, the machine has {machine['memory_gib']}"


# -- advice ---------------------------------------------------------------------------------------------------------------


def what_would_have_to_change(settings: Settings, work: Work, fit: Fit) -> str:
    """The changes, one alone or two together, with which it fits on this machine; or that there are none."""
    if fit.host:
        return fit.host + ": take a machine with more memory"
    found, nf4 = [], {"quantization": "nf4"}
    shorter = _longest(settings, work, fit)
    if shorter:
        found.append(f"max_tokens: {shorter} (now {settings.max_tokens})")
    if settings.quantization != "nf4":
        if _smallest(settings, work, fit, **nf4).fits:
            found.insert(0, "quantization: nf4")
        elif (length := _longest(settings, work, fit, **nf4)) > shorter:
            found.append(f"quantization: nf4 and max_tokens: {length} together (now {settings.max_tokens})")
    short = f"{(fit.peak - fit.available) / GIB:.1f} GiB too much even with micro_batch_size: 1 and activation_checkpointing: true"
    return f"{short}; it fits with {' or '.join(found)}" if found else f"{short}; take a machine with more memory or a smaller base model"


def _longest(settings: Settings, work: Work, fit: Fit, **changes: Any) -> int:
    """The longest of half, a quarter, ... of max_tokens that fits with these changes; 0 if none does."""
    length = settings.max_tokens // 2
    while length >= SHORTEST and not _smallest(settings, work, fit, max_tokens=length, **changes).fits:
        length //= 2
    return length if length >= SHORTEST else 0


def _smallest(settings: Settings, work: Work, fit: Fit, **changes: Any) -> Fit:
    one = {"micro_batch_size": 1, "gradient_accumulation_steps": workload.effective_batch(settings), "activation_checkpointing": True}
    return as_set(settings.model_copy(update={**changes, **one}), work, fit.instance)
