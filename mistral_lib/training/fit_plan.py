"""Whether a run fits on a machine of params/instances.yaml, how long it takes and what it costs, without loading a weight.

Of the ways of training (micro batch, accumulation, checkpointing) that keep the requested effective batch, the fastest one whose
step fits into the machine's memory is chosen.
"""

from dataclasses import dataclass, replace
from typing import Any

from mistral_lib.model import model_shapes, step_memory
from mistral_lib.model.step_memory import GIB, Step
from mistral_lib.run import hardware, params
from mistral_lib.run.settings import Settings
from mistral_lib.training import workload
from mistral_lib.training.workload import Work

PROCESS_GIB = 1.2  # on a CPU, beyond the tensors: libraries, heap gaps, mapped pages of the weights; docs/fit_plan.md has the errors
CUDA_CONTEXT = round(0.5 * GIB)  # the driver's context and the workspaces of cuBLAS: assumed, not measured
RESERVE = 0.05  # share of the tensors that PyTorch's caching allocator keeps on a GPU beyond them: assumed, not measured
HOST_PROCESS = round(4 * GIB)  # memory of the trainer on the host of a GPU, with notebook server and system: assumed
SHORTEST = 128  # tokens: the shortest max_tokens that is advised
MOST_IN_A_PASS = 8192  # tokens of a forward pass: with more a GPU gains nothing from a larger micro batch


@dataclass(frozen=True)
class Fit:
    """One way of training on one machine. Bytes, seconds as (shortest, longest), USD likewise."""

    instance: str
    gpu: str
    dtype: str
    settings: Settings  # of this way of training
    parts: dict[str, int]
    available: int
    seconds: tuple[float, float]
    usd_per_hour: float
    host: str  # why the host's memory does not suffice, or empty
    advice: str = ""  # what would have to change, if it does not fit

    @property
    def peak(self) -> int:
        """Bytes in use at the moment when most are."""
        return sum(self.parts.values())

    @property
    def fits(self) -> bool:
        return self.peak <= self.available and not self.host

    @property
    def usd(self) -> tuple[float, float]:
        return tuple(seconds / 3600 * self.usd_per_hour for seconds in self.seconds)  # type: ignore[return-value]


def best(settings: Settings, work: Work, instance: str) -> Fit:
    """The fastest way of training that fits with the effective batch unchanged; if none fits, the smallest one with advice.

    Errors: BaseModelError if the sizes of the base model cannot be found.
    """
    effective = workload.effective_batch(settings)
    fitting = []
    for checkpointing in (False, True):
        for micro in (m for m in range(1, effective + 1) if effective % m == 0 and (m == 1 or m * settings.max_tokens <= MOST_IN_A_PASS)):
            fit = as_set(_divided(settings, micro, checkpointing), work, instance)
            if not fit.fits:
                break  # a larger micro batch takes more memory
            fitting.append(fit)
    if fitting:
        return min(fitting, key=lambda fit: sum(fit.seconds))
    smallest = as_set(_divided(settings, 1, True), work, instance)
    return replace(smallest, advice=what_would_have_to_change(settings, work, smallest))


def _divided(settings: Settings, micro: int, checkpointing: bool) -> Settings:
    """The same effective batch in micro batches of this size."""
    batch = {"micro_batch_size": micro, "gradient_accumulation_steps": workload.effective_batch(settings) // micro}
    return settings.model_copy(update={**batch, "activation_checkpointing": checkpointing})


def as_set(settings: Settings, work: Work, instance: str = "") -> Fit:
    """The run exactly as its parameters set it. instance: another machine than that of the settings."""
    instance = instance or settings.instance
    machine = params.instances()[instance]
    dtype = dtype_on(settings, machine)
    parts = parts_of(step_of(settings, work, machine, dtype))
    available = round((machine["memory_gib"] if machine["gpu"] == "none" else machine["usable_gib"]) * GIB)
    seconds = workload.seconds(settings, work, machine)
    return Fit(
        instance, machine["gpu"], dtype, settings, parts, available, seconds, machine["usd_per_hour"], host_shortage(settings, machine)
    )


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
    )  # fmt: skip


def parts_of(step: Step) -> dict[str, int]:
    """Bytes by part at the peak: the tensors, and what the process takes beyond them."""
    tensors = step_memory.peak(step)
    if step.device == "cpu":
        return {**tensors.parts, "process": round(PROCESS_GIB * GIB)}
    return {**tensors.parts, "CUDA context": CUDA_CONTEXT, "allocator": round(RESERVE * tensors.total)}


def host_shortage(settings: Settings, machine: dict[str, Any]) -> str:
    """Why the host of a GPU cannot load the model; empty if it can. Checkpoints are memory-mapped and their pages can be dropped, but
    not the process itself, nor the largest tensor on its way to the GPU."""
    config = model_shapes.config_of(settings.base_model)
    largest = 4 * config.vocab_size * config.hidden_size
    needed = HOST_PROCESS + 2 * largest
    if machine["gpu"] == "none" or needed <= machine["memory_gib"] * GIB:
        return ""
    return f"loading needs {needed / GIB:.1f} GiB of host memory, the machine has {machine['memory_gib']}"


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
    return as_set(_divided(settings.model_copy(update=changes), 1, True), work, fit.instance)
