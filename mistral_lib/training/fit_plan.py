"""Does it fit, how long, what does it cost: for every machine that is known, before one is rented or a weight is loaded.

The memory of a step is model_memory's, walked on the true shapes; here it meets what a machine has, and the way of
training (micro batch, accumulation, checkpointing) is chosen that keeps the wished effective batch and takes least time.
"""

from dataclasses import dataclass, replace
from typing import Any

from mistral_lib.model import model_shapes, process_memory, step_memory
from mistral_lib.model.step_memory import GIB, Step
from mistral_lib.run import hardware, params
from mistral_lib.run.settings import Settings
from mistral_lib.training import workload
from mistral_lib.training.workload import Work

CUDA_CONTEXT = round(0.5 * GIB)  # the driver's context and the workspaces of cuBLAS: assumed, not measured
RESERVE = 0.05  # share of the tensors that PyTorch's caching allocator holds on a GPU beyond them: assumed, not measured
HOST_PROCESS = round(4 * GIB)  # the trainer's own memory on the host of a GPU, notebook server and system included: assumed
SHORTEST = 128  # tokens: below that a shorter block is no advice
MOST_IN_A_PASS = 8192  # tokens of a forward pass: above that a GPU gains nothing by a larger micro batch


@dataclass(frozen=True)
class Fit:
    """One way of training on one machine. Bytes, seconds as (shortest, longest), USD likewise."""

    instance: str
    gpu: str
    dtype: str
    max_tokens: int
    micro_batch_size: int
    gradient_accumulation_steps: int
    activation_checkpointing: bool
    parts: dict[str, int]
    available: int
    seconds: tuple[float, float]
    usd_per_hour: float
    host: str  # why the host's memory does not suffice, or empty
    advice: str = ""  # what would have to change, where it does not fit

    @property
    def peak(self) -> int:
        """The most that is held at a time."""
        return sum(self.parts.values())

    @property
    def needed(self) -> int:
        """The same without what the system takes back where memory is short: pages of the weights file, on a CPU."""
        return self.peak - self.parts.get(process_memory.WEIGHTS_FILE, 0)

    @property
    def fits(self) -> bool:
        return self.needed <= self.available and not self.host

    @property
    def usd(self) -> tuple[float, float]:
        return tuple(seconds / 3600 * self.usd_per_hour for seconds in self.seconds)  # type: ignore[return-value]


def plan(settings: Settings, work: Work) -> list[Fit]:
    """The best way of training on every machine of params/instances.yaml, and what would have to change where there is none.

    Errors: BaseModelError where the model's sizes cannot be had.
    """
    return [best(settings, work, instance) for instance in params.instances()]


def best(settings: Settings, work: Work, instance: str) -> Fit:
    """The fastest way that fits with the effective batch unchanged; else the smallest, with advice."""
    effective = settings.micro_batch_size * settings.gradient_accumulation_steps
    fitting = []
    for checkpointing in (False, True):
        for micro in (m for m in range(1, effective + 1) if effective % m == 0 and (m == 1 or m * settings.max_tokens <= MOST_IN_A_PASS)):
            fit = measure(settings, work, instance, micro, checkpointing)
            if not fit.fits:
                break  # a larger micro batch takes more memory still
            fitting.append(fit)
    if fitting:
        return min(fitting, key=lambda fit: sum(fit.seconds))
    smallest = measure(settings, work, instance, 1, True)
    return replace(smallest, advice=what_would_have_to_change(settings, work, smallest))


def as_set(settings: Settings, work: Work, instance: str = "") -> Fit:
    """The run exactly as its parameters say, on its own machine."""
    return measure(settings, work, instance or settings.instance, settings.micro_batch_size, settings.activation_checkpointing)


