"""One step of the causal convolution on a GPU: one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_seq.kernels.gpu_math import sigmoid
from ssm_seq.kernels.launch import ceil_div, launch

BLOCK = 128  # channels of a program


@triton.jit
def _step_kernel(
    state, x, weight, bias, y, batch_stride, tap_stride, channel_stride, x_row,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr, BLOCK_: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * BLOCK_ + tl.arange(0, BLOCK_)
    b = tl.program_id(0).to(tl.int64)
    in_c = c < CHANNELS
    place = state + b * batch_stride + c.to(tl.int64) * channel_stride
    newest = tl.load(x + b * x_row + c, mask=in_c, other=0.0).to(tl.float32)
    out = newest * tl.load(weight + c * WIDTH + WIDTH - 1, mask=in_c, other=0.0).to(tl.float32)
    if bias is not None:
        out += tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)
    for k in tl.static_range(WIDTH - 1):
        value = tl.load(place + k * tap_stride, mask=in_c, other=0.0)
        out += value.to(tl.float32) * tl.load(weight + c * WIDTH + k, mask=in_c, other=0.0).to(tl.float32)
        if k > 0:
            tl.store(place + (k - 1) * tap_stride, value, mask=in_c)
    if WIDTH > 1:
        tl.store(place + (WIDTH - 2) * tap_stride, newest, mask=in_c)
    if SILU:
        out = out * sigmoid(out)
    tl.store(y + b * CHANNELS + c, out, mask=in_c)


def step(state: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool) -> Tensor:
    """y; the state is overwritten."""
    batch, channels = x.shape
    x = x if x.stride(1) == 1 else x.contiguous()
    y = torch.empty((batch, channels), dtype=x.dtype, device=x.device)
    bias = None if bias is None else bias.contiguous()
    arguments = (state, x, weight.contiguous(), bias, y, *state.stride(), x.stride(0))
    launch(
        _step_kernel, (batch, ceil_div(channels, BLOCK)), arguments,
        CHANNELS=channels, WIDTH=weight.shape[1], SILU=silu, BLOCK_=BLOCK, num_warps=4,
    )  # fmt: skip
    return y
