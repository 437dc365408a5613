"""How long a training takes and what it costs: floating-point operations from the model's shapes, over rates that were attained.

The rates stand in params/instances.yaml as a lowest and a highest one, so every time is a range. docs/fit_plan.md says
where they come from.
"""

from dataclasses import dataclass
from typing import Any

from mistral_lib.model.model_shapes import checkpoint_bytes, linear_parameters

DISK_GB_PER_SECOND = (0.1, 1.0)  # reading the base model: a plain network volume, a fast local one
LOADS = 2  # base model at the start and for the proof
NF4_TRAFFIC = 4.5  # bytes moved to dequantise a weight: half a byte read, two written, two read again


@dataclass(frozen=True)
class Work:
    """What is to be trained on, and how."""

    train_tokens: int  # of all epochs together, padding of packed blocks included
    validation_tokens: int  # that are measured
    supervised_share: float
    steps: int  # optimizer steps
    validations: int  # during training
    origin: str  # where the counts come from


def forward_flops(config: Any, max_tokens: int, supervised_share: float) -> float:
    """Floating-point operations of one token's forward pass: two per weight and multiplication, attention over the whole block.

    Source: Kaplan et al. 2020, section 2.1, with the attention term of a block of max_tokens.
    """
    head_dim = config.head_dim or config.hidden_size // config.num_attention_heads
    attention = 4 * config.num_hidden_layers * config.num_attention_heads * head_dim * max_tokens
    return 2 * linear_parameters(config) + attention + 2 * supervised_share * config.vocab_size * config.hidden_size


def step_flops(config: Any, max_tokens: int, supervised_share: float, checkpointing: bool) -> float:
    """Operations of one token's forward and backward pass. Frozen weights get no gradient: the backward pass costs one forward
    pass, not two; recomputing activations costs another one."""
    return (3 if checkpointing else 2) * forward_flops(config, max_tokens, supervised_share)


def measurements(validations: int) -> tuple[int, int]:
    """Fewest and most measurements of the validation loss: the base model, during training, the adapter that is kept (unless the
    last one of the training was of it) and the same reloaded."""
    return 2 + max(1, validations), 3 + validations


def seconds(config: Any, work: Work, machine: dict[str, Any], *, max_tokens: int, micro_batch_size: int, checkpointing: bool,
            quantization: str) -> tuple[float, float]:  # fmt: skip
    """Shortest and longest time of the training stage: loading, stepping, measuring."""
    step = step_flops(config, max_tokens, work.supervised_share, checkpointing)
    forward = forward_flops(config, max_tokens, work.supervised_share)

    def stage(count: int, tflops: float, disk: float) -> float:
        measured = count * work.validation_tokens
        passes = ((3 if checkpointing else 2) * work.train_tokens + measured) / (micro_batch_size * max_tokens)
        moved = passes * linear_parameters(config) * NF4_TRAFFIC if quantization == "nf4" else 0
        calculating = (work.train_tokens * step + measured * forward) / (tflops * 1e12)
        return LOADS * checkpoint_bytes(config) / (disk * 1e9) + calculating + moved / (machine["memory_gb_per_second"] * 1e9)

    (fewest, most), (slow, fast) = measurements(work.validations), machine["attained_tflops"]
    return stage(fewest, fast, max(DISK_GB_PER_SECOND)), stage(most, slow, min(DISK_GB_PER_SECOND))