def measure(settings: Settings, work: Work, instance: str, micro: int, checkpointing: bool) -> Fit:
    machine = params.instances()[instance]
    dtype = dtype_on(settings, machine)
    step = step_of(settings, work, machine, micro, checkpointing, dtype)
    effective = settings.micro_batch_size * settings.gradient_accumulation_steps
    config = model_shapes.config_of(settings.base_model)
    seconds = workload.seconds(config, work, machine, max_tokens=settings.max_tokens, micro_batch_size=micro,
                                    checkpointing=checkpointing, quantization=settings.quantization)  # fmt: skip
    gpu = machine["gpu"] != "none"
    return Fit(instance, machine["gpu"], dtype, settings.max_tokens, micro, max(1, effective // micro), checkpointing, parts_of(step),
               round((machine["usable_gib"] if gpu else machine["memory_gib"]) * GIB), seconds, machine["usd_per_hour"],
               host_shortage(config, machine))  # fmt: skip


def dtype_on(settings: Settings, machine: dict[str, Any]) -> str:
    """The type to compute in: the machine's own; on a CPU what this one is fast in, or what was asked for."""
    if machine["gpu"] != "none":
        return machine["dtype"]
    if settings.dtype != "auto":
        return "float32" if settings.dtype == "float16" else settings.dtype
    return "bfloat16" if hardware.cpu_flags() & set(hardware.BF16_FLAGS) else "float32"


def step_of(settings: Settings, work: Work, machine: dict[str, Any], micro: int, checkpointing: bool, dtype: str) -> Step:
    gpu = machine["gpu"] != "none"
    return Step(
        settings.base_model, settings.max_tokens, micro, checkpointing, settings.quantization,
        "bfloat16" if gpu else dtype,  # on a GPU float16 takes the same bytes: walked once for both
        "cuda" if gpu else "cpu", settings.micro_batch_size * settings.gradient_accumulation_steps > micro,
        round(work.supervised_share, 2), settings.lora_rank, settings.lora_targets, min(settings.lora_dropout, 0.5),
    )  # fmt: skip


def parts_of(step: Step) -> dict[str, int]:
    """Bytes by part at the peak, with what is not tensors: context and reserve on a GPU, on a CPU all that a process holds."""
    tensors = step_memory.peak(step)
    if step.device == "cpu":
        return process_memory.parts_of(step, tensors)
    return {**tensors.parts, "CUDA context": CUDA_CONTEXT, "allocator": round(RESERVE * tensors.total)}


def host_shortage(config: Any, machine: dict[str, Any]) -> str:
    """Whether a GPU's host can load the model. Checkpoints are mapped, not read whole, so their pages may be dropped; what cannot
    be is the process and the largest tensor on its way to the GPU."""
    if machine["gpu"] == "none":
        return ""
    largest = 4 * config.vocab_size * config.hidden_size
    needed = HOST_PROCESS + 2 * largest
    if needed <= machine["memory_gib"] * GIB:
        return ""
    return f"loading needs {needed / GIB:.1f} GiB of host memory, {machine['memory_gib']} are there"


def what_would_have_to_change(settings: Settings, work: Work, fit: Fit) -> str:
    """Changes that make it fit on this machine, one alone or two together; and that none does, where none does."""
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
    short = f"{(fit.needed - fit.available) / GIB:.1f} GiB too much even with micro_batch_size: 1 and activation_checkpointing: true"
    return f"{short}; it fits with {' or '.join(found)}" if found else f"{short}; take a machine with more memory or a smaller base model"


def _longest(settings: Settings, work: Work, fit: Fit, **changes: Any) -> int:
    """The longest of half, a quarter, ... of max_tokens that fits with these changes; 0 if none does."""
    length = settings.max_tokens // 2
    while length >= SHORTEST and not _smallest(settings, work, fit, max_tokens=length, **changes).fits:
        length //= 2
    return length if length >= SHORTEST else 0


def _smallest(settings: Settings, work: Work, fit: Fit, **changes: Any) -> Fit:
    return measure(settings.model_copy(update=changes), work, fit.instance, 1, True)
