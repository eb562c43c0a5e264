"""The selective scan as an operator of PyTorch: checks, device dispatch, gradients."""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.checks import expect, expect_axes
from ssm_seq.kernels.selective_scan import cpu, definition


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

    The definition is beside this file; this one is fast, and never holds the states of all steps. On a GPU
    float64 takes the definition. Differentiable once in every tensor, initial and final state included.

    Args:
        u, delta, z: (batch, length, channels).
        A: (channels, d_state), real and negative.
        B, C: (batch, length, d_state).
        D, delta_bias: (channels,).
        initial_state: (batch, channels, d_state), zeros if None.

    Returns:
        y (batch, length, channels) in u's dtype and the final state (batch, channels, d_state) in
        float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name.
    """
    batch, length, channels = expect_axes("u", u, "batch, length, channels")
    d_state = expect_axes("A", A, "channels, d_state")[1]
    sequence, matrix = "batch, length, channels", "batch, length, d_state"
    expect("A", A, "channels, d_state", (channels, d_state), u)
    expect("delta", delta, sequence, (batch, length, channels), u)
    expect("B", B, matrix, (batch, length, d_state), u)
    expect("C", C, matrix, (batch, length, d_state), u)
    expect("D", D, "channels", (channels,), u)
    expect("z", z, sequence, (batch, length, channels), u)
    expect("delta_bias", delta_bias, "channels", (channels,), u)
    expect("initial_state", initial_state, "batch, channels, d_state", (batch, channels, d_state), u)
    tensors = (u, delta, A, B, C, D, z, delta_bias, initial_state)
    if u.is_cuda and u.dtype == torch.float64:
        return definition.selective_scan(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    run = _scan if torch.compiler.is_compiling() else _EagerScan.apply
    y, final_state, _ = run(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, keep)
    return y, final_state


def _device_path(tensor: Tensor) -> ModuleType:
    """The module with the kernels for the tensor's device. Triton is imported where there is a GPU only."""
    if not tensor.is_cuda:
        return cpu
    from ssm_seq.kernels.selective_scan import gpu

    return gpu


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _device_path(u).forward(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, keep)


_scan = torch.library.custom_op("ssm_seq::selective_scan", _forward, mutates_args=())


@_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, keep):
    path, (batch, _, channels) = _device_path(u), u.shape
    kept = path.kept_shape(u, A) if keep else (0, 0, 0, 0)
    state_dtype = torch.promote_types(u.dtype, torch.float32)
    return (
        u.new_empty(u.shape),
        u.new_empty((batch, channels, A.shape[1]), dtype=state_dtype),
        u.new_empty(kept, dtype=path.kept_dtype(u)),
    )


def _backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    kept: Tensor,
) -> list[Tensor]:
    gradients = _device_path(u).backward(
        dy, dfinal, u, delta, A, B, C, D, z, delta_bias, delta_softplus, kept
    )
    return _match(gradients, (u, delta, A, B, C, D, z, delta_bias, initial_state))


def _match(gradients: tuple[Tensor, ...], inputs: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Each gradient in its input's dtype, an empty one where there is no input."""
    return [
        gradient.new_empty(0) if tensor is None else gradient.to(tensor.dtype)
        for gradient, tensor in zip(gradients, inputs, strict=True)
    ]


_scan_backward = torch.library.custom_op("ssm_seq::selective_scan_backward", _backward, mutates_args=())


@_scan_backward.register_fake
def _(dy, dfinal, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, kept):
    return [
        kept.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in (u, delta, A, B, C, D, z, delta_bias, initial_state)
    ]


def _setup_context(ctx, inputs, output) -> None:
    u, delta, A, B, C, D, z, delta_bias, ctx.delta_softplus, initial_state, _ = inputs
    ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, initial_state, output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx, dy, dfinal, _, backward=_scan_backward):
    u, delta, A, B, C, D, z, delta_bias, initial_state, kept = ctx.saved_tensors
    dy = torch.zeros_like(u) if dy is None else dy
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    gradients = backward(dy, dfinal, *inputs, ctx.delta_softplus, initial_state, kept)
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstart = (
        None if tensor is None else gradient
        for gradient, tensor in zip(gradients, (*inputs, initial_state), strict=True)
    )
    return du, ddelta, dA, dB, dC, dD, dz, dbias, None, dstart, None


_scan.register_autograd(_gradients, setup_context=_setup_context)


class _EagerScan(torch.autograd.Function):
    """The same without the operator's dispatch, which costs a millisecond on some machines."""

    @staticmethod
    def forward(ctx, *arguments):
        output = _forward(*arguments)
        _setup_context(ctx, arguments, output)
        ctx.mark_non_differentiable(output[2])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dfinal, _):
        return _gradients(ctx, dy, dfinal, None, _backward)
