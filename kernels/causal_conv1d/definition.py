"""The short causal convolution as its equation."""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = bias + sum_k weight[:, k] x_(t - width + 1 + k), then silu if asked.

    Args:
        x: (batch, length, channels).
        weight: (channels, width).
        bias: (channels,).
        activation: None or "silu".
        initial_state: the last width - 1 inputs before x, (batch, width - 1, channels), zeros if None.

    Returns:
        y like x, and the last width - 1 inputs, (batch, width - 1, channels).
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    past = x.new_zeros(batch, width - 1, channels) if initial_state is None else initial_state.to(x.dtype)
    padded = torch.cat([past, x], dim=1)
    y = sum(weight[:, k].to(x.dtype) * padded[:, k : k + length] for k in range(width))
    if bias is not None:
        y = y + bias.to(x.dtype)
    if activation == "silu":
        y = F.silu(y)
    return y, padded[:, length:].clone()


def causal_conv1d_step(
    state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None = None, activation: str | None = None
) -> Tensor:
    """One step of `causal_conv1d`.

    Args:
        state: the width - 1 inputs before x, (batch, width - 1, channels), overwritten by the next ones.
        x: (batch, channels).
        weight: (channels, width).
        bias: (channels,).
        activation: None or "silu".

    Returns:
        y like x.
    """
    window = torch.cat([state, x[:, None].to(state.dtype)], dim=1)
    state.copy_(window[:, 1:])
    y = (window.to(x.dtype) * weight.t().to(x.dtype)).sum(1)
    if bias is not None:
        y = y + bias.to(x.dtype)
    return F.silu(y) if activation == "silu" else y
