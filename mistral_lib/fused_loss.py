"""Cross-entropy of a frozen output head, a few tokens at a time: no step ever holds the logits of all of them.

A token's loss depends on its own hidden state alone and the head is not trained, so the gradient is made together with the
loss, while the logits are at hand, and the way back only scales it. Source: the idea of Hsu et al. 2024, "Liger Kernel",
https://arxiv.org/abs/2410.10989
"""

from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional

LOGITS_AT_ONCE = 2**24  # elements; 32 MiB in bfloat16
TILE = (1024, 2048)  # tokens and words whose logits are made together on a CPU, where no gradient is wanted: they stay in its cache


def head_losses(hidden: torch.Tensor, head: Any, targets: torch.Tensor) -> torch.Tensor:
    """Nats of each target under head(hidden). hidden: (tokens, size); targets: (tokens,); returns float32 (tokens,)."""
    rows = max(1, LOGITS_AT_ONCE // head.out_features)
    if type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad:
        if not hidden.requires_grad:
            tokens, words = TILE if hidden.device.type == "cpu" else (rows, head.out_features)
            return tiled_losses(hidden.to(head.weight.dtype), head.weight, targets, tokens, words)
        return HeadLoss.apply(hidden, head.weight, targets, rows)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([functional.cross_entropy(head(h).float(), t, reduction="none") for h, t in parts])


def tiled_losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, tokens: int, words: int) -> torch.Tensor:
    """logsumexp(W h_i) - (W h_i)[target_i] without gradients: `tokens` rows and `words` columns of the logits at a time, float32 (n,).

    The head's product is three times as fast on a CPU in tiles of its cache's size: it writes a hundred times as much as it reads.
    """
    found = [torch.empty(0, device=hidden.device)]
    for h, wanted in zip(hidden.split(tokens), targets.split(tokens), strict=True):
        sums = [torch.logsumexp(functional.linear(h, part).float(), dim=1) for part in weight.split(words)]
        own = (h.float() * weight[wanted].float()).sum(1).to(h.dtype).float()  # rounded as the other logits are
        found.append(torch.logsumexp(torch.stack(sums), dim=0) - own)
    return torch.cat(found)


class HeadLoss(Function):
    """loss_i = logsumexp(W h_i) - (W h_i)[target_i]; its gradient by h_i is (softmax(W h_i) - onehot) W."""

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, rows: int) -> torch.Tensor:
        losses, slopes = torch.empty(len(hidden), device=hidden.device), torch.empty_like(hidden)
        for start in range(0, len(hidden), rows):
            part = slice(start, start + rows)
            logits, target = hidden[part].to(weight.dtype) @ weight.T, targets[part, None]
            chances = _chances(logits)
            losses[part] = -chances.gather(1, target).float().clamp_min(torch.finfo(torch.float32).tiny).log()[:, 0]
            slopes[part] = chances.scatter_add_(1, target, -torch.ones_like(target, dtype=chances.dtype)).to(weight.dtype) @ weight
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * upstream[:, None]).to(slopes.dtype), None, None, None


def _chances(logits: torch.Tensor) -> torch.Tensor:
    """Softmax (tokens, vocabulary). bfloat16 has the range of float32, and rounds what was computed in float32 once: of a token's
    loss this is 0.004 nats at most, of a mean next to nothing. float16 would lose the small ones."""
    return logits.softmax(-1, dtype=torch.float32 if logits.dtype == torch.float16 else None)
