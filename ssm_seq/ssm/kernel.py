"""The convolution kernel K_k = C Abar^k Bbar of a system, k < L, four ways.

                              operations                     needs
`kernel_by_powers`            O(N^2 L) dense, O(N L)         L products one after another
`kernel_by_doubling` (LSSL)   O(N^3 log L + N^2 L)           log2 L matrix products; N x L numbers
`kernel_dplr` (S4)            O(N^3 log L + N L + L log L)   bilinear; no N^3 log L if Ctilde is given
`kernel_vandermonde` (S4D)    O(N L)                         diagonal Abar, any method

for one input and one output; all are differentiable. Shapes: Abar (..., N, N) or a structured form, Bbar
(..., N, M), C (..., P, N), kernel (..., L, P, M). The products of the last two hold N x L numbers at once.

Sources: Gu et al. 2021 (LSSL), section 3; Gu, Goel & Ré 2022 (S4), section 3.2 and appendix C.3; Gu, Gupta,
Goel & Ré 2022 (S4D), section 3.3.
"""

import math

import torch
from torch import Tensor

from ssm_seq.ssm.checks import check_size, time_step
from ssm_seq.ssm.discretise import bilinear
from ssm_seq.ssm.matrices import (
    DPLR,
    Diagonal,
    StateMatrix,
    check_stable,
    in_one_dtype,
    power,
    product,
)

# rho^L of the circle |z| = rho on which S4's generating function is evaluated. The paper takes the unit
# circle; there modes without damping (LegT, Fourier) divide by zero, and all lose digits: LegS in float32 is
# right to 4e-5 with it, to 6e-6 here, although the last coefficients are found at a tenth of their size.
SHRINKAGE = 0.1


def kernel_by_powers(Abar: StateMatrix, Bbar: Tensor, C: Tensor, L: int) -> Tensor:
    """The definition: x_0 = Bbar, x_k = Abar x_(k-1), K_k = C x_k.

    Raises:
        ValueError: L < 1.
    """
    check_size("L", L)
    X, kernel = Bbar, []
    for _ in range(L):
        kernel.append(product(C, X))
        X = product(Abar, X)
    return torch.stack(kernel, dim=-3)


def kernel_by_doubling(Abar: Tensor, Bbar: Tensor, C: Tensor, L: int) -> Tensor:
    """The Krylov matrix [B, Abar B, Abar^2 B, ...] of a dense Abar, each product with Abar^(2^i) doubling it.

    Raises:
        ValueError: L < 1.
    """
    check_size("L", L)
    Abar, krylov, C = in_one_dtype(Abar, Bbar, C)
    M = krylov.shape[-1]
    while krylov.shape[-1] < L * M:
        krylov = torch.cat([krylov, Abar @ krylov], dim=-1)
        Abar = Abar @ Abar
    return (C @ krylov[..., : L * M]).unflatten(-1, (L, M)).transpose(-3, -2)


def kernel_vandermonde(Abar: Diagonal, Bbar: Tensor, C: Tensor, L: int) -> Tensor:
    """K_k = sum over n of C_n Lambda_n^k B_n: a product with the Vandermonde matrix Lambda_n^k (S4D, eq. 4).

    Raises:
        ValueError: L < 1.
    """
    check_size("L", L)
    Lambda, Bbar, C = in_one_dtype(Abar.Lambda, Bbar, C)
    steps = Lambda[..., None].expand(*Lambda.shape, L - 1)
    powers = torch.cumprod(torch.cat([torch.ones_like(Lambda)[..., None], steps], dim=-1), dim=-1)
    return torch.einsum("...pn,...nl,...nm->...lpm", C, powers, Bbar)


def kernel_dplr(A: DPLR, B: Tensor, C: Tensor, delta: Tensor | float, L: int, real: bool = False) -> Tensor:
    """S4's kernel of the bilinear discretisation of (A, B, C) with the step delta, without powers of Abar.

    Args:
        A, B, C: continuous; Lambda (..., N), P and Q (..., N, r), B (..., N, M), C (..., P, N).
        real: the modes come in conjugate pairs, so that the kernel is real; half of the work, real result.

    Raises:
        ValueError: L < 1, delta <= 0, an unstable A.
    """
    truncated = truncated_C(A, C, delta, L)
    return kernel_from_truncated(A, B, truncated, delta, L, real)


