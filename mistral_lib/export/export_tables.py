"""The tables and lines of notebook 05: what will be exported, what each form keeps of the adapter, and which one is recommended."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

from mistral_lib.export import export
from mistral_lib.export.parity_verdict import QUANTIZED, SAME
from mistral_lib.model import base_model
from mistral_lib.run import Run, files

Facts = Mapping[str, Any]


def adapter_line(run: Run) -> str:
    """What there is before anything is exported: the adapter and its base model, by size."""
    base = base_model.folder(run.settings.base_model)
    weights = sum(path.stat().st_size for path in base.glob("*.safetensors"))
    adapter = export.size(run.folder / "training" / "adapter" / "adapter_model.safetensors")
    return f"adapter {files.size_text(adapter)}; its base model {files.size_text(weights)}, without which it is nothing"


def sizes(exported: Facts, form: str) -> int:
    """Bytes that a form needs: for an adapter as GGUF, those of its base model too."""
    facts = exported["forms"][form]
    return facts["bytes"] + facts.get("base_bytes", 0)


def rows(exported: Facts, found: Facts) -> dict[str, dict[str, Any]]:
    """Of each form what was measured. exported: export/result.json; found: parity/result.json."""
    return {one["form"]: _row(exported, one) for one in found["findings"]}


def _row(exported: Facts, finding: Facts) -> dict[str, Any]:
    measured, stops = finding["evidence"].get("likelihood", {}), finding["evidence"].get("stops", {})
    base = finding["evidence"].get("base_in_form")
    return {
        "size": files.size_text(sizes(exported, finding["form"])),
        "bytes": sizes(exported, finding["form"]),
        "base": -base if base is not None else None,
        "loss": -measured["form"] if measured else None,
        "kept": finding["kept"],
        "kept_low": measured.get("kept_low"),
        "kept_high": measured.get("kept_high"),
        "ended": _ended(stops) if stops else "",
        "tokens_per_second": finding["evidence"].get("tokens_per_second"),
        "outcome": finding["outcome"],
        "passed": finding["passed"],
    }


def _ended(stops: Facts) -> str:
    """Of the answers that the adapter ends by itself, how many the form ends."""
    return f"{stops['form']} of {stops['adapter']}" if stops["adapter"] else f"the adapter ends none of {stops['asked']}"


def table(exported: Facts, found: Facts) -> pd.DataFrame:
    """A row per form: its size, the losses of base model and adapter in this form in nats per token, the share of the gain that is left."""
    shown = {
        "size": "size", "base": "base, nats", "loss": "adapter, nats", "kept": "gain kept", "ended": "answers that end",
        "tokens_per_second": "tokens/s", "outcome": "finding",
    }  # fmt: skip
    made = pd.DataFrame.from_dict(rows(exported, found), orient="index")[list(shown)].rename(columns=shown)
    return made.assign(**{"gain kept": made["gain kept"].map(lambda kept: "" if pd.isna(kept) else f"{kept:.0%}")})


def recommended(exported: Facts, found: Facts) -> str | None:
    """The smallest form that is the adapter and keeps enough of its gain; None if none does."""
    fit = [name for name, row in rows(exported, found).items() if row["passed"] and row["outcome"].startswith((SAME, QUANTIZED))]
    return min(fit, key=lambda name: sizes(exported, name), default=None)
