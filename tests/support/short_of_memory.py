"""The train command with one process that runs out of memory: `python -m tests.support.short_of_memory <rank> <pass> train runs/x`.

In the process of that rank, PyTorch runs out of memory once: in that training pass (1, 2, ...).
"""

import os
import sys

import torch
from torch.nn.modules.module import register_module_forward_hook

from mistral_lib import __main__


def main() -> int:
    rank, number = sys.argv[1:3]
    del sys.argv[1:3]
    passes = 0

    def hook(module: torch.nn.Module, inputs: object, output: object) -> None:
        nonlocal passes
        if type(module).__name__ == "MistralModel" and module.training:
            passes += 1
            if passes == int(number):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    if os.environ["RANK"] == rank:
        register_module_forward_hook(hook)
    return __main__.main()


if __name__ == "__main__":
    sys.exit(main())
