"""Cross-entropy of a frozen output head in chunks: the logits of all tokens are never in memory at the same time.

A token's loss depends only on its own hidden state, and the head is not trained. So the gradient is computed together with the
loss, while the logits are there, and the backward pass only scales it. Source: the idea of Hsu et al. 2024, "Liger Kernel",
https://arxiv.org/abs/2410.10989
"""

from typing import Any

import torch
from torch.autograd import Function
from torch.nn import functional

TILE = (1024, 1024)  # tokens and vocabulary entries of a chunk: 2 MiB of logits in bfloat16, which stay in a core's cache
LOGITS_AT_ONCE = 2**24  # elements, if the head is trained as well


def head_losses(hidden: torch.Tensor, head: Any, targets: torch.Tensor) -> torch.Tensor:
    """The cross-entropy (nats) of each target under head(hidden). hidden: (tokens, size); targets: (tokens,); returns float32 (tokens,)."""
    if type(head) is torch.nn.Linear and head.bias is None and not head.weight.requires_grad:
        if not hidden.requires_grad:
            return tiled_losses(hidden.to(head.weight.dtype), head.weight, targets, *TILE)
        return HeadLoss.apply(hidden, head.weight, targets, *TILE)
    rows = max(1, LOGITS_AT_ONCE // head.out_features)
    parts = zip(hidden.split(rows), targets.split(rows), strict=True)
    return torch.cat([functional.cross_entropy(head(h).float(), t, reduction="none") for h, t in parts])


def tiled_losses(hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, tokens: int, words: int) -> torch.Tensor:
    """logsumexp(W h_i) - (W h_i)[target_i] without gradients, float32 (n,): `tokens` rows and `words` columns of the logits at a time.

    On a CPU the head's product is three times as fast in tiles of the size of its cache: it writes a hundred times as much as it reads.
    """
    found = []
    for h, target in zip(hidden.split(tokens), targets.split(tokens), strict=True):
        sums = [torch.logsumexp(functional.linear(h, part).float(), dim=1) for part in weight.split(words)]
        found.append(torch.logsumexp(torch.stack(sums), dim=0) - _target_logits(h, weight[target]))
    return torch.cat(found)


class HeadLoss(Function):
    """loss_i = logsumexp(W h_i) - (W h_i)[target_i]; its gradient by h_i is (softmax(W h_i) - onehot) W.

    The softmax is computed online, tile by tile of the vocabulary: a larger maximum scales down what was summed before.
    Source: Milakov and Gimelshein 2018, https://arxiv.org/abs/1805.02867
    """

    @staticmethod
    def forward(ctx: Any, hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, tokens: int, words: int) -> torch.Tensor:
        losses, gradients = torch.empty(len(hidden), device=hidden.device), torch.empty_like(hidden)
        for start in range(0, len(hidden), tokens):
            part = slice(start, start + tokens)
            h, own = hidden[part].to(weight.dtype), weight[targets[part]]
            log_sum, mean = _softmax_product(h, weight, words)
            losses[part] = log_sum - _target_logits(h, own)
            gradients[part] = mean - own
        ctx.save_for_backward(gradients)
        return losses

    @staticmethod
    def backward(ctx: Any, upstream: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradients,) = ctx.saved_tensors
        return (gradients * upstream[:, None]).to(gradients.dtype), None, None, None, None


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


def _target_logits(h: torch.Tensor, own: torch.Tensor) -> torch.Tensor:
    """The logit of each token's target, rounded like the other logits. own: the rows of W of the targets."""
    return (h.float() * own.float()).sum(1).to(h.dtype).float()
