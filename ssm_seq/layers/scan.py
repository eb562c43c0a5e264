"""The states of a diagonal system, all of them, by products of small matrices."""

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH = 16  # positions of a block


def scan(v: Tensor, exponent: Tensor, x: Tensor) -> Tensor:
    """All x_k = exp(exponent) x_(k-1) + v_k.

    A block of `WIDTH` positions is a product with the Toeplitz matrix of the powers of Abar. What the blocks
    leave behind is a sequence of the same kind, `WIDTH` times shorter, and scanned likewise: there are as
    many levels, each of them all in parallel, as the length has digits in base `WIDTH`. Differentiable.

    Args:
        v: (batch, length, N), real or complex.
        exponent: (N,), log Abar. Its powers are formed in its dtype: complex128 keeps the phases of a long
            memory.
        x: the state before v, (batch, N).

    Returns:
        The states after each position, like v.
    """
    length = v.shape[1]
    width = WIDTH if length > WIDTH else length  # `min` would be a symbol to a compiler
    count = -(-length // width)
    blocks = F.pad(v, (0, 0, 0, count * width - length)).unflatten(1, (count, width))
    lags = torch.arange(width + 1, device=v.device)
    powers = torch.exp(exponent[:, None] * lags).to(v.dtype)  # (N, width + 1)
    states, before = torch.einsum("nij,bcjn->bcin", toeplitz(powers[:, :-1]), blocks), x[:, None]
    if count > 1:
        before = torch.cat([before, scan(states[:, :-1, -1], exponent * width, x)], dim=1)
    states = states + before[:, :, None] * powers[:, 1:].mT
    return states.flatten(1, 2)[:, :length]


def toeplitz(kernel: Tensor) -> Tensor:
    """Lower triangular matrices with K_(i-j) in row i and column j: (..., width) -> (..., width, width)."""
    width = kernel.shape[-1]
    return F.pad(kernel, (width - 1, 0)).unfold(-1, width, 1).flip(-1)
