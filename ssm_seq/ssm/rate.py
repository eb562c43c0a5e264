"""A discrete system moved to another sampling rate.

rate is the new time step divided by the old: 2 for a signal of which every second sample is kept.

Two questions have two exact answers. The continuous system behind (Abar, Bbar), discretised by the same
method with the other step: `transfer`. The states of this very discrete system at every rate-th sample while
the input is held: `decimate`. They agree for zero-order hold, K(2 delta)[k] = K(delta)[2k] + K(delta)[2k +
1]; for the other methods they differ by the method's error.
"""

import torch
from scipy.linalg import logm
from torch import Tensor

from ssm_seq.ssm.checks import check_rate, check_size, time_step
from ssm_seq.ssm.discretise import ALPHA, METHODS, Method, discretise
from ssm_seq.ssm.matrices import Diagonal, StateMatrix, dense, power, product


def transfer(
    Abar: StateMatrix, Bbar: Tensor, rate: float, method: Method = "zero_order_hold"
) -> tuple[StateMatrix, Tensor]:
    """Abar, Bbar of the same continuous system with the time step times `rate`.

    Args:
        Abar, Bbar: discretised by `method`, of any time step. A DPLR matrix comes back dense.

    Raises:
        ValueError: rate <= 0; what `undo` raises.
    """
    check_rate(rate)
    A, B = undo(Abar, Bbar, 1.0, method)
    return discretise(A, B, rate, method)


def undo(
    Abar: StateMatrix, Bbar: Tensor, delta: Tensor | float, method: Method = "zero_order_hold"
) -> tuple[StateMatrix, Tensor]:
    """The continuous A, B that `method` with the step `delta` turns into Abar, Bbar.

    Zero-order hold: the principal logarithm, so the frequencies of A must lie below the Nyquist frequency,
    |Im lambda| < pi / delta; for a dense matrix by scipy on the CPU, one (N, N) at a time, without gradients.

    Raises:
        ValueError: delta <= 0; no such method; Abar has an eigenvalue that the method never gives.
    """
    step = time_step(delta, Bbar.dtype.to_real(), Bbar.device)[..., None]
    if method not in METHODS:
        raise ValueError(f"method={method!r}: there is no such method; known: {', '.join(METHODS)}")
    if not isinstance(Abar, Diagonal):
        Abar = dense(Abar)
    if method == "zero_order_hold":
        return _undo_hold(Abar, Bbar, step)
    return _undo_bilinear(Abar, Bbar, step, ALPHA[method])


def decimate(Abar: StateMatrix, Bbar: Tensor, rate: int) -> tuple[StateMatrix, Tensor]:
    """Abar^rate (DPLR: dense) and (I + Abar + ... + Abar^(rate-1)) Bbar: `rate` steps with one input as one.

    Raises:
        ValueError: rate is no whole number of 1 or more.
    """
    check_rate(rate)
    check_size("rate", rate)
    if rate != int(rate):
        raise ValueError(f"rate={rate}: every rate-th sample is kept, expected a whole number")
    total = Bbar
    for _ in range(int(rate) - 1):
        total = Bbar + product(Abar, total)
    return power(Abar, int(rate)), total


def _undo_bilinear(
    Abar: Diagonal | Tensor, Bbar: Tensor, step: Tensor, alpha: float
) -> tuple[StateMatrix, Tensor]:
    """delta A = (Abar - I) ((1 - alpha) I + alpha Abar)^-1, delta B = (I - alpha delta A) Bbar."""
    if isinstance(Abar, Diagonal):
        inner = 1 - alpha + alpha * Abar.Lambda
        _refuse(bool((inner == 0).any()), "an eigenvalue that no finite A has")
        A = (Abar.Lambda - 1) / inner
        return Diagonal(A / step), (1 - alpha * A)[..., None] * Bbar / step[..., None]
    step = step[..., None]
    identity = torch.eye(Abar.shape[-1], dtype=Abar.dtype, device=Abar.device)
    A, info = torch.linalg.solve_ex((1 - alpha) * identity + alpha * Abar, Abar - identity, left=False)
    _refuse(bool((info > 0).any()), "an eigenvalue that no finite A has")
    return A / step, (Bbar - alpha * A @ Bbar) / step


def _undo_hold(Abar: Diagonal | Tensor, Bbar: Tensor, step: Tensor) -> tuple[StateMatrix, Tensor]:
    """delta A = log Abar, and Bbar is the integral of exp(sA) B over a step."""
    if isinstance(Abar, Diagonal):
        _refuse(bool((Abar.Lambda == 0).any()), "the eigenvalue 0, which no exponential has")
        values = Abar.Lambda if Abar.Lambda.is_complex() else Abar.Lambda.to(Abar.Lambda.dtype.to_complex())
        exponent = torch.log(values)
        if not Abar.Lambda.is_complex():
            _refuse(bool((Abar.Lambda < 0).any()), "a negative eigenvalue, which no real exponential has")
            exponent = exponent.real
        one = exponent == 0
        ratio = torch.where(one, 1, torch.where(one, 1, exponent) / torch.expm1(exponent))
        return Diagonal(exponent / step), (ratio / step)[..., None] * Bbar
    N, M = Bbar.shape[-2:]
    shape = torch.broadcast_shapes(Abar.shape[:-2], Bbar.shape[:-2])
    rows = torch.cat([Abar.expand(*shape, N, N), Bbar.expand(*shape, N, M)], dim=-1)
    bottom = torch.cat([rows.new_zeros(M, N), torch.eye(M, dtype=rows.dtype, device=rows.device)], dim=-1)
    both = torch.cat([rows, bottom.expand(*shape, M, N + M)], dim=-2).detach().cpu()
    logs = [torch.as_tensor(logm(matrix.numpy())) for matrix in both.reshape(-1, N + M, N + M)]
    _refuse(any(log.is_complex() and not rows.is_complex() for log in logs), "a negative eigenvalue")
    logs = torch.stack(logs).to(rows).reshape(both.shape)
    step = step[..., None]
    return logs[..., :N, :N] / step, logs[..., :N, N:] / step


def _refuse(wrong: bool, what: str) -> None:
    if wrong:
        raise ValueError(f"Abar: it has {what}; this method gave it from no continuous system")
