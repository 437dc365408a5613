"""The tensors of a LoRA adapter: which weight of the base model each pair A, B belongs to, and what it adds to it.

An adapter that adds anything else than scale · B A to a linear layer is refused, with the setting or tensor that does so.
Knows peft's two files; knows nothing of how weights are stored or quantized.   Source: LoRA (arXiv:2106.09685) section 4.1, peft's LoraConfig
"""

import math
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from mistral_lib.family import text_part
from mistral_lib.merging.tensor_files import DTYPES, TensorFile
from mistral_lib.model import model_folder
from mistral_lib.run import files, paths

WEIGHTS, CONFIG, PROVENANCE = "adapter_model.safetensors", "adapter_config.json", "provenance.json"
FINGERPRINT, COMMIT = re.compile("[0-9a-f]{64}"), re.compile("[0-9a-f]{40}")
KEY = re.compile(r"base_model\.model\.(.+)\.lora_([AB])\.weight")
# Settings that say how the adapter was made or what is supported here. Every other one must be off: None, False, "none" or empty.
READ = {"r", "lora_alpha", "use_rslora", "rank_pattern", "alpha_pattern", "target_modules", "exclude_modules", "layers_to_transform",
        "layers_pattern"}  # fmt: skip
WITHOUT_EFFECT = {"peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
                  "lora_dropout", "init_lora_weights", "runtime_config", "megatron_core", "loftq_config", "qalora_group_size",
                  "ensure_weight_tying"}  # fmt: skip
PLAIN_STARTS = ("gaussian", "eva", "orthogonal")  # other named initializations change the base model's weights as well


class MergeError(ValueError):
    """An adapter that cannot be merged into this base model; the message has every reason and what to do."""


class Adapter:
    """An adapter's folder, its weights open. Errors: MergeError if a setting is not supported or a tensor belongs to no pair."""

    def __init__(self, folder: Path) -> None:
        for name in (CONFIG, WEIGHTS):
            if not (folder / name).is_file():
                raise MergeError(
                    f"{paths.short(folder)}: {name} is missing; expected a folder that peft saved, such as training/adapter of a run"
                )
        self.folder, self.config = folder, files.read_json(folder / CONFIG)
        self.provenance = files.read_json(folder / PROVENANCE) if (folder / PROVENANCE).is_file() else {}  # an adapter of others has none
        require(folder, unsupported(self.config))
        self._file = TensorFile(folder / WEIGHTS)
        self.modules = modules(list(self._file.header))  # weight in the loaded language model → module as the adapter names it
        require(folder, unpaired(self._file.header, self.modules))

    def __enter__(self) -> "Adapter":
        return self

    def __exit__(self, *error: object) -> None:
        self._file.__exit__(*error)

    @property
    def trained_in(self) -> str | None:
        """The dtype that the base model was loaded in at the training; None if the folder does not say."""
        return self.provenance.get("dtype")

    def identity(self) -> dict[str, Any]:
        """What changes if a merge of the adapter would come out otherwise."""
        config = files.digest(self.config)
        return {"adapter_sha256": files.sha256(self.folder / WEIGHTS), "adapter_config": config, "trained_in": self.trained_in}

    def names(self, weight: str) -> tuple[str, str]:
        """The names of A and B of a weight."""
        return lora_names(self.modules[weight])

    def scale(self, weight: str) -> float:
        """The factor of B A: alpha / rank, or alpha / √rank with `use_rslora`."""
        from peft.utils.other import get_pattern_key

        module, alphas = self.modules[weight], self.config.get("alpha_pattern") or {}
        alpha = alphas.get(get_pattern_key(alphas.keys(), module), self.config["lora_alpha"])
        rank = self.rank(weight)
        return alpha / (math.sqrt(rank) if self.config.get("use_rslora") else rank)

    def rank(self, weight: str) -> int:
        """The rank that the configuration gives to a weight's module."""
        from peft.utils.other import get_pattern_key

        ranks = self.config.get("rank_pattern") or {}
        return ranks.get(get_pattern_key(ranks.keys(), self.modules[weight]), self.config["r"])

    def product(self, weight: str) -> Any:
        """What the adapter adds to a weight, (out, in), computed in float32 as peft does it on a CPU."""
        a, b = (self._file.tensor(name).float() for name in self.names(weight))
        return (b @ a).mul_(self.scale(weight))

    def require_base(self, base: Path) -> str:
        """The fingerprint of the base model's folder. Errors: MergeError if the adapter was trained on other weights.

        provenance.json names the base model's fingerprint, or its commit on the hub: that is compared if the folder is named for one.
        """
        found, trained_on = model_folder.fingerprint(base), self.provenance.get("base_identity")
        comparable = trained_on and (FINGERPRINT.fullmatch(trained_on) or COMMIT.fullmatch(base.name))
        if comparable and trained_on not in (found, base.name):
            seen = base.name if COMMIT.fullmatch(trained_on) else found
            fault = f"{PROVENANCE}: trained on the base model {trained_on[:12]}; {paths.short(base)} is {seen[:12]}"
            require(self.folder, [fault], "take the base model that the adapter was trained on")
        return found

    def require_fit(self, shapes: dict[str, list[int]]) -> None:
        """Errors: MergeError unless each pair fits a weight, and each weight that the configuration targets has a pair.

        shapes: (out, in) of the matrices of the base model's language layers, by the name of the weight.
        """
        faults = []
        for weight in self.modules:
            a, b = self.names(weight)
            rank, found = self.rank(weight), (self._file.header[b]["shape"], self._file.header[a]["shape"])
            if weight not in shapes:
                faults.append(f"{a}: the base model has no weight {weight}")
            elif found != ([(shape := shapes[weight])[0], rank], [rank, shape[1]]):
                faults.append(
                    f"{a}: B, A are {found[0]}, {found[1]}; expected {[shape[0], rank]}, {[rank, shape[1]]} for {weight} at rank {rank}"
                )
        absent = [weight for weight in targeted(self.config, shapes) if weight not in self.modules]
        faults += [f"{CONFIG} targets {weight}, but {WEIGHTS} has no tensors for it" for weight in absent]
        require(self.folder, faults, "take the base model that the adapter was trained on, and both files of the adapter from one place")


