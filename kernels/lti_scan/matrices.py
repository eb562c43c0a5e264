"""The small matrices that take a chunk of `size` positions at once, each channel for itself.

With the state x before a chunk and its inputs u_0 ... u_(size - 1),

    y_t   = sum over s <= t of lags[t - s] u_s + sum over n of Re(conj(out[n, t]) x_n)
    x'_n  = Abar_n^size x_n + sum over t of into[n, t] u_t

They are made in float64, where the powers of Abar lose nothing to their phases, and rounded once. Autograd
takes the gradients of the matrices back to those of the system.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor


class Matrices(NamedTuple):
    """lags: real (channels, size). into, out: complex (channels, pairs, size)."""

    lags: Tensor
    into: Tensor
    out: Tensor


def matrices(
    exponent: Tensor, B: Tensor, C: Tensor, D: Tensor | None, size: int, dtype: torch.dtype
) -> Matrices:
    """Of the system of the definition, rounded to the real `dtype` and its complex kin."""
    rounded = torch.promote_types(dtype, torch.complex64)
    B, C = B.to(torch.complex128), C.to(torch.complex128)
    powers = power(exponent, torch.arange(size + 1, device=exponent.device))
    into = B[..., None] * powers[..., :-1]  # backwards in time
    lags = 2 * torch.einsum("hn,hnt->ht", C, into).real
    if D is not None:
        lags = torch.cat([lags[:, :1] + D[:, None], lags[:, 1:]], dim=1)
    out = 2 * (C[..., None] * powers[..., 1:]).conj()
    return Matrices(lags.to(dtype), into.flip(-1).to(rounded), out.resolve_conj().to(rounded))


def power(exponent: Tensor, steps: Tensor | int) -> Tensor:
    """Abar^steps, complex128; a tensor of steps makes a last axis."""
    exponent = exponent.to(torch.complex128)
    if isinstance(steps, Tensor):
        exponent = exponent[..., None]
    return torch.polar(torch.exp(exponent.real * steps), exponent.imag * steps)


def toeplitz(lags: Tensor) -> Tensor:
    """(channels, size, size) with lags[t - s] at [s, t], zero for t < s."""
    place = torch.arange(lags.shape[1], device=lags.device)
    distance = place - place[:, None]
    return lags[:, distance.clamp(min=0)].where(distance >= 0, 0.0)


def diagonal_sums(matrix: Tensor) -> Tensor:
    """The adjoint of `toeplitz`: sums over all [s, s + lag], (channels, size)."""
    size = matrix.shape[1]
    # Rows of 2 size numbers read as rows of one more: the diagonals become columns.
    flat = F.pad(F.pad(matrix, (0, size)).flatten(1), (0, size))
    return flat.unflatten(1, (size, 2 * size + 1))[..., :size].sum(1)
