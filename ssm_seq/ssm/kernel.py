"""The convolution kernel K_k = C Abar^k Bbar of a system, k < L, four ways.

                              operations                     needs
`kernel_by_powers`            O(N^2 L) dense, O(N L)         L products one after another
`kernel_by_doubling` (LSSL)   O(N^3 log L + N^2 L)           log2 L matrix products; N x L numbers
`kernel_dplr` (S4)            O(N L + L log L)               bilinear; O(N + L) numbers
`kernel_vandermonde` (S4D)    O(N L)                         diagonal Abar; O(N sqrt(L) + L) numbers

for one input and one output; all are differentiable. Shapes: Abar (..., N, N) or a structured form, Bbar
(..., N, M), C (..., P, N), kernel (..., L, P, M). The products of the last two are kernels of their own
(`ssm_seq.kernels.cauchy`, `vandermonde`) on any device.

Sources: Gu et al. 2021 (LSSL), section 3; Gu, Goel & Ré 2022 (S4), section 3.2 and appendix C.3; Gu, Gupta,
Goel & Ré 2022 (S4D), section 3.3.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from ssm_seq.kernels import cauchy, vandermonde
from ssm_seq.ssm.checks import check_pairs, check_size, time_step
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

# rho^L of the circle |z| = rho on which the generating function of L steps is evaluated. The paper takes
# the unit circle; there modes without damping (LegT, Fourier) divide by zero, and all lose digits: LegS in
# float32 is right to 4e-5 with it, to 6e-6 here, although the last coefficients are found at a tenth of their
# size.
SHRINKAGE = 0.1
OVERSAMPLING = 4  # points of the circle for each step where the generating function is that of all steps


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


def kernel_vandermonde(Abar: Diagonal, Bbar: Tensor, C: Tensor, L: int, real: bool = False) -> Tensor:
    """K_k = sum over n of C_n Lambda_n^k B_n: a product with the Vandermonde matrix Lambda_n^k (S4D, eq. 4).

    Args:
        real: one of each conjugate pair of modes is given; the result is the real kernel of both, 2 Re K_k.

    Raises:
        ValueError: L < 1.
    """
    check_size("L", L)
    Lambda, Bbar, C = in_one_dtype(Abar.Lambda, Bbar, C)
    complex_dtype = Lambda.dtype.to_complex()
    v = (C[..., :, None, :] * Bbar.mT[..., None, :, :]).to(complex_dtype)  # (..., P, M, N)
    # A mode that is 0 has no logarithm: it is felt for one step, and its gradient for two.
    zero = Lambda == 0
    exponent = torch.log(torch.where(zero, 1, Lambda).to(torch.complex128)).to(complex_dtype)
    short = torch.where(zero[..., None, None, :], v, 0)
    short = torch.stack([short.sum(-1), (short * Lambda[..., None, None, :]).sum(-1)], dim=-1)[..., :L]
    kernel = _over_modes(vandermonde, v - torch.where(zero[..., None, None, :], v, 0), exponent, L, real)
    short = 2 * short.real if real else short
    kernel = torch.cat([kernel[..., :2] + short, kernel[..., 2:]], dim=-1).movedim(-1, -3)
    return kernel if real or Lambda.is_complex() else kernel.real


def kernel_dplr(A: DPLR, B: Tensor, C: Tensor, delta: Tensor | float, L: int, real: bool = False) -> Tensor:
    """S4's kernel of the bilinear discretisation of (A, B, C) with the step delta, without powers of Abar.

    The generating function of all steps, sum of K_k z^k = C (I - z Abar)^-1 Bbar, at J = 4 L points of the
    circle |z| = rho gives the sums K_k rho^k + K_(k+J) rho^(k+J) + ...: the first term to eps^(4/5), if
    rho^L = eps^(1/5) (eps: the rounding error). No Ctilde is needed, and so no power of Abar.

    Args:
        A, B, C: continuous; Lambda (..., N), P and Q (..., N, r), B (..., N, M), C (..., P, N).
        real: the modes come in conjugate pairs, the second half of N the conjugates of the first (as `nplr`
            and `with_conjugates` order them), so that the kernel is real; half of the work, real result.

    Raises:
        ValueError: L < 1, delta <= 0, an unstable A, an odd N of a real system.
    """
    check_size("L", L)
    eps = torch.finfo(in_one_dtype(*A, B, C)[0].dtype).eps
    return _coefficients(A, B, C, delta, L, OVERSAMPLING * L, eps ** (1 / (OVERSAMPLING + 1)), real)


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

    sum over k < L of K_k z^k = Ctilde (I - z Abar)^-1 Bbar at z = rho w, w^L = 1: a quarter of the points
    that `kernel_dplr` takes. Arguments and errors are the same.
    """
    check_size("L", L)
    return _coefficients(A, B, Ctilde, delta, L, L, SHRINKAGE, real)


