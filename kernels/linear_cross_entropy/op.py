"""The cross entropy of a linear head as an operator of PyTorch: checks, device dispatch, gradients."""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.checks import expect, expect_axes
from ssm_seq.kernels.linear_cross_entropy import cpu, definition


def linear_cross_entropy(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """log(sum_v exp(z_v)) - z_target of z = weight hidden, at each position; 0 where the target is negative.

    Never holds more than a few hundred MiB of logits. Differentiable once in hidden and weight, for any
    gradient of each position's loss. The products are taken in hidden's dtype and summed in float32; under
    autocast hidden is cast to its dtype first, as by `F.linear`. On a GPU float64 takes the definition.

    Args:
        hidden: (..., d).
        weight: (vocab, d).
        targets: (...) int64, below vocab.

    Returns:
        losses in nats, (...), float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name; on a CPU a target
            past the vocabulary, whose loss is NaN on a GPU.
    """
    shape = expect_axes("hidden", hidden, "..., d")
    vocab = expect_axes("weight", weight, "vocab, d")[0]
    expect("weight", weight, "vocab, d", (vocab, shape[-1]), hidden)
    expect("targets", targets, "...", shape[:-1], hidden, (torch.int64,))
    device = hidden.device.type
    if torch.is_autocast_enabled(device) and hidden.dtype != torch.float64:
        hidden = hidden.to(torch.get_autocast_dtype(device))
    with torch.autocast(device, enabled=False):
        if hidden.is_cuda and hidden.dtype == torch.float64:
            return definition.linear_cross_entropy(hidden, weight, targets)
        run = _losses if torch.compiler.is_compiling() else _EagerLosses.apply
        losses, _ = run(hidden.reshape(-1, shape[-1]), weight, targets.reshape(-1).contiguous())
    return losses.view(targets.shape)


def _device_path(tensor: Tensor) -> ModuleType:
    """The module with the kernels for the tensor's device. Triton is imported where there is a GPU only."""
    if not tensor.is_cuda:
        return cpu
    from ssm_seq.kernels.linear_cross_entropy import gpu

    return gpu


def _forward(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """losses, and the logarithms of the sums over the vocabulary, which the backward needs; both (rows,)."""
    return _device_path(hidden).forward(hidden, weight, targets)


_losses = torch.library.custom_op("ssm_seq::linear_cross_entropy", _forward, mutates_args=())


@_losses.register_fake
def _(hidden, weight, targets):
    losses = hidden.new_empty(targets.shape, dtype=torch.promote_types(hidden.dtype, torch.float32))
    return losses, torch.empty_like(losses)


def _backward(
    dlosses: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor]:
    with torch.autocast(hidden.device.type, enabled=False):
        dhidden, dweight = _device_path(hidden).backward(dlosses, hidden, weight, targets, sums)
    return dhidden, dweight.to(weight.dtype)


_losses_backward = torch.library.custom_op(
    "ssm_seq::linear_cross_entropy_backward", _backward, mutates_args=()
)


@_losses_backward.register_fake
def _(dlosses, hidden, weight, targets, sums):
    return hidden.new_empty(hidden.shape), weight.new_empty(weight.shape)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs, output[1])
    ctx.mark_non_differentiable(output[1])


def _gradients(ctx, dlosses, _, backward=_losses_backward):
    hidden, weight, targets, sums = ctx.saved_tensors
    return *backward(dlosses, hidden, weight, targets, sums), None


_losses.register_autograd(_gradients, setup_context=_setup_context)


class _EagerLosses(torch.autograd.Function):
    """The same without the operator's dispatch, which costs a millisecond on some machines."""

    @staticmethod
    def forward(ctx, *arguments):
        output = _forward(*arguments)
        _setup_context(ctx, arguments, output)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, dlosses, dsums):
        return _gradients(ctx, dlosses, dsums, _backward)
