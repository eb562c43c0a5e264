"""The root-mean-square norm of a residual sum as its equation."""

import torch
from torch import Tensor


def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-5, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """summed = x + residual; normed = weight * summed / sqrt(mean(summed^2) + eps), the mean over d.

    Args:
        x: (..., d).
        weight: (d,).
        eps: keeps rows of zeros finite.
        residual: like x, in any floating dtype; zeros if None.

    Returns:
        normed in x's dtype, and summed in residual's (x itself if None), both (..., d).
    """
    summed = x if residual is None else (x + residual).to(residual.dtype)
    values = summed.to(torch.promote_types(summed.dtype, torch.float32))
    scale = torch.rsqrt(values.square().mean(-1, keepdim=True) + eps)
    return (values * scale * weight).to(x.dtype), summed
