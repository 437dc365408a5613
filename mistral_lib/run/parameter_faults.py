"""What is wrong with the values of parameters, in words: the value that was seen, what was expected, and what to do."""

import difflib
from collections.abc import Iterable, Mapping
from typing import Any

from mistral_lib.run.settings import FITTED, Settings, is_embedded, limits, meaning


def no_name(key: Any) -> str:
    return f"{key!r} is no parameter name: YAML reads on, off, yes and no as true/false, digits as a number, null as nothing; quote it"


def explain(fault: Mapping[str, Any], key: str) -> str:
    if fault["type"] == "extra_forbidden":
        return unknown("parameter", key, Settings.names())
    wrong = {
        "string_pattern_mismatch": "letters, digits and . _ - are allowed, the first a letter or a digit",
        "string_too_long": "at most 100 characters are allowed, since it is the name of a folder",
        "list_type": f"a list is expected, such as [{fault['input']}]",
    }.get(fault["type"], f"expected {limits(key)}" if len(fault["loc"]) > 1 and key in FITTED else fault["msg"])
    return f"{key} = {fault['input']!r}: {wrong} — {key} is: {meaning(key)}"


def unknown(what: str, name: str, known: Iterable[str]) -> str:
    """A fault that names the known name that is most like this one, or all of them."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"unknown {what} {name!r}; " + (f"did you mean {near[0]!r}?" if near else f"known are {', '.join(known)}")


def contradictions(settings: Settings, instances: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Faults of values that are valid alone but not together. instances: those of params/instances.yaml."""
    faults = []
    if (held_out := settings.validation_share + settings.test_share) >= 0.8:
        faults.append(f"validation_share + test_share = {held_out:.2f} leaves too little for training; expected less than 0.8")
    if settings.instance not in instances:
        faults.append(f"{unknown('instance', settings.instance, instances)} (params/instances.yaml)")
    faults += [f"domain_weights: {name} = {weight} is negative" for name, weight in settings.domain_weights.items() if weight < 0]
    for key in ("corpus_paths", "operatives_paths", "retention_paths"):
        if any(not path.removeprefix("optional:").strip() for path in getattr(settings, key)):
            faults.append(
                f"{key} = {getattr(settings, key)}: an empty path would read the whole folder of the workbook; name a file or a folder"
            )
    if not settings.base_model.strip():
        faults.append("base_model is empty; expected demo:NAME, a folder, s3://bucket/prefix or the name of a model on the hub")
    faults += [
        f"columns: {target} names no key; name the key of the rows, or leave {target} out"
        for target, key in settings.columns.items()
        if not key
    ]
    faults += undivided_blocks(settings)
    for key in ("max_validation_tokens", "max_test_tokens", "max_probe_tokens"):
        if 0 < (limit := getattr(settings, key)) < settings.max_tokens:
            faults.append(f"{key} = {limit} is less than one block of max_tokens = {settings.max_tokens}")
    if 0 < settings.max_steps < (every := settings.checkpoint_every_steps):
        faults.append(
            f"checkpoint_every_steps = {every} is above max_steps = {settings.max_steps}: a killed run would start over; "
            f"set it to {settings.max_steps} or less"
        )
    if settings.early_stopping_patience and not settings.validate_every_steps:
        faults.append(f"early_stopping_patience = {settings.early_stopping_patience} needs validations: set validate_every_steps above 0")
    if settings.max_usd and instances.get(settings.instance, {}).get("usd_per_hour") == 0:
        faults.append(f"max_usd = {settings.max_usd} is never reached: instance {settings.instance} is free; set max_hours instead")
    return faults


def undivided_blocks(settings: Settings) -> list[str]:
    """A fault if one of micro batch and accumulation is auto, and the other one does not divide blocks_per_step."""
    batch, blocks = FITTED[:2], settings.blocks_per_step
    given = [name for name in batch if getattr(settings, name) != "auto"]
    if len(given) != 1 or blocks % getattr(settings, given[0]) == 0:
        return []
    other = next(name for name in batch if name not in given)
    return [
        f"{given[0]} = {getattr(settings, given[0])} does not divide blocks_per_step = {blocks}, so {other} cannot be auto: "
        f"set blocks_per_step to a multiple of {getattr(settings, given[0])}, or set {other} to a number"
    ]


def of_the_demo(settings: Settings) -> list[str]:
    """A fault if documents of the demo would be trained on together with a corpus of one's own."""
    guides = [path for path in settings.operatives_paths if is_embedded(path)]
    if not guides or not settings.has_own_corpus:
        return []
    return [
        f"operatives_paths = {guides}: documents of the demo would be trained on together with your corpus {settings.corpus_paths}; "
        "expected documents of your own or none: set operatives_paths to []"
    ]
