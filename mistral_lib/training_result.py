"""training/result.json: what a training came to, and what happened on the way.

Knows numbers and the log; knows nothing of models.
"""

from typing import Any

from mistral_lib import training_log
from mistral_lib.model import likelihood
from mistral_lib.model.likelihood import RecordLoss


def losses(before: list[RecordLoss], after: list[RecordLoss], reloaded: float) -> dict[str, Any]:
    """Base against adapter on the validation records, in all and by domain (nats per supervised token)."""
    base, adapter = likelihood.by_domain(before), likelihood.by_domain(after)
    return {
        "validation_loss": {"base": likelihood.mean(before), "adapter": likelihood.mean(after), "adapter_reloaded": reloaded},
        "domains": {
            domain: {"base": likelihood.mean(base[domain]), "adapter": likelihood.mean(adapter[domain]), "records": len(base[domain])}
            for domain in base
        },
        "validation_records": len(before),
        "validation_supervised_tokens": sum(loss.tokens for loss in before),
    }


def way(events: list[dict[str, Any]]) -> dict[str, Any]:
    """What happened on the way, from the log's events."""
    return {
        "validation_curve": {str(event["step"]): event["loss"] for event in training_log.validations(events)},
        "attempts": sum(event["event"] == "process" for event in events),
        "out_of_memory": sum(event["event"] == "out_of_memory" for event in events),
        "skipped_steps": len(training_log.skipped(events)),
    }


def logged_peak_mib(events: list[dict[str, Any]]) -> int:
    """The most memory that any attempt has noted, MiB: the last one may have had nothing left to do but to verify."""
    return max((event["peak_memory_mib"] for event in events if "peak_memory_mib" in event), default=0)