def truncated_C(A: DPLR, C: Tensor, delta: Tensor | float, L: int) -> Tensor:
    """Ctilde = C (I - rho^L Abar^L), (..., P, N): with it the generating function of L steps is a resolvent.

    S4 learns Ctilde, with rho = 1, in the place of C.

    Raises:
        ValueError: L < 1, delta <= 0, an unstable A.
    """
    check_size("L", L)
    Abar, _ = bilinear(A, A.P, delta)
    C, last = in_one_dtype(C, power(Abar, L))
    return C - SHRINKAGE * (C @ last)


def kernel_from_truncated(
    A: DPLR, B: Tensor, Ctilde: Tensor, delta: Tensor | float, L: int, real: bool = False
) -> Tensor:
    """The kernel from Ctilde, by its generating function at the roots of unity (S4, algorithm 1).

    sum over k < L of K_k z^k = Ctilde (I - z Abar)^-1 Bbar at z = rho w, w^L = 1, and an inverse FFT takes
    the values to the coefficients K_k rho^k. With the bilinear Abar and Bbar the right side is 2 delta Ctilde
    [R(z) + c(z) P Q^*]^-1 B, where R(z) = 2 (1 - z) - delta (1 + z) Lambda is diagonal and c(z) = delta (1 +
    z). Woodbury's identity leaves the inverses of R and of an r x r matrix, and four products with the Cauchy
    matrix 1 / R_n(z_j). Written like this nothing is divided by 1 + z, which is 0 at z = -1.

    Raises:
        ValueError: L < 1, delta <= 0, an unstable A.
    """
    check_size("L", L)
    check_stable(A)
    Lambda, P, Q, B, Ctilde = in_one_dtype(*A, B, Ctilde)
    cauchy, core = resolvent(DPLR(Lambda, P, Q), B, delta, circle(L, L // 2 + 1 if real else L, B.device))
    values = _through(Ctilde, cauchy, B) - _through(Ctilde, cauchy, P) @ core
    kernel = torch.fft.irfft(values, n=L, dim=-3) if real else torch.fft.ifft(values, dim=-3)
    growth = SHRINKAGE ** -(torch.arange(L, dtype=torch.float64, device=B.device) / L)
    return kernel * growth.to(kernel.real.dtype)[:, None, None]


def resolvent(A: DPLR, B: Tensor, delta: Tensor | float, z: Tensor) -> tuple[Tensor, Tensor]:
    """(I - z Abar)^-1 Bbar = cauchy (B - P core) at points z (J,), by Woodbury's identity.

    Returns:
        cauchy (..., N, J), the diagonal 2 delta / R(z), and core (..., J, r, M).

    Raises:
        ValueError: delta <= 0.
    """
    Lambda, P, Q = A
    step = time_step(delta, Lambda.real.dtype, Lambda.device)[..., None]
    # Rounded to float32 after the difference: near z = 1 it would be lost.
    difference, total = (1 - z).to(Lambda.dtype), (1 + z).to(Lambda.dtype)
    R = 2 * difference - step[..., None] * total * Lambda[..., None]
    cauchy = 2 * step[..., None] / R
    half = total[:, None, None] / 2  # c(z) / (2 delta)
    identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    core = torch.linalg.solve(identity + half * _through(Q.mH, cauchy, P), half * _through(Q.mH, cauchy, B))
    return cauchy, core


def circle(L: int, count: int, device: torch.device) -> Tensor:
    """rho exp(-2 pi i j / L) for j < count, complex128: where the generating function is evaluated."""
    angles = -2 * math.pi / L * torch.arange(count, dtype=torch.float64, device=device)
    return torch.polar(torch.full_like(angles, SHRINKAGE ** (1 / L)), angles)


def _through(left: Tensor, cauchy: Tensor, right: Tensor) -> Tensor:
    """left diag(cauchy_j) right at every point j: (..., a, N), (..., N, J), (..., N, b) -> (..., J, a, b)."""
    return torch.einsum("...an,...nj,...nb->...jab", left, cauchy, right)
