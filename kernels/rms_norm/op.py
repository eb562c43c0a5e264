"""The norm of a residual sum as an operator of PyTorch: checks, device dispatch, gradients."""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.checks import by_operator, expect, expect_axes
from ssm_seq.kernels.rms_norm import cpu, definition

MAX_WIDTH = 8192  # that a program of the GPU kernels holds in its registers


def rms_norm(
    x: Tensor, weight: Tensor, eps: float = 1e-5, residual: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """summed = x + residual; normed = weight * summed / sqrt(mean(summed^2) + eps), the mean over d.

    Zhang & Sennrich 2019, "Root Mean Square Layer Normalization". Differentiable once in every tensor through
    both results; the gradient of the weight is summed in a fixed order. On a GPU float64 and rows over 8,192
    take the definition.

    Args:
        x: (..., d).
        weight: (d,).
        eps: keeps rows of zeros finite.
        residual: like x, in any floating dtype; zeros if None.

    Returns:
        normed in x's dtype, and summed in residual's (x itself if None), both (..., d).

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name; a negative eps.
    """
    expect_arguments(x, weight, eps, residual)
    if takes_definition(x, residual):
        return definition.rms_norm(x, weight, eps, residual)
    if by_operator(x):
        normed, summed = _norm(x, weight, eps, residual)
        return normed, x if residual is None else summed
    return _EagerNorm.apply(x, weight, eps, residual)


def expect_arguments(
    x: Tensor, weight: Tensor, eps: float, residual: Tensor | None, weight_name: str = "weight"
) -> None:
    """ValueError for the first of them that does not fit."""
    shape = expect_axes("x", x, "..., d")
    expect(weight_name, weight, "d", shape[-1:], x)
    expect("residual", residual, "..., d", shape, x)
    if not eps >= 0:
        raise ValueError(f"eps is {eps}, expected a number of at least 0")


def takes_definition(x: Tensor, residual: Tensor | None) -> bool:
    doubles = any(tensor is not None and tensor.dtype == torch.float64 for tensor in (x, residual))
    return x.is_cuda and (doubles or x.shape[-1] > MAX_WIDTH)


def device_path(tensor: Tensor) -> ModuleType:
    """The module with the kernels for the tensor's device. Triton is imported where there is a GPU only."""
    if not tensor.is_cuda:
        return cpu
    from ssm_seq.kernels.rms_norm import gpu

    return gpu


def _forward(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """An operator's results share no memory with its arguments: without residual the second is empty."""
    normed, summed = device_path(x).forward(x, weight, eps, residual)
    return normed, x.new_empty(0) if residual is None else summed


_norm = torch.library.custom_op("ssm_seq::rms_norm", _forward, mutates_args=())


@_norm.register_fake
def _(x, weight, eps, residual):
    summed = x.new_empty(0) if residual is None else residual.new_empty(x.shape)
    return x.new_empty(x.shape), summed


def _backward(
    dnormed: Tensor, dsummed: Tensor | None, summed: Tensor, weight: Tensor, eps: float
) -> list[Tensor]:
    """Nor do results share it among themselves: the second is empty where it would be the first."""
    total, dx, dweight = device_path(summed).backward(dnormed, dsummed, summed, weight, eps)
    return [total, total.new_empty(0) if dx is total else dx, dweight.to(weight.dtype)]


_norm_backward = torch.library.custom_op("ssm_seq::rms_norm_backward", _backward, mutates_args=())


@_norm_backward.register_fake
def _(dnormed, dsummed, summed, weight, eps):
    dx = summed.new_empty(0) if dnormed.dtype == summed.dtype else dnormed.new_empty(summed.shape)
    return [summed.new_empty(summed.shape), dx, weight.new_empty(weight.shape)]


def _setup_context(ctx, inputs, output) -> None:
    x, weight, ctx.eps, residual = inputs
    ctx.dtype, ctx.has_residual = x.dtype, residual is not None
    ctx.save_for_backward(output[1] if ctx.has_residual else x, weight)
    ctx.set_materialize_grads(False)


def _gradients(ctx, dnormed, dsummed, backward=_norm_backward):
    summed, weight = ctx.saved_tensors
    if dsummed is not None and dsummed.numel() == 0:  # of the operator's empty result
        dsummed = None
    if dnormed is None:
        dnormed = torch.zeros_like(summed, dtype=ctx.dtype)
    total, dx, dweight = backward(dnormed, dsummed, summed, weight, ctx.eps)
    return total if dnormed.dtype == summed.dtype else dx, dweight, None, total if ctx.has_residual else None


_norm.register_autograd(_gradients, setup_context=_setup_context)


class _EagerNorm(torch.autograd.Function):
    """The same without the operator's dispatch, which costs a millisecond on some machines."""

    @staticmethod
    def forward(ctx, x, weight, eps, residual):
        normed, summed = device_path(x).forward(x, weight, eps, residual)
        _setup_context(ctx, (x, weight, eps, residual), (normed, summed))
        return normed, summed

    @staticmethod
    @once_differentiable
    def backward(ctx, dnormed, dsummed):
        return _gradients(ctx, dnormed, dsummed, _backward)
