"""Which faster layers a model gets, by its device, and why.

All of them return what the plain layers return, to rounding.
"""

from types import MethodType
from typing import Any

from mistral_lib.kernels import fused_layers, liger, packed_attention, row_threads
from mistral_lib.kernels.packed_attention import Way


def install(model: Any) -> Any:
    """Replace layers in place by those for the device that the weights are on. Returns the model."""
    device = next(model.parameters()).device
    return install_for(model, packed_attention.choose(device, model.dtype), device.type)


def install_for(model: Any, way: Way, device: str) -> Any:
    """The same for a stated way of attention and kind of device, wherever the weights are: the fit plan has none.

    The rows of a batch in a thread each are what only a CPU gains from: a small model's operators are too short to occupy all of its
    threads (docs/training_speed.md has the figures). A GPU computes all rows at once.
    """
    fused_layers.install(model)
    packed_attention.install(model, way)
    if device == "cpu":
        model.compute_rows = MethodType(row_threads.compute_rows, model)  # for mistral_lib.model.likelihood
    model.attention_way = way
    return model


def described(model: Any) -> dict[str, str]:
    """What was installed and why, for the training's log: attention, why, layers."""
    way, device = model.attention_way, next(model.parameters()).device
    why_not = liger.why_not(device.index or 0) if device.type == "cuda" else ""
    own = f"this library's own ({why_not})" if why_not else "this library's own"
    layers = "liger-kernel" if device.type == "cuda" and not why_not else own
    return {"attention": way.name, "why": way.reason, "layers": layers}
