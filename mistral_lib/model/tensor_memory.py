"""Counts the bytes of all allocated tensors, operator by operator: the peak of a training step, and its parts.

Works on real tensors and on `meta` tensors, which have a shape and a type but no data. So a step of Mistral-7B takes a second on
any machine, with the code of transformers, peft, bitsandbytes and this library itself. If that code reads the data of a meta
tensor (which positions are supervised, is this block packed), this module returns the answer.
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

GEMM, DEQUANTIZE = "bitsandbytes::gemm_4bit", "bitsandbytes::dequantize_4bit"


class TensorMemory(TorchDispatchMode):
    """Counts the bytes of allocated storages by part. `part`: that of new tensors; `peak_parts`: the bytes by part at the peak.

    vocabulary: the size of the last dimension by which logits are recognized; they are a part of their own.
    """

    def __init__(self, vocabulary: int):
        super().__init__()
        self.vocabulary, self.part = vocabulary, "activations"
        self.by_part: Counter[str] = Counter()
        self.total = self.peak = 0
        self.peak_parts: dict[str, int] = {}
        self._storages: dict[int, tuple[str, int]] = {}  # storage → its part and bytes

    def assign(self, part: str, tensors: Iterable[torch.Tensor]) -> None:
        """Count existing tensors as this part from now on."""
        for tensor in tensors:
            self._count(tensor, part)
            key = tensor.untyped_storage()._cdata
            earlier, size = self._storages[key]
            self.by_part[earlier] -= size
            self.by_part[part] += size
            self._storages[key] = part, size

    def is_counted(self, tensor: torch.Tensor) -> bool:
        return tensor.untyped_storage()._cdata in self._storages

    def _count(self, tensor: torch.Tensor, part: str) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key in self._storages:
            return
        self._storages[key] = part, size
        weakref.finalize(storage, self._forget, key)
        self.by_part[part] += size
        self.total += size
        if self.total > self.peak:
            self.peak, self.peak_parts = self.total, dict(self.by_part)

    def _forget(self, key: int) -> None:
        part, size = self._storages.pop(key)
        self.by_part[part] -= size
        self.total -= size

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        name = func.name()
        if name == GEMM:  # for more than a few tokens, every machine dequantizes the complete weight before multiplying
            from bitsandbytes.backends.default.ops import _gemm_4bit_default_impl

            with self:
                return _gemm_4bit_default_impl(*args, **(kwargs or {}))
        result = self.answer(func, name, args, kwargs or {})
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                logits = tensor.ndim > 1 and tensor.shape[-1] == self.vocabulary
                self._count(tensor, "logits" if logits else "dequantized weights" if name == DEQUANTIZE else self.part)
        return result

    def answer(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        return func(*args, **kwargs)


class MetaMemory(TensorMemory):
    """The same for meta tensors, with answers for operators that read data.

    supervised: the number of positions of the batch with a label. one_record: each row is one record without padding.
    """

    def __init__(self, vocabulary: int, supervised: int, one_record: bool = False):
        super().__init__(vocabulary)
        self.supervised, self.one_record = supervised, one_record

    def answer(self, func: Any, name: str, args: tuple, kwargs: dict) -> Any:
        if not (args and getattr(args[0], "is_meta", False)):
            return func(*args, **kwargs)
        if name == "aten::_local_scalar_dense":
            return self.one_record if args[0].dtype == torch.bool else 1  # `is this one document, without padding?`
        if name == "aten::_efficient_attention_backward":  # its meta function has other arguments than the operator
            return *(torch.empty_like(x) for x in args[1:4]), None
        if name == "aten::nonzero":
            return args[0].new_empty((self.supervised, args[0].ndim), dtype=torch.long)
        if name in ("aten::index.Tensor", "aten::index_put_", "aten::_index_put_impl_", "aten::index_put"):
            args = (args[0], [self._positions(index) for index in args[1]], *args[2:])
            args = (args[0], [one for index in args[1] for one in index], *args[2:])
        return func(*args, **kwargs)

    def _positions(self, index: torch.Tensor | None) -> list[torch.Tensor | None]:
        """A mask as the positions that it selects, one index tensor per dimension."""
        if index is None or index.dtype != torch.bool:
            return [index]
        return [index.new_empty((self.supervised,), dtype=torch.long) for _ in range(index.ndim)]


class DeviceEmulation(TorchFunctionMode):
    """What meta tensors lack of a real device: fused attention, and on a GPU the casts of `torch.autocast`.

    compute: the type of autocast; None if it is not used. capability: the GPU's compute capability.
    """

    def __init__(self, compute: torch.dtype | None, gpu: bool, capability: tuple[int, int] = (8, 0)):
        super().__init__()
        self.compute, self.gpu, self.capability = compute, gpu, capability
        self.cache: dict[int, torch.Tensor] | None = None  # autocast keeps its casts of weights until the end of the forward pass

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
        """The kernels that PyTorch picks: memory-efficient attention on a GPU, its flash kernel on a CPU.

        For heads that share keys and values, a GPU below 8.0 has neither: PyTorch then computes all scores, in float32 (MATH).
        Source: sdp_utils.cpp of PyTorch: flash attention needs 8.0, memory-efficient attention refuses enable_gqa.
        """
        bias = None if attn_mask is None else attn_mask.to(q.dtype)  # PyTorch converts a boolean mask to numbers
        if self.gpu and enable_gqa and q.shape[1] != k.shape[1] and self.capability < (8, 0):
            every_score = torch.ops.aten._scaled_dot_product_attention_math
            return every_score(q, k, v, bias, dropout_p, is_causal, scale=scale, enable_gqa=True)[0]
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
    """Sets the flag of autocast, which peft reads before it casts by itself; `torch.autocast` itself needs a GPU."""
    earlier = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", on)
    try:
        yield
    finally:
        torch.set_autocast_enabled("cuda", earlier)
