"""Adds up the bytes of all tensors that are alive, operator by operator: the peak of a training step and what it is made of.

It works on real tensors, and on `meta` tensors, which have a shape and a type but no data: so a step of Mistral-7B is
walked in a second on any machine, through the very code of transformers, peft, bitsandbytes and this library. Where that
code asks a tensor for data (which positions are supervised, is this block packed), the answer is given here.
"""

import weakref
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GEMM, DEQUANTISE = "bitsandbytes::gemm_4bit", "bitsandbytes::dequantize_4bit"


class LiveMemory(TorchDispatchMode):
    """Counts the bytes of live storages by part. `part` names what is being made now; `peak_parts` is the picture at the peak.

    vocabulary: a tensor whose last dimension has this size is logits, whatever the part.
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary, self.part = vocabulary, "activations"
        self.live: Counter[str] = Counter()
        self.total = self.peak = 0
        self.peak_parts: dict[str, int] = {}
        self._known: dict[int, tuple[str, int]] = {}  # storage → its part and bytes

    def hold(self, part: str, tensors: Iterable[torch.Tensor]) -> None:
        """Count tensors that exist already, or count them as another part from now on."""
        for tensor in tensors:
            key = tensor.untyped_storage()._cdata
            if key in self._known:
                earlier, size = self._known[key]
                self.live[earlier] -= size
                self.live[part] += size
                self._known[key] = part, size
            else:
                self._count(tensor, part)

    def holds(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._known

    def _count(self, tensor: torch.Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._known:
            return
        self._known[key] = part, size
        weakref.finalize(storage, self._forget, key)
        self.live[part] += size
        self.total += size
        if self.total > self.peak:
            self.peak, self.peak_parts = self.total, dict(self.live)

    def _forget(self, key: int) -> None:
        part, size = self._known.pop(key)
        self.live[part] -= size
        self.total -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.name()
        if name == GEMM:  # as on every machine for more than a few tokens: the weight is dequantised whole, then multiplied
            from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

            with self:
                return _gemm_4bit_default_impl(*args, **(kwargs or {}))
        result = self.answer(func, name, args, kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                logits = tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary
                self._count(tensor, "logits" if logits else "dequantised weights" if name == DEQUANTISE else self.part)
        return result

    def answer(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        return func(*args, **kwargs)


class MetaMemory(LiveMemory):
    """The same on meta tensors, with the answers that only data could give.

    supervised: how many positions of the batch have a label.
    """

    def __init__(self, vocabulary: int, supervised: int):
        super().__init__(vocabulary)
        self.supervised = supervised

    def answer(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        if not (args and getattr(args[0], "is_meta", False)):
            return func(*args, **kwargs)
        if name == "aten::_local_scalar_dense":
            return False if args[0].dtype == torch.bool else 1  # `is this one document?` No: blocks are packed
        if name == "aten::nonzero":
            return args[0].new_empty((self.supervised, args[0].ndim), dtype=torch.long)
        if name in ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put"):
            args = (args[0], [self._positions(index) for index in args[1]], *args[2:])
            args = (args[0], [one for index in args[1] for one in index], *args[2:])
        return func(*args, **kwargs)

    def _positions(self, index: torch.Tensor | None) -> list[torch.Tensor | None]:
        """A mask as the positions it selects, one index tensor per dimension."""
        if index is None or index.dtype != torch.bool:
            return [index]
        return [index.new_empty((self.supervised,), dtype=torch.long) for _ in range(index.ndim)]


class StandIns(TorchFunctionMode):
    """What a device does and meta tensors do not: fused attention, and on a GPU the casts of `torch.autocast`.

    compute: the type that autocast computes in; None where the trainer does not use autocast.
    """

    def __init__(self, compute: torch.dtype | None, gpu: bool):
        super().__init__()
        self.compute, self.gpu = compute, gpu
        self.cache: dict[int, torch.Tensor] | None = None  # autocast keeps its casts of weights until the forward pass ends

    def __torch_function__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if self.compute and func in (functional.linear, torch.matmul, torch.Tensor.matmul, functional.scaled_dot_product_attention):
            args = tuple(self._cast(value) for value in args)
        if func is functional.scaled_dot_product_attention and args[0].is_meta:
            return self._attention(*args, **kwargs)
        return func(*args, **kwargs)

    def _cast(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor) or value.dtype != torch.float32:
            return value
        if self.cache is None or not (value.is_leaf and value.requires_grad):
            return value.to(self.compute)
        if id(value) not in self.cache:
            self.cache[id(value)] = value.to(self.compute)
        return self.cache[id(value)]

    def _attention(self, q: Any, k: Any, v: Any, attn_mask: Any = None, dropout_p: float = 0.0, is_causal: bool = False,
                   scale: float | None = None, enable_gqa: bool = False) -> torch.Tensor:  # fmt: skip
        """The kernels that PyTorch picks: memory-efficient attention on a GPU, its flash kernel on a CPU."""
        bias = None if attn_mask is None else attn_mask.to(q.dtype)  # PyTorch makes a mask of numbers from one of truth values
        if enable_gqa:
            k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
        if not self.gpu:
            flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
            return flash(q, k, v, dropout_p, is_causal, attn_mask=bias, scale=scale)[0]
        bias = None if bias is None else bias.expand(*q.shape[:3], k.shape[2])
        efficient = torch.ops.aten._scaled_dot_product_efficient_attention
        return efficient(q, k, v, bias, True, dropout_p, is_causal, scale=scale)[0]


@contextmanager
def autocast_flag(on: bool) -> Any:
    """peft asks whether autocast is on before it casts by itself; `torch.autocast` cannot be entered without a GPU."""
    earlier = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", on)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", earlier)