def _coefficients(
    A: DPLR, B: Tensor, C: Tensor, delta: Tensor | float, L: int, J: int, shrinkage: float, real: bool
) -> Tensor:
    """The first L coefficients of C (I - z Abar)^-1 Bbar from its values at J points, rho^L = shrinkage.

    By an inverse FFT, which takes the values at rho exp(-2 pi i j / J) to the coefficients times rho^k.
    """
    check_stable(A)
    device = B.device
    angles = -2 * math.pi / J * torch.arange(J // 2 + 1 if real else J, dtype=torch.float64, device=device)
    z = torch.polar(torch.full_like(angles, shrinkage ** (1 / L)), angles)
    values = _generating_function(A, B, C, delta, z, real)
    kernel = torch.fft.irfft(values, n=J) if real else torch.fft.ifft(values)
    growth = shrinkage ** -(torch.arange(L, dtype=torch.float64, device=device) / L)
    return (kernel[..., :L] * growth.to(kernel.real.dtype)).movedim(-1, -3)


def _generating_function(
    A: DPLR, B: Tensor, C: Tensor, delta: Tensor | float, z: Tensor, real: bool
) -> Tensor:
    """C (I - z Abar)^-1 Bbar of the bilinear Abar and Bbar at points z (J,): (..., P, M, J).

    With s = (1 - z) / (1 + z) and D = (s - delta/2 Lambda)^-1, which is diagonal, it is

        delta / (1 + z) [C D B - delta/2 C D P (I + delta/2 Q^* D P)^-1 Q^* D B]

    by Woodbury's identity: the Schur complement of a matrix whose blocks are Cauchy products, taken one
    column of P after the other. Pivots are not searched for: Re D > 0, so that with Q = P none can vanish.
    """
    Lambda, P, Q, B, C = in_one_dtype(*A, B, C)
    if real:
        check_pairs(Lambda.shape[-1])
        half = Lambda.shape[-1] // 2
        Lambda, P, Q, B, C = (
            Lambda[..., :half],
            P[..., :half, :],
            Q[..., :half, :],
            B[..., :half, :],
            C[..., :half],
        )
    rank, step = P.shape[-1], time_step(delta, Lambda.real.dtype, Lambda.device)
    half_step = step[..., None, None] / 2
    heads = torch.broadcast_shapes(step.shape, Lambda.shape[:-1], *(part.shape[:-2] for part in (P, Q, B, C)))
    left = torch.cat([part.expand(*heads, *part.shape[-2:]) for part in (C, half_step * Q.mH)], dim=-2)
    right = torch.cat([part.expand(*heads, *part.shape[-2:]) for part in (B, P)], dim=-1)
    numerators = left[..., :, None, :] * right.mT[..., None, :, :]
    points = ((1 - z) / (1 + z)).to(Lambda.dtype)  # rounded after the difference: near z = 1 it would be lost
    blocks = _over_modes(cauchy, numerators, half_step[..., 0] * Lambda, points, real)
    for _ in range(rank):
        corner = blocks[..., -1:, -1:, :] + 1
        blocks = blocks[..., :-1, :-1, :] - blocks[..., :-1, -1:, :] * blocks[..., -1:, :-1, :] / corner
    return half_step[..., None] * (2 / (1 + z)).to(Lambda.dtype) * blocks


def _over_modes(
    kernel: Callable[..., Tensor], v: Tensor, poles: Tensor, points: Tensor | int, pairs: bool
) -> Tensor:
    """A product of v (..., P, M, N) with a Cauchy or Vandermonde matrix: (..., P, M, points).

    The kernels take one mode of each pair and add its conjugate. That goes out again where the modes come
    without (not `pairs`): the conjugates of v and i v have opposite signs.
    """
    P, M = v.shape[-3:-1]
    rows = v.flatten(-3, -2)
    if not pairs:
        rows = torch.cat([rows, -1j * rows], dim=-2)
    poles = poles.expand(*rows.shape[:-2], poles.shape[-1])
    k = kernel(rows, poles, points)
    if not pairs:
        k = (k[..., : P * M, :] + 1j * k[..., P * M :, :]) / 2
    return k.unflatten(-2, (P, M))
