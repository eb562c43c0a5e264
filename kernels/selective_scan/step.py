"""One step of the selective scan, for generation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.kernels.checks import COMPLEX, FLOATS, expect, expect_axes


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
    """One step of `selective_scan`: x = exp(delta A) x + delta B u,  y = <C, x> + D u, gated by silu(z).

    One launch on a GPU; differentiable through its definition there, which float64 and complex states take
    as well. On a CPU these few operations on small tensors are as fast as anything compiled.

    Args:
        state: (batch, channels, d_state), overwritten by the next state, computed in float32 at least. Any
            strides. Complex for a complex A: half of conjugate pairs, <C, x> is then 2 Re sum(C x).
        u, delta, z: (batch, channels).
        A: (channels, d_state).
        B, C: (batch, d_state), (batch, groups, d_state) with the channels in groups of neighbours, or
            (channels, d_state) for all of the batch. Where batch = channels, two axes are (batch, d_state):
            write B.expand(batch, channels, d_state) for the other.
        D, delta_bias: (channels,).

    Returns:
        y (batch, channels) in u's dtype.

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name.
    """
    batch, channels, d_state = expect_axes("state", state, "batch, channels, d_state", FLOATS + COMPLEX)
    kinds = COMPLEX if state.is_complex() else FLOATS
    expect("u", u, "batch, channels", (batch, channels), state)
    expect("delta", delta, "batch, channels", (batch, channels), state)
    expect("A", A, "channels, d_state", (channels, d_state), state, kinds)
    B, C = (_of_groups(name, matrix, state) for name, matrix in (("B", B), ("C", C)))
    expect("D", D, "channels", (channels,), state)
    expect("z", z, "batch, channels", (batch, channels), state)
    expect("delta_bias", delta_bias, "channels", (channels,), state)
    tensors = (state, u, delta, A, B, C, D, z, delta_bias)
    differentiable = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    wide = state.is_complex() or torch.float64 in (state.dtype, u.dtype)
    if not state.is_cuda or wide or differentiable:
        return definition(*tensors, delta_softplus)
    run = _operator if torch.compiler.is_compiling() else _step
    return run(*tensors, delta_softplus)


def _of_groups(name: str, matrix: Tensor, state: Tensor) -> Tensor:
    """B or C as (batch, groups, d_state), after its checks."""
    batch, channels, d_state = state.shape
    kinds = FLOATS + COMPLEX if state.is_complex() else FLOATS
    if matrix.dim() == 2 and matrix.shape[0] == channels != batch:
        expect(name, matrix, "channels, d_state", (channels, d_state), state, kinds)
        return matrix.expand(batch, channels, d_state)
    if matrix.dim() == 2:
        expect(name, matrix, "batch, d_state", (batch, d_state), state, kinds)
        return matrix[:, None]
    groups = expect_axes(name, matrix, "batch, groups, d_state", kinds)[1]
    expect(name, matrix, "batch, groups, d_state", (batch, groups, d_state), state, kinds)
    if channels % groups:
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}, expected groups that divide {channels} channels"
        )
    return matrix


def definition(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """The step as its equations; B, C: (batch, groups, d_state)."""
    real = torch.promote_types(u.dtype, torch.float32)
    dtype = torch.promote_types(real, state.dtype)
    step = delta.to(real)
    if delta_bias is not None:
        step = step + delta_bias.to(real)
    if delta_softplus:
        step = F.softplus(step)
    value = u.to(real)
    into, out_of = (
        M if M.shape[1] == 1 else M.repeat_interleave(u.shape[1] // M.shape[1], dim=1) for M in (B, C)
    )
    x = state.to(dtype, copy=torch.is_grad_enabled())  # autograd may keep x, and the state is overwritten
    x.mul_(torch.exp(step[..., None] * A.to(dtype)))
    x.addcmul_((step * value)[..., None].to(dtype), into.to(dtype))
    if x is not state:
        state.copy_(x)
    y = (x * out_of.to(dtype)).sum(-1)
    if y.is_complex():
        y = 2 * y.real
    if D is not None:
        y = y + D.to(real) * value
    if z is not None:
        y = y * F.silu(z.to(real))
    return y.to(u.dtype)


def _step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    arguments = (state, u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    if not state.is_cuda:
        return definition(*arguments)
    from ssm_seq.kernels.selective_scan import step_gpu

    return step_gpu.step(*arguments)


_operator = torch.library.custom_op("ssm_seq::selective_step", _step, mutates_args=("state",))


@_operator.register_fake
def _(state, u, delta, A, B, C, D, z, delta_bias, delta_softplus):
    return torch.empty_like(u, memory_format=torch.contiguous_format)
