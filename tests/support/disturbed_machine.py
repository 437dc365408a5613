"""The train command on a machine that is slow, impatient or has another version: `python -m tests.support.disturbed_machine train runs/x`.

Environment: STEP_SECONDS that each optimizer step takes longer, MEASURING_SECONDS that each pass without gradients takes longer,
PATIENCE_SECONDS for the other processes, OTHER_VERSION of the library.
"""

import os
import sys
import time
from datetime import timedelta

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

import mistral_lib
from mistral_lib import __main__
from mistral_lib.training.processes import distributed


def main() -> int | None:
    slower = {name: float(os.environ.get(f"{name}_SECONDS", 0)) for name in ("STEP", "MEASURING")}

    def measured(module: torch.nn.Module, inputs: object, output: object) -> None:
        if type(module).__name__ == "MistralModel" and not torch.is_grad_enabled():
            time.sleep(slower["MEASURING"])

    register_optimizer_step_post_hook(lambda *_: time.sleep(slower["STEP"]))
    register_module_forward_hook(measured)
    if "PATIENCE_SECONDS" in os.environ:
        distributed.PATIENCE = timedelta(seconds=float(os.environ["PATIENCE_SECONDS"]))
    mistral_lib.__version__ = os.environ.get("OTHER_VERSION", mistral_lib.__version__)
    return __main__.main()


if __name__ == "__main__":
    sys.exit(main())
