"""The causal convolution as an operator of PyTorch: checks, device dispatch, gradients."""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.causal_conv1d import cpu, definition
from ssm_seq.kernels.checks import BOOL, by_operator, expect, expect_axes


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = bias + sum_k weight[:, k] x_(t - width + 1 + k), silu if asked; x is zero before t's sequence.

    Differentiable once in every tensor, initial and final state included. On a GPU float64 and widths over 4
    take the definition.

    Args:
        x: (batch, length, channels).
        weight: (channels, width).
        bias: (channels,).
        activation: None or "silu".
        initial_state: the last width - 1 inputs before x, (batch, width - 1, channels), zeros if None.
        starts: (batch, length) bool, True at the first position of each packed sequence. A row that begins
            with False goes on from initial_state.

    Returns:
        y like x, and the last width - 1 inputs, zero before the last sequence, (batch, width - 1, channels).

    Raises:
        ValueError: a shape, dtype, device or activation that does not fit, with the argument's name.
    """
    batch, length, channels = expect_axes("x", x, "batch, length, channels")
    width = expect_axes("weight", weight, "channels, width")[1]
    expect("weight", weight, "channels, width", (channels, width), x)
    expect("bias", bias, "channels", (channels,), x)
    expect("initial_state", initial_state, "batch, width - 1, channels", (batch, width - 1, channels), x)
    expect("starts", starts, "batch, length", (batch, length), x, BOOL)
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}, expected None or 'silu'")
    if x.is_cuda and (x.dtype == torch.float64 or width > 4):
        return definition.causal_conv1d(x, weight, bias, activation, initial_state, starts)
    run = _conv if by_operator(x) else _EagerConv.apply
    return run(x, weight, bias, activation == "silu", initial_state, starts)


def _device_path(tensor: Tensor) -> ModuleType:
    """The module with the kernels for the tensor's device. Triton is imported where there is a GPU only."""
    if not tensor.is_cuda:
        return cpu
    from ssm_seq.kernels.causal_conv1d import gpu

    return gpu


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    starts: Tensor | None,
) -> tuple[Tensor, Tensor]:
    return _device_path(x).forward(x, weight, bias, silu, initial_state, starts)


_conv = torch.library.custom_op("ssm_seq::causal_conv1d", _forward, mutates_args=())


@_conv.register_fake
def _(x, weight, bias, silu, initial_state, starts):
    batch, _, channels = x.shape
    final_state = x.new_empty((batch, weight.shape[1] - 1, channels))
    return torch.empty_like(x, memory_format=torch.contiguous_format), final_state


def _backward(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    starts: Tensor | None,
) -> list[Tensor]:
    gradients = _device_path(x).backward(dy, dfinal, x, weight, bias, silu, initial_state, starts)
    return [
        x.new_empty(0) if tensor is None else gradient.to(tensor.dtype)
        for gradient, tensor in zip(gradients, (x, weight, bias, initial_state), strict=True)
    ]


_conv_backward = torch.library.custom_op("ssm_seq::causal_conv1d_backward", _backward, mutates_args=())


@_conv_backward.register_fake
def _(dy, dfinal, x, weight, bias, silu, initial_state, starts):
    return [
        x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in (x, weight, bias, initial_state)
    ]


def _setup_context(ctx, inputs, output) -> None:
    x, weight, bias, ctx.silu, initial_state, starts = inputs
    ctx.save_for_backward(x, weight, bias, initial_state, starts)
    ctx.set_materialize_grads(False)


def _gradients(ctx, dy, dfinal, backward=_conv_backward):
    x, weight, bias, initial_state, starts = ctx.saved_tensors
    dy = torch.zeros_like(x) if dy is None else dy
    dx, dweight, dbias, dstart = (
        None if tensor is None else gradient
        for gradient, tensor in zip(
            backward(dy, dfinal, x, weight, bias, ctx.silu, initial_state, starts),
            (x, weight, bias, initial_state),
            strict=True,
        )
    )
    return dx, dweight, dbias, None, dstart, None


_conv.register_autograd(_gradients, setup_context=_setup_context)


class _EagerConv(torch.autograd.Function):
    """The same without the operator's dispatch, which costs a millisecond on some machines."""

    @staticmethod
    def forward(ctx, *arguments):
        output = _forward(*arguments)
        _setup_context(ctx, arguments, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dfinal):
        return _gradients(ctx, dy, dfinal, _backward)
