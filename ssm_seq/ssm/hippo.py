"""HiPPO matrices: the systems whose states are coefficients of the input's past in an orthogonal basis.

Each function gives A (N, N) and B (N, 1), float64, of x' = A x + B u. The state is
x_n(t) = integral over s >= 0 of u(t - s) K_n(s) ds, with K(s) = exp(sA) B; what K is, each docstring says
(`ssm_seq.ssm.basis` evaluates the functions). Windows have length 1 and weights the time constant 1; delta
sets their real length (`ssm_seq.ssm.discretise`).

Sources: Gu, Dao, Ermon, Rudra & Ré 2020, "HiPPO" (LegT, LagT, LegS); Gu, Johnson, Timalsina, Rudra & Ré 2022,
"How to Train Your HiPPO" (LegS as a time-invariant system, Fourier); Gu 2023,
thesis, "Modeling Sequences with Structured State Spaces".
"""

import math
from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ssm_seq.ssm.checks import check_pairs, check_size

Measure = Literal["legs", "legt", "lagt", "fourier_truncated", "fourier_decayed", "fourier_diagonal"]


def hippo(measure: Measure, N: int) -> tuple[Tensor, Tensor]:
    """A (N, N) and B (N, 1) of the measure of this name.

    Raises:
        ValueError: no such measure; N < 1; an odd N for the Fourier measures.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure={measure!r}: there is no such measure; known: {', '.join(MEASURES)}")
    return MEASURES[measure](N)


def legs(N: int) -> tuple[Tensor, Tensor]:
    """Scaled Legendre (HiPPO theorem 2): A_nk = -sqrt((2n + 1)(2k + 1)) below the diagonal, -(n + 1) on it.

    In x' = (A x + B u) / t the past [0, t] weighs the same everywhere (`project_scaled`). In x' = A x + B u
    the basis is K_n(s) = e^-s sqrt(2n + 1) P_n(2 e^-s - 1): Legendre polynomials warped exponentially.
    """
    r = _legendre_norms(N)
    A = -torch.tril(torch.outer(r, r), -1) - torch.diag(torch.arange(1, N + 1, dtype=torch.float64))
    return A, r[:, None]


def legt(N: int) -> tuple[Tensor, Tensor]:
    """Translated Legendre (HiPPO theorem 1, orthonormal scaling): the last window of length 1, all alike.

    A_nk = -sqrt((2n + 1)(2k + 1)) times 1 for k <= n, (-1)^(n-k) for k > n; K_n(s) tends to
    sqrt(2n + 1) P_n(1 - 2s) on [0, 1] and to 0 beyond as N grows. What leaves the window, u(t - 1), is read
    off the approximation itself.
    """
    r = _legendre_norms(N)
    n = torch.arange(N)
    signs = 1.0 - 2.0 * ((n[:, None] - n) % 2)
    return -torch.outer(r, r) * torch.where(n <= n[:, None], 1.0, signs), r[:, None]


def lagt(N: int) -> tuple[Tensor, Tensor]:
    """Translated Laguerre (HiPPO theorem 1, alpha = 0): the whole past with weight e^-s.

    A_nk = -1 for k <= n, else 0; K_n(s) = e^-s L_n(s).
    """
    check_size("N", N)
    ones = torch.ones(N, N, dtype=torch.float64)
    return -torch.tril(ones), ones[:, :1]


def fourier_truncated(N: int) -> tuple[Tensor, Tensor]:
    """FouT ("How to Train Your HiPPO"): Fourier series on the last window of length 1.

    States come in pairs m = 0 ... N/2 - 1: sqrt(2) cos(2 pi m s), sqrt(2) sin(2 pi m s); the constant's
    partner is sin(0) = 0, a state that stays 0. A series gives the mean of the window's two ends at each, so
    u(t - 1) is estimated as twice that less u(t): A = S - 2 p p^T, B = 2 p, p the basis at s = 0.
    """
    S, p = _fourier(N)
    return S - 2 * p @ p.T, 2 * p


def fourier_decayed(N: int) -> tuple[Tensor, Tensor]:
    """Fourier series of windows of length 1, each past one at a third of the next one's weight.

    A = S - p p^T, B = p: the series' value at the end of the window, which is the mean of u(t) and u(t - 1),
    is taken for u(t - 1). What entered then doesn't leave whole: as N grows
    K_n(s) tends to 2/3 (1/3)^floor(s) times the basis function of `fourier_truncated`.
    """
    S, p = _fourier(N)
    return S - p @ p.T, p


def fourier_diagonal(N: int) -> tuple[Tensor, Tensor]:
    """FouD: A = S - I/2, normal, B = p; K_n(s) = e^(-s/2) times the basis function of `fourier_truncated`."""
    S, p = _fourier(N)
    return S - torch.eye(N, dtype=torch.float64) / 2, p


MEASURES: dict[str, Callable[[int], tuple[Tensor, Tensor]]] = {
    "legs": legs,
    "legt": legt,
    "lagt": lagt,
    "fourier_truncated": fourier_truncated,
    "fourier_decayed": fourier_decayed,
    "fourier_diagonal": fourier_diagonal,
}


def _legendre_norms(N: int) -> Tensor:
    """sqrt(2n + 1) for n < N: with them Legendre polynomials are orthonormal on a window of length 1."""
    check_size("N", N)
    return torch.sqrt(2 * torch.arange(N, dtype=torch.float64) + 1)


def _fourier(N: int) -> tuple[Tensor, Tensor]:
    """S (N, N): derivatives of the Fourier functions in terms of one another; p (N, 1): their values at 0."""
    check_pairs(N)
    frequencies = 2 * math.pi * torch.arange(N // 2, dtype=torch.float64)
    rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=torch.float64)  # cos' = -sin, sin' = cos
    p = torch.zeros(N, 1, dtype=torch.float64)
    p[::2] = math.sqrt(2)
    p[0] = 1
    return torch.block_diag(*(frequency * rotation for frequency in frequencies)), p
