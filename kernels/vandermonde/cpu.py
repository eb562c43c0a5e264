"""The Vandermonde product in PyTorch's operations: matrix products of two small Vandermonde matrices.

l = i width + j with width = sqrt(L), so that exp(l a) = exp(i width a) exp(j a) and the sum over n is one
matrix product for all i and j: two multiply-adds for each n and l, the least there is.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def forward(v: Tensor, a: Tensor, L: int) -> Tensor:
    """k (heads, rows, L) for v (heads, rows, pairs), a (heads, pairs)."""
    small, large = _powers(a, L)
    left = torch.view_as_real(v[:, :, None] * large[:, None]).flatten(-2).flatten(1, 2)
    right = torch.view_as_real(small.conj().resolve_conj()).flatten(-2)  # Re x y = Re x Re y - Im x Im y
    return (left @ right.mT).mul_(2).reshape(*v.shape[:2], -1)[..., :L].contiguous()


def backward(dk: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over l of dk exp(l a) and of l dk exp(l a), both (heads, rows, pairs)."""
    L = dk.shape[-1]
    small, large = _powers(a, L)
    weighted = torch.stack([dk, dk * torch.arange(L, dtype=dk.dtype, device=dk.device)], dim=1)
    count, width = large.shape[1], small.shape[1]
    blocks = F.pad(weighted, (0, count * width - L)).view(len(dk), -1, width)
    ends = (blocks @ torch.view_as_real(small).flatten(-2)).unflatten(-1, (-1, 2))
    ends = torch.view_as_complex(ends).unflatten(1, (2, dk.shape[1], count))
    return (ends * large[:, None, None]).sum(3).unbind(1)


def _powers(a: Tensor, L: int) -> tuple[Tensor, Tensor]:
    """exp(j a) for j < width and exp(i width a) for i width < L: (heads, width or count, pairs)."""
    width = math.isqrt(L - 1) + 1
    positions = torch.arange(width, device=a.device, dtype=torch.float64)
    return _exp(a, positions), _exp(a, positions[: -(-L // width)] * width)


def _exp(a: Tensor, positions: Tensor) -> Tensor:
    """exp(position a), the phases reduced to a turn before they are rounded."""
    turns = positions[:, None] * (a.imag.double() / (2 * math.pi))[:, None]
    angles = (turns - turns.round()).to(a.real.dtype) * (2 * math.pi)
    return torch.polar(torch.exp(a.real[:, None] * positions[:, None].to(a.real.dtype)), angles)
