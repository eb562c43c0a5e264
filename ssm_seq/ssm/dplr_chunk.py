"""S4's convolution with the state carried: what lets a DPLR system walk a long sequence chunk by chunk.

The generating function that gives the kernel (`ssm_seq.ssm.kernel`) gives the rest too. What a state x still
says, C Abar^(k+1) x, is the kernel of the system with Bbar = Abar x, which is the bilinear Bbar of
B = (1/delta + A/2) x. And the state after L inputs, the sum of Abar^(L-1-j) Bbar u_j, is a sum over the
circle of the resolvent times the transform of u backwards. Only Abar^L is ever formed.
"""

import torch
from torch import Tensor

from ssm_seq.ssm.checks import check_size, time_step
from ssm_seq.ssm.discretise import bilinear
from ssm_seq.ssm.kernel import SHRINKAGE, circle, kernel_from_truncated, resolvent
from ssm_seq.ssm.matrices import DPLR, power, product


def dplr_chunk(
    A: DPLR, B: Tensor, C: Tensor, delta: Tensor | float, u: Tensor, x: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """The bilinear discretisation of a real SISO system over chunks u that follow the states x.

    O(N^3 log L + (N + batch) L log L) for each head; N x L numbers at once.

    Args:
        A, B, C: continuous, the modes in conjugate pairs: Lambda (..., N), P, Q (..., N, r), B (..., N, 1),
            C (..., 1, N), complex.
        u: (..., batch, L), real. x: (..., N, batch), complex, or None for zero.

    Returns:
        y like u, and the state after it, (..., N, batch).

    Raises:
        ValueError: L = 0, delta <= 0, an unstable A.
    """
    L = u.shape[-1]
    check_size("L", L)
    last = power(bilinear(A, B, delta)[0], L)
    Ctilde = C - SHRINKAGE * (C @ last)
    columns = B
    if x is not None:
        step = time_step(delta, u.dtype, u.device)[..., None, None]
        columns = torch.cat([B.expand(*x.shape[:-1], 1), x / step + product(A, x) / 2], dim=-1)
    rows = kernel_from_truncated(A, columns, Ctilde, delta, L, real=True)[..., 0, :].mT  # (..., 1 + batch, L)
    size = 2 ** (2 * L - 1).bit_length()
    y = torch.fft.irfft(torch.fft.rfft(u, n=size) * torch.fft.rfft(rows[..., :1, :], n=size), n=size)[..., :L]
    entered = _entered(A, B, delta, u, last)
    return (y, entered) if x is None else (y + rows[..., 1:, :], last @ x + entered)


def _entered(A: DPLR, B: Tensor, delta: Tensor | float, u: Tensor, last: Tensor) -> Tensor:
    """Sum over j of Abar^(L-1-j) Bbar u_j, (..., N, batch), given last = Abar^L.

    By the inverse transform, Abar^k Bbar rho^k is the mean over the points z_j of
    (I - rho^L Abar^L) (I - z_j Abar)^-1 Bbar w^(jk), w = exp(2 pi i / L).
    """
    L = u.shape[-1]
    growth = SHRINKAGE ** -(torch.arange(L, dtype=torch.float64, device=u.device) / L)
    transform = torch.fft.ifft(u.flip(-1) * growth.to(u.dtype))  # of u_(L-1-k) rho^-k, (..., batch, J)
    cauchy, core = resolvent(A, B, delta, circle(L, L, u.device))
    columns = B - A.P @ core.squeeze(-1).mT  # (..., N, J)
    total = (cauchy * columns) @ transform.mT
    return total - SHRINKAGE * (last @ total)
