"""The diagonal time-invariant system as its recurrence."""

import torch
from torch import Tensor


def lti_scan(
    u: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x_t = Abar x_(t-1) + B u_t, y_t = 2 Re <C, x_t> + D u_t, each channel for itself; Abar = exp(exponent).

    Args:
        u: (batch, length, channels), real.
        exponent: delta A, complex (channels, pairs), one of each conjugate pair of modes.
        B, C: complex (channels, pairs); B is the discretised one.
        D: (channels,).
        initial_state: complex (batch, channels, pairs), zeros if None.

    Returns:
        y like u, and the state after the last position, complex (batch, channels, pairs).
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    Abar, B, C = (matrix.to(dtype.to_complex()) for matrix in (torch.exp(exponent), B, C))
    x = torch.zeros_like(B).expand(len(u), -1, -1) if initial_state is None else initial_state.to(B.dtype)
    ys = []
    for u_t in u.to(dtype).unbind(1):
        x = Abar * x + B * u_t[..., None]
        y = 2 * (C * x).sum(-1).real
        ys.append(y if D is None else y + D.to(dtype) * u_t)
    return torch.stack(ys, dim=1).to(u.dtype), x
