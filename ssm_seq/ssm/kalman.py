"""The statistical reading of (A, B, C): the state is hidden, and known up to a Gaussian.

x_k = A x_(k-1) + B u_k + w_k,  w ~ N(0, Q)        y_k = C x_k + v_k,  v ~ N(0, R)        x_(-1) ~ N(m, P)

for a discrete, real system. The filter tells the state from the past, p(x_k | y_0 ... y_k), and the smoother
from the whole sequence, p(x_k | y_0 ... y_(L-1)). Without noise (Q = 0, P = 0) both are the recurrence
itself.

Sources: Kalman 1960; Rauch, Tung & Striebel 1965; Särkkä 2013, "Bayesian Filtering and Smoothing", theorems
4.2 and 8.2.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_seq.ssm.checks import check_size
from ssm_seq.ssm.matrices import dense
from ssm_seq.ssm.views import System


class Beliefs(NamedTuple):
    """Gaussians over the states. mean: (..., L, N). covariance: (..., L, N, N).

    log_likelihood: (...), of all observations; the filter's and the smoother's are the same.
    """

    mean: Tensor
    covariance: Tensor
    log_likelihood: Tensor


def kalman_filter(
    system: System,
    u: Tensor,
    y: Tensor,
    Q: Tensor,
    R: Tensor,
    mean: Tensor | None = None,
    covariance: Tensor | None = None,
) -> Beliefs:
    """p(x_k | y_0 ... y_k) for every k. O(L (N + P)^3).

    Args:
        system: discrete and real; D is 0 if None.
        u: (..., L, M). y: (..., L, P).
        Q: (..., N, N), R: (..., P, P): covariances of the noise in state and observation.
        mean (..., N), covariance (..., N, N): of the state before the first input; 0 if None.

    Raises:
        ValueError: L = 0, u and y of different lengths, Q or R that is no covariance.
    """
    _check(system, u, y, Q, R)
    A = dense(system.A)
    u, y = _input_and_rest(system, u, y)
    mean = A.new_zeros(A.shape[-1]) if mean is None else mean
    covariance = torch.zeros_like(A) if covariance is None else covariance
    means, covariances, log_likelihood = [], [], A.new_zeros(())
    for drive, y_k in zip(u.unbind(-2), y.unbind(-2), strict=True):
        mean, covariance = _matvec(A, mean) + drive, A @ covariance @ A.mT + Q
        mean, covariance, log_density = _update(system.C, R, mean, covariance, y_k)
        log_likelihood = log_likelihood + log_density
        means.append(mean)
        covariances.append(covariance)
    # Covariances don't depend on the data: they may lack its leading dimensions.
    shape = means[-1].shape[:-1]
    stacked = torch.stack([c.expand(*shape, *c.shape[-2:]) for c in covariances], dim=-3)
    return Beliefs(torch.stack([m.expand(*shape, -1) for m in means], dim=-2), stacked, log_likelihood)


def rts_smoother(system: System, u: Tensor, filtered: Beliefs, Q: Tensor) -> Beliefs:
    """p(x_k | y_0 ... y_(L-1)) for every k, from what `kalman_filter` gave for the same system, u and Q.

    Raises:
        ValueError: u and `filtered` of different lengths.
    """
    if u.shape[-2] != filtered.mean.shape[-2]:
        raise ValueError(f"u: {u.shape[-2]} steps, expected the filter's {filtered.mean.shape[-2]}")
    A = dense(system.A)
    drive = (system.B @ u[..., None])[..., 0]
    mean, covariance = filtered.mean[..., -1, :], filtered.covariance[..., -1, :, :]
    means, covariances = [mean], [covariance]
    for k in range(u.shape[-2] - 2, -1, -1):
        now, spread = filtered.mean[..., k, :], filtered.covariance[..., k, :, :]
        expected, predicted = _matvec(A, now) + drive[..., k + 1, :], A @ spread @ A.mT + Q
        # The gain's transpose; a pseudo-inverse, since without noise a state may be known exactly.
        gain = torch.linalg.pinv(predicted, hermitian=True) @ A @ spread
        mean = now + _matvec(gain.mT, mean - expected)
        covariance = spread + gain.mT @ (covariance - predicted) @ gain
        means.append(mean)
        covariances.append(covariance)
    return Beliefs(
        torch.stack(means[::-1], dim=-2), torch.stack(covariances[::-1], dim=-3), filtered.log_likelihood
    )


def _update(
    C: Tensor, R: Tensor, mean: Tensor, covariance: Tensor, y: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The belief after seeing y, and log p(y) before. Joseph's form keeps the covariance symmetric, >= 0."""
    surprise = y - _matvec(C, mean)
    factor = torch.linalg.cholesky(C @ covariance @ C.mT + R)
    gain = torch.cholesky_solve(C @ covariance, factor).mT
    rest = torch.eye(mean.shape[-1], dtype=mean.dtype, device=mean.device) - gain @ C
    mean = mean + _matvec(gain, surprise)
    covariance = rest @ covariance @ rest.mT + gain @ R @ gain.mT
    white = torch.linalg.solve_triangular(factor, surprise[..., None], upper=False)[..., 0]
    log_determinant = 2 * torch.log(factor.diagonal(dim1=-2, dim2=-1)).sum(-1)
    log_scale = y.shape[-1] * torch.log(torch.tensor(2 * torch.pi, dtype=y.dtype, device=y.device))
    return mean, covariance, -(white.square().sum(-1) + log_determinant + log_scale) / 2


def _input_and_rest(system: System, u: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """B u, and y without D u: what enters the state, and what of y the state has to explain."""
    if system.D is not None:
        y = y - _matvec(system.D, u)
    return _matvec(system.B, u), y


def _matvec(matrix: Tensor, vector: Tensor) -> Tensor:
    """matrix (..., a, b) times vector (..., b); a single matrix serves all leading dimensions."""
    return (matrix @ vector[..., None])[..., 0]


def _check(system: System, u: Tensor, y: Tensor, Q: Tensor, R: Tensor) -> None:
    check_size("L", u.shape[-2])
    if u.shape[-2] != y.shape[-2]:
        raise ValueError(f"y: {y.shape[-2]} steps, expected as many as u has, {u.shape[-2]}")
    if dense(system.A).is_complex():
        raise ValueError("A: complex; states are Gaussian over real numbers, expected a real system")
    for name, matrix in (("Q", Q), ("R", R)):
        slack = 10 * torch.finfo(matrix.dtype).eps * matrix.abs().amax()
        if (matrix - matrix.mT).abs().amax() > slack:
            raise ValueError(f"{name}: not symmetric; expected a covariance")
        if torch.linalg.eigvalsh(matrix).amin() < -slack * matrix.shape[-1]:
            raise ValueError(f"{name}: it has a negative eigenvalue; expected a covariance")
    if torch.linalg.eigvalsh(R).amin() <= 0:
        raise ValueError("R: singular; expected noise in every observation")
