"""One step of the causal convolution, for generation."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
