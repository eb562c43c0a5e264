"""Initial eigenvalues of diagonal state spaces.

Complex ones are one of each conjugate pair, Im >= 0, (N/2,) complex128 for a state of N real numbers.
Source: Gu, Gupta, Goel & Ré 2022, "On the Parameterization and Initialization of Diagonal State Space Models"
(S4D), section 4
"""

import math

import torch
from torch import Tensor

from ssm_seq.ssm.checks import check_pairs, check_size
from ssm_seq.ssm.nplr import conjugate_half, nplr


def s4d_legs(N: int) -> tuple[Tensor, Tensor]:
    """S4D-LegS: the diagonal part of HiPPO-LegS and half of its B (theorem 3).

    Lambda (N/2,) and B (N/2, 1): as N grows, exp(t Lambda) B in HiPPO's coordinates tends to LegS's basis.
    """
    check_pairs(N)
    system = conjugate_half(nplr("legs", N))
    return system.A.Lambda, system.B / 2


def s4d_lin(N: int) -> Tensor:
    """S4D-Lin: -1/2 + i pi n, the frequencies of a Fourier series."""
    check_pairs(N)
    n = torch.arange(N // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), math.pi * n)


def s4d_inv(N: int) -> Tensor:
    """S4D-Inv: -1/2 + i N/pi (N / (2n + 1) - 1), which the eigenvalues of S4D-LegS follow."""
    check_pairs(N)
    n = torch.arange(N // 2, dtype=torch.float64)
    return torch.complex(torch.full_like(n, -0.5), N / math.pi * (N / (2 * n + 1) - 1))


def s4d_real(N: int) -> Tensor:
    """S4D-Real: -(n + 1), the eigenvalues of HiPPO-LegS, (N,) float64. Mamba starts from them."""
    check_size("N", N)
    return -torch.arange(1, N + 1, dtype=torch.float64)
