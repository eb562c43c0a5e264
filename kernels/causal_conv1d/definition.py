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
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y_t = bias + sum_k weight[:, k] x_(t - width + 1 + k), silu if asked; x is zero before t's sequence.

    Args:
        x: (batch, length, channels).
        weight: (channels, width).
        bias: (channels,).
        activation: None or "silu".
        initial_state: the last width - 1 inputs before x, (batch, width - 1, channels), zeros if None.
        starts: (batch, length) bool, True at the first position of each packed sequence.

    Returns:
        y like x, and the last width - 1 inputs, zero before the last sequence, (batch, width - 1, channels).
    """
    batch, length, channels = x.shape
    width = weight.shape[1]
    past = x.new_zeros(batch, width - 1, channels) if initial_state is None else initial_state.to(x.dtype)
    padded = torch.cat([past, x], dim=1)
    taps, final_state = [padded[:, k : k + length] for k in range(width)], padded[:, length:]
    if starts is not None:
        sequence = F.pad(starts.long().cumsum(1), (width - 1, 0))
        last = sequence[:, width - 1 :]
        taps = [
            tap.where((sequence[:, k : k + length] == last)[..., None], 0.0) for k, tap in enumerate(taps)
        ]
        final_state = final_state.where((sequence[:, length:] == last[:, -1:])[..., None], 0.0)
    dtype = torch.promote_types(x.dtype, torch.float32)
    y = sum(weight[:, k].to(dtype) * tap for k, tap in enumerate(taps))
    if bias is not None:
        y = y + bias.to(dtype)
    if activation == "silu":
        y = F.silu(y)
    return y.to(x.dtype), final_state.clone(memory_format=torch.contiguous_format)
