"""Attention in packed blocks: each record attends to itself alone, without a mask of all tokens by all tokens.

There are four ways with one interface; `choose` takes the one for a device and says why. A way of a GPU is tried on a few tokens before
it is used: if its kernel is missing or its numbers are not those of separate records, the masked way of transformers takes its place.
"""

from collections.abc import Callable
from dataclasses import dataclass
from types import MethodType
from typing import Any

import torch

from mistral_lib.family import layer_classes
from mistral_lib.kernels import cpu_attention, cuda_attention, rotation
from mistral_lib.kernels.fused_layers import project, replace_forward

HALF = (torch.float16, torch.bfloat16)
AMPERE = (8, 0)  # compute capability from which flash attention runs
TOLERANCE = 0.03  # of the trial's outputs, which are about 1: sixteen-bit numbers of two kernels differ by less than a hundredth


@dataclass(frozen=True)
class Way:
    """How the records of a block are kept apart.

    spans(position_ids, dtype): where the records are, from positions (batch, tokens) that are 0 where one begins, for scores of this
    type; computed once a pass.
    attend(query, key, value, spans, scale): softmax(scale · q kᵀ) v within each record; (tokens, heads, size), where key and value may
    have fewer heads. None for the masked way, which is that of transformers.
    """

    name: str
    reason: str
    spans: Callable[[torch.Tensor, torch.dtype], Any] | None = None
    attend: Callable[..., torch.Tensor] | None = None


def masked(reason: str) -> Way:
    return Way("masked", reason)


def choose(device: torch.device, dtype: torch.dtype) -> Way:
    """The way for a device and a compute type, tried on a few tokens if it is one of a GPU."""
    if device.type == "cpu":
        return Way("by record", "a CPU has no kernel that skips what a mask hides", cpu_attention.RecordSpans.from_positions,
                   cpu_attention.RecordAttention.apply)  # fmt: skip
    if device.type != "cuda":
        return masked(f"there is no kernel by record for {device.type}")
    return tried(by_capability(torch.cuda.get_device_capability(device), dtype), device, dtype)


def by_capability(capability: tuple[int, int], dtype: torch.dtype) -> Way:
    """The way for a GPU of this compute capability."""
    seen, spans = f"compute capability {capability[0]}.{capability[1]}", cuda_attention.RecordStarts.from_positions
    if capability >= AMPERE and dtype in HALF:
        return Way("variable length", f"{seen}: flash attention by record", spans, cuda_attention.variable_length)
    why = "flash attention takes only sixteen-bit numbers" if capability >= AMPERE else "flash attention needs 8.0"
    return Way("memory-efficient", f"{seen}: {why}; keys and values are repeated for the heads that share them", spans,
               cuda_attention.memory_efficient)  # fmt: skip


def tried(way: Way, device: torch.device, dtype: torch.dtype) -> Way:
    """The same way if its kernel gives what separate records give; otherwise the masked one, with the reason."""
    generator = torch.Generator().manual_seed(0)
    lengths, size = [5, 1, 26], 64
    q, k, v = (torch.randn(sum(lengths), heads, size, generator=generator).to(device, dtype) for heads in (4, 2, 2))
    positions = torch.cat([torch.arange(length, device=device) for length in lengths])[None]
    try:
        with torch.inference_mode():
            found = way.attend(q, k, v, way.spans(positions, dtype), size**-0.5)
            parts = zip(*(x.split(lengths) for x in (q, k, v)), strict=True)
            expected = torch.cat([cpu_attention.attended(*part, size**-0.5) for part in parts])
            off = (found.float() - expected.float()).abs().max().item()
    except (RuntimeError, NotImplementedError, ImportError) as error:
        return masked(f"{way.name} attention does not run here ({type(error).__name__}: {str(error).splitlines()[0][:120]})")
    return way if off <= TOLERANCE else masked(f"{way.name} attention is off by {off:.2g} here")


# -- the model's forward pass -----------------------------------------------------------------------------------------


def install(model: Any, way: Way) -> None:
    """Give a model of the Mistral family `packed_forward`, which attends record by record. Its other forward pass stays as it is."""
    if way.attend is None:
        return
    for module in model.modules():
        if layer_classes.is_one_of(module, "Attention"):
            replace_forward(module, _attention_forward)
        elif layer_classes.is_one_of(module, "Model"):
            module.packed_way = way
            module.packed_forward = MethodType(_packed_forward, module)


def _packed_forward(self: Any, position_ids: torch.Tensor, **inputs: Any) -> Any:
    """As forward. A block longer than a sliding window takes transformers' own masks, which keep the records apart too."""
    if position_ids.shape[1] > layer_classes.longest_plain_block(self.config):
        return self(position_ids=position_ids, **inputs)
    return self(position_ids=position_ids, records=(self.packed_way, self.packed_way.spans(position_ids, self.dtype)), **inputs)


def _attention_forward(
    self: Any, hidden_states: torch.Tensor, position_embeddings: Any, attention_mask: Any, records: Any = None, **kwargs: Any
) -> Any:
    if records is None:
        return self.plain_forward(hidden_states, position_embeddings, attention_mask, **kwargs)
    way, spans = records
    batch, tokens = hidden_states.shape[:2]
    projections = project(hidden_states, self.q_proj, self.k_proj, self.v_proj)
    query, key, value = (x.view(batch, tokens, -1, self.head_dim) for x in projections)
    query, key = rotation.rotated(query, key, *position_embeddings)
    attended = way.attend(query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1), spans, self.scaling)
    return self.o_proj(attended.reshape(batch, tokens, -1)), None
