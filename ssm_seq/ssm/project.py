"""Online function approximation: N numbers that hold a signal's past, updated sample by sample.

The states of a HiPPO system are the coefficients of the past in an orthogonal basis; the basis times the
coefficients gives the past back (Gu, Dao, Ermon, Rudra & Ré 2020, "HiPPO"; Gu 2023, thesis, chapter 4).
"""

import math

import torch
from torch import Tensor

from ssm_seq.ssm.basis import basis, scaled_legendre
from ssm_seq.ssm.checks import check_size
from ssm_seq.ssm.discretise import ALPHA, METHODS, Method, discretise
from ssm_seq.ssm.hippo import Measure, hippo, legs
from ssm_seq.ssm.matrices import in_one_dtype


def project(u: Tensor, measure: Measure, N: int, delta: float, method: Method = "zero_order_hold") -> Tensor:
    """Coefficients of the past of u after every sample, under a measure that moves along with time.

    Args:
        u: (L, ...), samples of one or many signals; computed in float64.
        delta: time between samples, where the measure's window or time constant has length 1: 1 / delta
            samples are remembered.

    Returns:
        (L, ..., N) float64.

    Raises:
        ValueError: L = 0, delta <= 0, no such measure or method.
    """
    check_size("L", len(u))
    A, B = discretise(*hippo(measure, N), delta, method)
    drive = u.double()[..., None] * B[:, 0].to(u.device)
    A, x, coefficients = A.mT.to(u.device), torch.zeros_like(drive[0]), []
    for drive_k in drive:
        x = x @ A + drive_k
        coefficients.append(x)
    return torch.stack(coefficients)


def project_scaled(u: Tensor, N: int, method: Method = "bilinear") -> Tensor:
    """Coefficients of the whole past of u after every sample, HiPPO-LegS: no time scale is chosen.

    x' = (A x + B u) / t. With t in samples the k-th step (k = 1 ... L) has A / k and B / k: whatever the time
    between samples, it cancels (HiPPO, section 3). Zero-order hold takes t from k - 1 to k, where
    d x / d log t = A x + B u is time-invariant; it is exact for inputs that are constant between samples.

    Args:
        u: (L, ...), samples of one or many signals; computed in float64.

    Returns:
        (L, ..., N) float64: u over [0, k] is sum of x_n sqrt(2n + 1) P_n(2 t / k - 1).

    Raises:
        ValueError: L = 0, N < 1, no such method.
    """
    check_size("L", len(u))
    A, B = (part.to(u.device) for part in legs(N))
    u = u.double()
    x, coefficients = u.new_zeros(N, u[0].numel()), []
    for k, u_k in enumerate(u.flatten(1) if u.ndim > 1 else u[:, None], start=1):
        x = _scaled_step(A, B, x, u_k, k, method)
        coefficients.append(x)
    return torch.stack(coefficients).mT.reshape(*u.shape, N)


def reconstruct(coefficients: Tensor, measure: Measure, s: Tensor) -> Tensor:
    """What `project` remembers of u at the lags s, in units of the measure's window.

    Args:
        coefficients: (..., N), after any sample. s: (T,), 0 is now. After sample k, u_j was held around
            s = (k - j + 1/2) delta.

    Returns:
        (..., T).

    Raises:
        ValueError: a measure without a basis, see `ssm_seq.ssm.basis`.
    """
    return torch.matmul(*in_one_dtype(coefficients, basis(measure, coefficients.shape[-1], s).mT))


def reconstruct_scaled(coefficients: Tensor, position: Tensor) -> Tensor:
    """What `project_scaled` remembers of u at positions (T,) between 0, the start, and 1, now.

    Args:
        coefficients: (..., N), after any sample. After sample k (of 1 ... L), u_j (of 0 ...) was held around
            position (j + 1/2) / k.

    Returns:
        (..., T).

    Raises:
        ValueError: a position outside [0, 1].
    """
    if not bool(((position >= 0) & (position <= 1)).all()):
        raise ValueError("position: outside the past, expected numbers between 0 (the start) and 1 (now)")
    values = scaled_legendre(coefficients.shape[-1], 2 * position - 1)
    return torch.matmul(*in_one_dtype(coefficients, values.mT))


def _scaled_step(A: Tensor, B: Tensor, x: Tensor, u: Tensor, k: int, method: Method) -> Tensor:
    """x (N, signals) after the k-th sample u (signals,); O(N^2), as A is triangular, but for the hold."""
    if method == "zero_order_hold":
        # -A^-1 B = (1, 0, ...), the coefficients of a constant. Of what was at t = 0 nothing is left.
        held = torch.zeros_like(x)
        held[0] = u
        return held if k == 1 else torch.linalg.matrix_exp(A * math.log(k / (k - 1))) @ (x - held) + held
    if method not in ALPHA:
        raise ValueError(f"method={method!r}: there is no such method; known: {', '.join(METHODS)}")
    alpha = ALPHA[method]
    right = x + (1 - alpha) / k * (A @ x) + B / k * u
    if alpha == 0:
        return right
    implicit = torch.eye(len(A), dtype=A.dtype, device=A.device) - alpha / k * A
    return torch.linalg.solve_triangular(implicit, right, upper=False)
