"""Makes a real forward pass or optimizer step fail through PyTorch's own hooks, and reads what the training logged."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch.nn.modules.module import register_module_forward_hook
from torch.optim.optimizer import register_optimizer_step_post_hook

from mistral_lib.run import Run, files


def log_of(run: Run) -> list[dict]:
    return files.read_json_lines(run.folder / "training" / "log.jsonl")


def events(run: Run, kind: str) -> list[dict]:
    return [event for event in log_of(run) if event["event"] == kind]


@contextmanager
def at_forward(fails: Callable[[int], bool]) -> Iterator[None]:
    """PyTorch runs out of memory in each training pass (1, 2, ...) for which `fails` is true. The passes of the plan have no data."""
    passes = 0

    def hook(module: torch.nn.Module, inputs: object, output: object) -> None:
        nonlocal passes
        if type(module).__name__ == "MistralModel" and module.training and not next(module.parameters()).is_meta:
            passes += 1
            if fails(passes):
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def after_step(number: int, act: Callable[[torch.optim.Optimizer], None]) -> Iterator[None]:
    """Do something right after the optimizer's n-th step."""
    done = 0

    def hook(optimizer: torch.optim.Optimizer, *_: object) -> None:
        nonlocal done
        done += 1
        if done == number:
            act(optimizer)

    handle = register_optimizer_step_post_hook(hook)
    try:
        yield
    finally:
        handle.remove()


@contextmanager
def change_gradients(change: Callable[[int, torch.Tensor], torch.Tensor]) -> Iterator[None]:
    """`change(n, gradient)` replaces the gradient of the last hidden state in each training pass (n = 1, 2, ...); the loss stays as it is."""
    passes = 0

    def hook(module: torch.nn.Module, inputs: object, output: object) -> None:
        nonlocal passes
        if type(module).__name__ == "MistralModel" and module.training and not next(module.parameters()).is_meta:
            passes += 1
            output.last_hidden_state.register_hook(partial(change, passes))

    handle = register_module_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()
