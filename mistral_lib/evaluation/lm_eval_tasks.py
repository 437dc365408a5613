"""Published tasks by name, through lm-eval: base and adapter, in the model that is already loaded. Needs an optional package.

Tasks come from the Hugging Face hub; a path that ends in .yaml is a task of your own, with the name of its file.
Source: https://github.com/EleutherAI/lm-evaluation-harness
"""

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from mistral_lib.run import paths

COMMAND = "pip install lm-eval==0.4.13"


def require_lm_eval(tasks: Sequence[str]) -> None:
    """Errors: ModuleNotFoundError with the install command if there are tasks and lm-eval is not installed."""
    if tasks and find_spec("lm_eval") is None:
        raise ModuleNotFoundError(f"lm_eval_tasks = {list(tasks)} needs lm-eval, which is not installed: {COMMAND}")


def measure(model: Any, tokenizer: Any, task: str, batch_size: int) -> list[dict[str, Any]]:
    """A row per metric of one task: task, metric, examples, and for base and adapter the value with its standard error."""
    found = {who: _results(model, tokenizer, task, batch_size, who == "base") for who in ("base", "adapter")}
    return [
        {"task": name, "metric": metric.partition(",")[0], "examples": facts.get("sample_len"),
         **{who: found[who][name][metric] for who in found},
         **{f"{who}_error": _error(found[who][name], metric) for who in found}}
        for name, facts in found["base"].items() for metric, value in facts.items()
        if isinstance(value, float) and "," in metric and "_stderr," not in metric
    ]  # fmt: skip


def _error(facts: Mapping[str, Any], metric: str) -> float | None:
    value = facts.get(metric.replace(",", "_stderr,", 1))
    return value if isinstance(value, float) else None  # lm-eval writes "N/A" if there is none


def _results(model: Any, tokenizer: Any, task: str, batch_size: int, without_adapter: bool) -> dict[str, dict[str, Any]]:
    from lm_eval import simple_evaluate
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    own = paths.home() / Path(task).expanduser() if task.endswith(".yaml") else None
    manager = TaskManager(include_path=str(own.parent) if own else None)
    with model.disable_adapter() if without_adapter else nullcontext():
        wrapped = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size)
        return simple_evaluate(model=wrapped, tasks=[own.stem if own else task], task_manager=manager, log_samples=False)["results"]
