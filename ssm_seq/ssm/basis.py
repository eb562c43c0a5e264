"""The orthogonal functions behind the HiPPO measures, at any lag s >= 0 into the past."""

import math

import torch
from torch import Tensor

from ssm_seq.ssm.checks import check_pairs, check_size
from ssm_seq.ssm.hippo import MEASURES, Measure


def basis(measure: Measure, N: int, s: Tensor) -> Tensor:
    """phi_n(s) with u(t - s) ~ sum over n of x_n(t) phi_n(s).

    Args:
        measure: `legt` and `fourier_truncated` on [0, 1], `lagt` and `legs` (time-invariant) on [0, inf).
        s: lags, any shape, float64.

    Returns:
        (*s.shape, N), like s in dtype.

    Raises:
        ValueError: N < 1, an odd N for Fourier, or a measure whose states are no coefficients of an
            orthogonal basis: `fourier_decayed` and `fourier_diagonal` add many windows up.
    """
    match measure:
        case "legs":
            return scaled_legendre(N, 2 * torch.exp(-s) - 1)
        case "legt":
            return scaled_legendre(N, 1 - 2 * s)
        case "lagt":
            return laguerre(N, s)
        case "fourier_truncated":
            return fourier(N, s)
    if measure in MEASURES:
        raise ValueError(f"measure={measure!r}: its states add windows up, no basis gives them back")
    raise ValueError(f"measure={measure!r}: there is no such measure; known: {', '.join(MEASURES)}")


def scaled_legendre(N: int, x: Tensor) -> Tensor:
    """sqrt(2n + 1) P_n(x), (*x.shape, N): orthonormal on [-1, 1] under the weight 1/2."""
    check_size("N", N)
    values = [torch.ones_like(x), x]
    for n in range(1, N - 1):
        values.append(((2 * n + 1) * x * values[n] - n * values[n - 1]) / (n + 1))
    norms = torch.sqrt(2 * torch.arange(N, dtype=x.dtype, device=x.device) + 1)
    return torch.stack(values[:N], dim=-1) * norms


def laguerre(N: int, s: Tensor) -> Tensor:
    """L_n(s), (*s.shape, N): orthonormal on [0, inf) under the weight e^-s."""
    check_size("N", N)
    values = [torch.ones_like(s), 1 - s]
    for n in range(1, N - 1):
        values.append(((2 * n + 1 - s) * values[n] - n * values[n - 1]) / (n + 1))
    return torch.stack(values[:N], dim=-1)


def fourier(N: int, s: Tensor) -> Tensor:
    """1, 0, then sqrt(2) cos(2 pi m s), sqrt(2) sin(2 pi m s), ..., (*s.shape, N): orthonormal on [0, 1]."""
    check_pairs(N)
    angles = 2 * math.pi * torch.arange(N // 2, dtype=s.dtype, device=s.device) * s[..., None]
    values = math.sqrt(2) * torch.stack([torch.cos(angles), torch.sin(angles)], dim=-1).flatten(-2)
    values[..., 0] = 1
    return values
