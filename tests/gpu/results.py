"""The results of the checks as one JSON and one Markdown table."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mistral_lib.run import files, hardware


@dataclass(frozen=True)
class Result:
    """outcome: passed, failed or skipped; because: why, if it did not pass; figures: what was measured, by name."""

    check: str
    question: str
    outcome: str
    seconds: float
    because: str = ""
    figures: dict[str, Any] = field(default_factory=dict)


def write(folder: Path, found: list[Result]) -> Path:
    """gpu.json and gpu.md in the folder; returns the second."""
    folder.mkdir(parents=True, exist_ok=True)
    machine = {**hardware.describe(), **versions()}
    files.write_json(folder / "gpu.json", {"machine": machine, "results": [asdict(one) for one in found]})
    files.write_text(folder / "gpu.md", markdown(machine, found))
    return folder / "gpu.md"


def versions() -> dict[str, str]:
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("torch", "transformers", "peft", "accelerate", "bitsandbytes", "liger-kernel", "trl", "unsloth"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "not installed"
    return found


def markdown(machine: dict[str, Any], found: list[Result]) -> str:
    lines = ["| machine | |", "|---|---|", *(f"| {name} | {value} |" for name, value in machine.items()), ""]
    lines += ["| check | outcome | seconds | what was measured |", "|---|---|---|---|"]
    for one in found:
        words = "; ".join([*([one.because] if one.because else []), *(f"{name} {shown(value)}" for name, value in one.figures.items())])
        lines.append(f"| {one.question} | {one.outcome} | {one.seconds:.1f} | {words.replace('|', '/').replace(chr(10), ' ')} |")
    return "\n".join(lines) + "\n"


def shown(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)
