"""What a training process on a CPU holds beyond the tensors of a step: libraries, the weights file, what the C library keeps.

Measured as /proc/self/status and glibc's mallinfo2 tell, on the embedded model; docs/fit_plan.md has the figures and the check
on configurations that were not used for these constants.
"""

from typing import Any

from mistral_lib.model import demo_model, model_shapes
from mistral_lib.model.step_memory import GIB, Peak, Step
from mistral_lib.run import allocator, paths

LIBRARIES = round(0.56 * GIB)  # Python, PyTorch, transformers, peft, bitsandbytes: code and data
PREPARED = round(
    0.19 * GIB
)  # matrix products prepared for the last 64 shapes (see mistral_lib/__init__.py), two threads' heaps, the trainer itself
WEIGHTS_FILE = "weights file, mapped"
QUANTISED_ON_THE_WAY = round(0.1 * GIB)  # gaps that 4-bit weights leave where they were made


def parts_of(step: Step, tensors: Peak) -> dict[str, int]:
    """Bytes by part at the peak of a step. WEIGHTS_FILE is what pages of the weights file add to the most that is ever resident, in
    a step or while the weights are loaded; the system takes them back where memory is short."""
    step_holds = tensors.total + LIBRARIES + PREPARED + gaps(step, tensors)
    weights = tensors.parts["weights in NF4"] + tensors.parts["unquantised modules"]
    loading = LIBRARIES + PREPARED + weights + (QUANTISED_ON_THE_WAY if step.quantization == "nf4" else 0)
    most = max(step_holds + file_beside(step, tensors), loading + file_beside(step, tensors, loading=True))
    beyond = {"libraries": LIBRARIES + PREPARED, "allocator": gaps(step, tensors), WEIGHTS_FILE: most - step_holds}
    return {**tensors.parts, **beyond}


def file_beside(step: Step, tensors: Peak, loading: bool = False) -> int:
    """Bytes of the weights file that are mapped beside the weights. It is mapped whole while it is read; weights of its own type
    are left in it, and as long as one of them is there, all of it stays."""
    size, dtype = stored(step.base_model)
    if dtype == step.dtype:
        return max(0, size - tensors.parts["unquantised modules"])
    return size if loading else 0


def gaps(step: Step, tensors: Peak) -> int:
    """Freed memory between tensors that no tensor of the pass fits in. Seen to be about one tensor of the MLP's width in float32 per
    layer; a checkpointed pass has what it keeps, and as much again as the layer at work holds."""
    if step.checkpointing:
        return allocator.KEPT_IN_A_PASS + tensors.parts["activations"] + tensors.parts["backward pass"]
    config = model_shapes.config_of(step.base_model)
    return 4 * config.intermediate_size * step.micro_batch_size * step.max_tokens * config.num_hidden_layers


def stored(name: str) -> tuple[int, str]:
    """Bytes of a base model's weights file or files, and the type that they hold."""
    config: Any = model_shapes.config_of(name)
    if name == demo_model.NAME:
        return 2 * model_shapes.checkpoint_bytes(config), "float32"
    sizes = [file.stat().st_size for file in (paths.home() / name).glob("*.safetensors")]
    return sum(sizes) or model_shapes.checkpoint_bytes(config), str(config.dtype or "bfloat16").removeprefix("torch.")
