"""The Vandermonde product as its equation."""

import torch
from torch import Tensor


def vandermonde(v: Tensor, a: Tensor, L: int) -> Tensor:
    """k_l = 2 Re sum over n of v_n exp(l a_n), l < L.

    Args:
        v: (..., rows, pairs), coefficients.
        a: (..., pairs), exponents of a step.

    Returns:
        k: (..., rows, L), real.
    """
    powers = torch.exp(a[..., None] * torch.arange(L, device=a.device, dtype=a.real.dtype))
    return 2 * (v @ powers).real