def targeted(config: dict[str, Any], weights: Iterable[str]) -> list[str]:
    """Those of the weights whose module peft would give a pair, by the content of adapter_config.json."""
    from peft import LoraConfig
    from peft.tuners.tuners_utils import check_target_module_exists

    lora = LoraConfig(**{name: config[name] for name in READ & config.keys()})
    return [weight for weight in weights if check_target_module_exists(lora, weight.removesuffix(".weight"))]


def require(folder: Path, faults: list[str], remedy: str = "merge it with peft, or train without what is named") -> None:
    """Errors: MergeError if there are faults."""
    if faults:
        more = [f"and {len(faults) - 8} more"] if len(faults) > 8 else []
        lines = "\n".join(f"  {fault}" for fault in [*faults[:8], *more])
        raise MergeError(f"{paths.short(folder)} cannot be merged:\n{lines}\n{remedy}")


def unsupported(config: dict[str, Any]) -> list[str]:
    """The settings of adapter_config.json that add something else than scale · B A."""
    if config.get("peft_type") != "LORA":
        return [f"{CONFIG}: peft_type = {config.get('peft_type')!r}; expected 'LORA'"]
    on = {name: value for name, value in config.items() if name not in READ | WITHOUT_EFFECT and value not in (None, False, "none", {}, [])}
    start = config.get("init_lora_weights")
    if isinstance(start, str) and start.lower() not in PLAIN_STARTS:
        on["init_lora_weights"] = start  # what was subtracted from the base model's weights is in no file
    return [f"{CONFIG}: {name} = {value!r} is not supported, only plain LoRA on linear layers" for name, value in on.items()]


def lora_names(module: str) -> tuple[str, str]:
    return tuple(f"base_model.model.{module}.lora_{letter}.weight" for letter in "AB")


def modules(keys: list[str]) -> dict[str, str]:
    """The adapted modules by the name of their weight. An adapter for a complete multimodal model names the language layers otherwise."""
    found = dict.fromkeys(match[1] for key in keys if (match := KEY.fullmatch(key)))
    return {f"{text_part_name(module)}.weight": module for module in found}


def text_part_name(name: str) -> str:
    """The name in the loaded language model of a tensor or module, which a multimodal checkpoint names otherwise."""
    for pattern, new in text_part.RENAMED.items():
        name = re.sub(pattern, new, name)
    return name


def unpaired(header: dict[str, dict[str, Any]], found: dict[str, str]) -> list[str]:
    """Tensors that are not A or B of a pair, or that have a dtype that is not computed in."""
    paired = {name for module in found.values() for name in lora_names(module)}
    faults = [f"{name}: not a tensor of plain LoRA on a linear layer" for name in sorted(header.keys() - paired)]
    faults += [f"{name}: missing, although the other one of the pair is there" for name in sorted(paired - header.keys())]
    odd = [name for name in sorted(header) if header[name]["dtype"] not in DTYPES]
    return faults + [f"{name}: is {header[name]['dtype']}; expected one of {', '.join(DTYPES)}" for name in odd]
