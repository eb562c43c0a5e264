"""One step of the causal convolution, for generation."""

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.kernels.checks import expect, expect_axes


def causal_conv1d_step(
    state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """One step of `causal_conv1d`. One launch on a GPU; differentiable through its definition there.

    Args:
        state: the width - 1 inputs before x, (batch, width - 1, channels), overwritten by the next ones.
            Any strides.
        x: (batch, channels).
        weight: (channels, width).
        bias: (channels,).
        activation: None or "silu".

    Returns:
        y like x.

    Raises:
        ValueError: a shape, dtype, device or activation that does not fit, with the argument's name.
    """
    batch, channels = expect_axes("x", x, "batch, channels")
    width = expect_axes("weight", weight, "channels, width")[1]
    expect("weight", weight, "channels, width", (channels, width), x)
    expect("bias", bias, "channels", (channels,), x)
    expect("state", state, "batch, width - 1, channels", (batch, width - 1, channels), x)
    if activation not in (None, "silu"):
        raise ValueError(f"activation is {activation!r}, expected None or 'silu'")
    tensors = (state, x, weight, bias)
    differentiable = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)
    if not x.is_cuda or x.dtype == torch.float64 or differentiable:
        return definition(*tensors, activation == "silu")
    run = _operator if torch.compiler.is_compiling() else _step
    return run(*tensors, activation == "silu")


def definition(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """y = bias + sum_k weight[:, k] window_k, where the window is the state and then x."""
    dtype = torch.promote_types(x.dtype, torch.float32)
    window = torch.cat([state.to(dtype), x[:, None].to(dtype)], dim=1)
    state.copy_(window[:, 1:])
    y = (window * weight.t().to(dtype)).sum(1)
    if bias is not None:
        y = y + bias.to(dtype)
    return (F.silu(y) if silu else y).to(x.dtype)


def _step(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    if not x.is_cuda:
        return definition(state, x, weight, bias, silu)
    from ssm_seq.kernels.causal_conv1d import step_gpu

    return step_gpu.step(state, x, weight, bias, silu)


_operator = torch.library.custom_op("ssm_seq::causal_conv1d_step", _step, mutates_args=("state",))


@_operator.register_fake
def _(state, x, weight, bias, silu):
    return torch.empty_like(x, memory_format=torch.contiguous_format)
