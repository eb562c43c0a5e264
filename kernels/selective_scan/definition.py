"""The selective scan as its equations (Gu & Dao 2023, equations 2a and 4; algorithm 2)."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    starts: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """x_t = exp(delta_t A) x_(t-1) + delta_t B_t u_t,  y_t = <C_t, x_t> + D u_t, gated by silu(z_t).

    <C, x> is sum(C x), for a complex A 2 Re sum(C x): then a state stands for a conjugate pair of states.

    Args:
        u, delta, z: (batch, length, channels).
        A: (channels, d_state), real and negative, or complex with a negative real part.
        B, C: (batch, length, d_state), (batch, length, groups, d_state) with the channels in groups of
            neighbours, or (channels, d_state) for all times.
        D, delta_bias: (channels,).
        initial_state: (batch, channels, d_state), zeros if None.
        starts: (batch, length), True where a sequence begins: the state before it is zero.
        reverse: walk from the last position to the first: x_(t+1) in place of x_(t-1).

    Returns:
        y (batch, length, channels) in u's dtype and the final state (batch, channels, d_state) in
        float32 (float64 for float64 inputs), complex like A.
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    state_dtype = torch.promote_types(dtype, torch.complex64) if A.is_complex() else dtype
    step = delta.to(dtype)
    if delta_bias is not None:
        step = step + delta_bias.to(dtype)
    if delta_softplus:
        step = F.softplus(step)
    inputs, A = u.to(dtype), A.to(state_dtype)
    batch, length, channels = u.shape
    x = A.new_zeros(batch, *A.shape) if initial_state is None else initial_state.to(state_dtype)
    outputs: list[Tensor] = [x] * length
    for t in reversed(range(length)) if reverse else range(length):
        boundary = t + 1 if reverse else t  # lies between the position before in the walk and t
        if starts is not None and boundary < length:
            x = x.masked_fill(starts[:, boundary, None, None], 0)
        step_t, u_t = step[:, t, :, None], inputs[:, t, :, None]
        B_t, C_t = (at(M, t, channels).to(torch.promote_types(dtype, M.dtype)) for M in (B, C))
        x = torch.exp(step_t * A) * x + step_t * B_t * u_t
        outputs[t] = (C_t * x).sum(-1)
    y = torch.stack(outputs, dim=1)
    if A.is_complex():
        y = 2 * y.real
    if D is not None:
        y = y + D.to(dtype) * inputs
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), x


def at(matrix: Tensor, t: int, channels: int) -> Tensor:
    """B or C of every channel at time t; broadcasts to (batch, channels, d_state)."""
    match matrix.dim():
        case 2:
            return matrix
        case 3:
            return matrix[:, t, None]
        case _:
            return matrix[:, t].repeat_interleave(channels // matrix.shape[2], dim=1)
