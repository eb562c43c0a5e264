"""One step of the selective scan, for generation."""

import torch
import torch.nn.functional as F
from torch import Tensor


def selective_step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
) -> Tensor:
    """One step of `selective_scan`. A few operations on small tensors: nothing compiled beats it on a CPU.

    Args:
        state: (batch, channels, d_state), overwritten by the next state.
        u, delta, z: (batch, channels).
        A: (channels, d_state).
        B, C: (batch, d_state).
        D, delta_bias: (channels,).

    Returns:
        y (batch, channels) in u's dtype.
    """
    step = delta.to(state.dtype)
    if delta_bias is not None:
        step = step + delta_bias
    if delta_softplus:
        step = F.softplus(step)
    value = u.to(state.dtype)
    state.mul_(torch.exp(step[..., None] * A.to(state.dtype)))
    state.addcmul_((step * value)[..., None], B.to(state.dtype)[:, None])
    y = (state * C.to(state.dtype)[:, None]).sum(-1)
    if D is not None:
        y = torch.addcmul(y, D.to(state.dtype), value)
    if z is not None:
        y = y * F.silu(z.to(state.dtype))
    return y.to(u.dtype)
