"""liger-kernel's fused norm, rotation and gated unit, an extra (`pip install -e .[gpu]`): on GPUs from compute capability 8.0 on.

A T4 (7.5) keeps this library's own: Triton falls back to slow code there. Source: Hsu et al. 2024, https://arxiv.org/abs/2410.10989
"""

from functools import cache
from importlib.util import find_spec
from typing import Any

import torch

OLDEST = (8, 0)  # compute capability


def runs_on(x: torch.Tensor) -> bool:
    """Whether liger-kernel computes this tensor."""
    return x.is_cuda and why_not(x.device.index) == ""


@cache
def why_not(index: int) -> str:
    """Why liger-kernel is not used on the GPU with this number; empty if it is."""
    capability = torch.cuda.get_device_capability(index)
    if capability < OLDEST:
        return f"compute capability {capability[0]}.{capability[1]}, expected 8.0 or more"
    return "" if find_spec("liger_kernel") else "liger-kernel is not installed: pip install -e .[gpu]"


def norm(x: torch.Tensor, weight: torch.Tensor, epsilon: float) -> torch.Tensor:
    """weight · x / rms(x) over the last dimension."""
    from liger_kernel.ops import LigerRMSNormFunction

    return LigerRMSNormFunction.apply(x, weight, epsilon, 0.0, "llama", False)


def gated(gate: torch.Tensor, up: torch.Tensor) -> torch.Tensor:
    """silu(gate) · up."""
    from liger_kernel.ops import LigerSiLUMulFunction

    return LigerSiLUMulFunction.apply(gate, up)


def rotated(query: torch.Tensor, key: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """As `rotation.rotated`; liger-kernel takes the heads before the tokens, and looks at the layout in memory."""
    from liger_kernel.ops import LigerRopeFunction

    turned: tuple[Any, ...] = LigerRopeFunction.apply(query.transpose(1, 2), key.transpose(1, 2), cos, sin)
    return tuple(x.transpose(1, 2) for x in turned)
