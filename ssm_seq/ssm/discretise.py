"""From x'(t) = A x(t) + B u(t) to x_k = Abar x_(k-1) + Bbar u_k with the time step delta.

delta is a time scale: a step delta of (A, B) is a step delta / theta of (theta A, theta B). Every function
takes A dense (..., N, N), `Diagonal` or `DPLR`, B (..., N, M) and delta > 0, a number or a tensor that
broadcasts against the leading dimensions; it gives Abar in the same form (zero-order hold of a DPLR matrix:
dense) and Bbar (..., N, M).

All raise ValueError for delta <= 0 and for an A with which x' = A x grows.

Source: Gu 2023, thesis, section 2.3; Gu, Dao, Ermon, Rudra & Ré 2020 (HiPPO), appendix B.3.
"""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ssm_seq.ssm.checks import time_step
from ssm_seq.ssm.matrices import DPLR, Diagonal, StateMatrix, cast, check_stable, dense, dtype_of

Method = Literal["forward_euler", "backward_euler", "bilinear", "zero_order_hold"]


def discretise(
    A: StateMatrix, B: Tensor, delta: Tensor | float, method: Method = "zero_order_hold"
) -> tuple[StateMatrix, Tensor]:
    """Abar, Bbar by the method of this name; ValueError if there is none."""
    if method not in METHODS:
        raise ValueError(f"method={method!r}: there is no such method; known: {', '.join(METHODS)}")
    return METHODS[method](A, B, delta)


def forward_euler(A: StateMatrix, B: Tensor, delta: Tensor | float) -> tuple[StateMatrix, Tensor]:
    """Abar = I + delta A, Bbar = delta B. First order; grows where |1 + delta lambda| > 1 though A decays."""
    return generalised_bilinear(A, B, delta, ALPHA["forward_euler"])


def backward_euler(A: StateMatrix, B: Tensor, delta: Tensor | float) -> tuple[StateMatrix, Tensor]:
    """Abar = (I - delta A)^-1, Bbar = Abar delta B. First order; decays for every delta if A does."""
    return generalised_bilinear(A, B, delta, ALPHA["backward_euler"])


def bilinear(A: StateMatrix, B: Tensor, delta: Tensor | float) -> tuple[StateMatrix, Tensor]:
    """Tustin: Abar = (I - delta/2 A)^-1 (I + delta/2 A), Bbar = (I - delta/2 A)^-1 delta B. Second order.

    It maps the left half-plane onto the unit disc: Abar decays exactly where A does. S4 uses it.
    """
    return generalised_bilinear(A, B, delta, ALPHA["bilinear"])


def generalised_bilinear(
    A: StateMatrix, B: Tensor, delta: Tensor | float, alpha: float = 0.5
) -> tuple[StateMatrix, Tensor]:
    """Abar = (I - alpha delta A)^-1 (I + (1 - alpha) delta A), Bbar = (I - alpha delta A)^-1 delta B.

    The derivative over a step is taken at its start (weight 1 - alpha) and its end (weight alpha).

    Raises:
        ValueError: also for alpha outside [0, 1].
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha={alpha}: expected a weight from 0 (forward Euler) to 1 (backward Euler)")
    A, B, step = _checked(A, B, delta)
    match A:
        case Diagonal(Lambda):
            D = 1 / (1 - alpha * step * Lambda)
            return Diagonal(D * (1 + (1 - alpha) * step * Lambda)), step[..., None] * D[..., None] * B
        case DPLR():
            return _generalised_bilinear_dplr(A, B, step, alpha)
    step = step[..., None]
    identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
    implicit, explicit = identity - alpha * step * A, identity + (1 - alpha) * step * A
    return torch.linalg.solve(implicit, explicit), torch.linalg.solve(implicit, step * B)


def _generalised_bilinear_dplr(A: DPLR, B: Tensor, step: Tensor, alpha: float) -> tuple[DPLR, Tensor]:
    """Abar of a DPLR matrix is DPLR again, by Woodbury's identity: with D = (1 - alpha delta Lambda)^-1 and
    W = (I + alpha delta Q^* D P)^-1 (r x r), (I - alpha delta A)^-1 = D - alpha delta D P W Q^* D,
    and Abar = Lambda-bar - (delta D P W) (D^* Q)^*."""
    Lambda, P, Q = A
    D = 1 / (1 - alpha * step * Lambda)
    step = step[..., None]
    DP, QD = D[..., None] * P, Q.mH * D[..., None, :]
    identity = torch.eye(P.shape[-1], dtype=P.dtype, device=P.device)
    DPW = torch.linalg.solve(identity + alpha * step * (Q.mH @ DP), step * DP, left=False)
    Abar = DPLR(D * (1 + (1 - alpha) * step[..., 0] * Lambda), DPW, QD.mH)
    return Abar, step * (D[..., None] * B - alpha * (DPW @ (QD @ B)))


def zero_order_hold(A: StateMatrix, B: Tensor, delta: Tensor | float) -> tuple[StateMatrix, Tensor]:
    """Abar = exp(delta A), Bbar = A^-1 (exp(delta A) - I) B: exact for an input that is constant over a step.

    Holds for singular A too (Bbar is the integral of exp(sA) B over a step). Dense and DPLR: O((N + M)^3);
    the exponential of a DPLR matrix has no such structure and comes dense.
    """
    A, B, step = _checked(A, B, delta)
    if isinstance(A, Diagonal):
        exponent = step * A.Lambda
        zero = exponent == 0
        ratio = torch.where(zero, 1, torch.expm1(exponent) / torch.where(zero, 1, exponent))
        return Diagonal(torch.exp(exponent)), (step * ratio)[..., None] * B
    A, step = dense(A), step[..., None]
    N, M = B.shape[-2:]
    shape = torch.broadcast_shapes(A.shape[:-2], B.shape[:-2], step.shape[:-2])
    # exp([[A, B], [0, 0]]) = [[exp A, integral of exp(sA) B], [0, I]].
    rows = torch.cat([(step * A).expand(*shape, N, N), (step * B).expand(*shape, N, M)], dim=-1)
    both = torch.linalg.matrix_exp(torch.cat([rows, rows.new_zeros(*shape, M, N + M)], dim=-2))
    return both[..., :N, :N], both[..., :N, N:]


ALPHA = {"forward_euler": 0.0, "backward_euler": 1.0, "bilinear": 0.5}  # the methods of one family
METHODS: dict[str, Callable[..., tuple[StateMatrix, Tensor]]] = {
    "forward_euler": forward_euler,
    "backward_euler": backward_euler,
    "bilinear": bilinear,
    "zero_order_hold": zero_order_hold,
}


def _checked(A: StateMatrix, B: Tensor, delta: Tensor | float) -> tuple[StateMatrix, Tensor, Tensor]:
    """A and B in one dtype, and delta (..., 1), real, to broadcast against vectors of N."""
    check_stable(A)
    dtype = torch.promote_types(dtype_of(A), B.dtype)
    step = time_step(delta, dtype.to_real(), B.device)
    return cast(A, dtype), B.to(dtype), step[..., None]
