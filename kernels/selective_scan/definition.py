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
) -> tuple[Tensor, Tensor]:
    """x_t = exp(delta_t A) x_(t-1) + delta_t B_t u_t,  y_t = <C_t, x_t> + D u_t, gated by silu(z_t).

    Args:
        u, delta, z: (batch, length, channels).
        A: (channels, d_state), real and negative.
        B, C: (batch, length, d_state).
        D, delta_bias: (channels,).
        initial_state: (batch, channels, d_state), zeros if None.

    Returns:
        y (batch, length, channels) in u's dtype and the final state (batch, channels, d_state) in
        float32 (float64 for float64 inputs).
    """
    dtype = torch.promote_types(u.dtype, torch.float32)
    steps = delta.to(dtype)
    if delta_bias is not None:
        steps = steps + delta_bias.to(dtype)
    if delta_softplus:
        steps = F.softplus(steps)
    inputs, A, B, C = u.to(dtype), A.to(dtype), B.to(dtype), C.to(dtype)
    batch, length, channels = u.shape
    x = inputs.new_zeros(batch, channels, A.shape[1]) if initial_state is None else initial_state.to(dtype)
    outputs = []
    for t in range(length):
        step = steps[:, t, :, None]
        x = torch.exp(step * A) * x + step * B[:, t, None, :] * inputs[:, t, :, None]
        outputs.append((x * C[:, t, None, :]).sum(-1))
    y = torch.stack(outputs, dim=1)
    if D is not None:
        y = y + D.to(dtype) * inputs
    if z is not None:
        y = y * F.silu(z.to(dtype))
    return y.to(u.dtype), x
