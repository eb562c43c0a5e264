"""The cross entropy of a linear head as its equation."""

import torch
from torch import Tensor


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log(sum_v exp(z_v)) - z_target of z = weight hidden, at each position; 0 where the target is negative.

    Args:
        hidden: (..., d).
        weight: (vocab, d).
        targets: (...) int64, below vocab.

    Returns:
        losses in nats, (...), float32 (float64 for float64 inputs).
    """
    dtype = torch.promote_types(hidden.dtype, torch.float32)
    logits = hidden.to(dtype) @ weight.to(hidden.dtype).to(dtype).t()
    chosen = logits.gather(-1, targets.clamp(min=0)[..., None])[..., 0]
    return torch.where(targets < 0, 0.0, logits.logsumexp(-1) - chosen)
