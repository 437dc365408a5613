"""Cross-entropy of a frozen output head, a few tokens at a time: no step ever holds the logits of all of them.

A token's loss depends on its own hidden state alone and the head is not trained, so the gradient is made together with the
loss, while the logits are at hand, and the way back only scales it. Source: the idea of Hsu et al. 2024, "Liger Kernel",
https://arxiv.org/abs/2410.10989
"""

from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional

TILE = (1024, 1024)  # tokens and words whose logits are made together: 2 MiB in bfloat16, which stay in a core's cache
LOGITS_AT_ONCE = 2**24  # elements, for a head that is trained as well


def head_losses(hidden: torch.Tensor, head: Any, targets: torch.Tensor) -> torch.Tensor:
    """Nats of each target under head(hidden). hidden: (tokens, size); targets: (tokens,); returns float32 (tokens,)."""
    if type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad:
        if not hidden.requires_grad:
            return tiled_losses(hidden.to(head.weight.dtype), head.weight, targets, *TILE)
        return HeadLoss.apply(hidden, head.weight, targets, *TILE)
    rows = max(1, LOGITS_AT_ONCE // head.out_features)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([functional.cross_entropy(head(h).float(), t, reduction="none") for h, t in parts])


def tiled_losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, tokens: int, words: int) -> torch.Tensor:
    """logsumexp(W h_i) - (W h_i)[target_i] without gradients: `tokens` rows and `words` columns of the logits at a time, float32 (n,).

    The head's product is three times as fast on a CPU in tiles of its cache's size: it writes a hundred times as much as it reads.
    """
    found = [torch.empty(0, device=hidden.device)]
    for h, wanted in zip(hidden.split(tokens), targets.split(tokens), strict=True):
        sums = [torch.logsumexp(functional.linear(h, part).float(), dim=1) for part in weight.split(words)]
        found.append(torch.logsumexp(torch.stack(sums), dim=0) - _own_logits(h, weight[wanted]))
    return torch.cat(found)


class HeadLoss(Function):
    """loss_i = logsumexp(W h_i) - (W h_i)[target_i]; its gradient by h_i is (softmax(W h_i) - onehot) W.

    The softmax is made while the tiles of the vocabulary pass by: what was summed before a larger logit came is scaled down.
    Source: Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, tokens: int, words: int) -> torch.Tensor:
        losses, slopes = torch.empty(len(hidden), device=hidden.device), torch.empty_like(hidden)
        for start in range(0, len(hidden), tokens):
            part = slice(start, start + tokens)
            h, own = hidden[part].to(weight.dtype), weight[targets[part]]
            log_sum, mean = _softmax_product(h, weight, words)
            losses[part] = log_sum - _own_logits(h, own)
            slopes[part] = mean - own
        ctx.save_for_backward(slopes)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (slopes,) = ctx.saved_tensors
        return (slopes * upstream[:, None]).to(slopes.dtype), None, None, None, None


def _softmax_product(h: torch.Tensor, weight: torch.Tensor, words: int) -> tuple[torch.Tensor, torch.Tensor]:
    """logsumexp(W h_i), float32 (tokens,), and softmax(W h_i) W, float32 (tokens, size), `words` columns of the logits at a time."""
    top = torch.full((len(h), 1), -torch.inf, device=h.device)
    total, product = torch.zeros_like(top), torch.zeros(h.shape, device=h.device)
    for part in weight.split(words):
        logits = h @ part.T
        higher = torch.maximum(top, logits.amax(1, keepdim=True).float())
        powers, before = logits.sub_(higher.to(h.dtype)).exp_(), (top - higher).exp_()
        total.mul_(before).add_(powers.sum(1, keepdim=True, dtype=torch.float32))
        product.mul_(before).add_(powers @ part)
        top = higher
    return (total.log() + top)[:, 0], product.div_(total)


def _own_logits(h: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The logit of each token's target, rounded as the other logits are. own: the targets' rows of W."""
    return (h.float() * own.float()).sum(1).to(h.dtype).float()
