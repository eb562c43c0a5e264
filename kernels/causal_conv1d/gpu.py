"""The causal convolution on a GPU: how the work is cut, and the launches (one forward, two backward)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ssm_seq.kernels.causal_conv1d.gpu_kernels import backward_kernel, forward_kernel, sum_kernel
from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2, processors
from ssm_seq.kernels.rows import even_rows

_TAPS = 4  # of the filter inside the kernels
_SUMS = _TAPS + 1  # rows of the parts of dweight and dbias


@dataclass(frozen=True)
class Cut:
    """A program's tile and how it goes through time.

    rows: spans of time side by side; block: channels; span: steps of a row; unroll: steps whose loads go out
    together; warps: a thread holds rows * block / (32 * warps) neighbouring channels of one row; registers:
    of a thread, at most.
    """

    rows: int
    block: int
    span: int
    unroll: int
    warps: int
    registers: int


def _cut(x: Tensor, unroll: int, longest: int, busy: int) -> Cut:
    """Spans as long as they can be while every multiprocessor has `busy` warps. unroll: of 2-byte elements.

    Measured on an H100 with 512 and 2048 channels: four channels of a thread, four warps of a program.
    """
    batch, length, channels = x.shape
    unroll = 2 * unroll // x.element_size()
    block = min(128, next_power_of_2(channels))
    rows = 4 * 128 // block
    span = longest
    across = batch * ceil_div(channels, block) * 4
    while span > unroll and across * ceil_div(length, rows * span) < busy * processors(x.device):
        span //= 2
    return Cut(rows, block, span, unroll, warps=4, registers=128)


def forward_cut(x: Tensor) -> Cut:
    return _cut(x, unroll=8, longest=32, busy=30)


def backward_cut(x: Tensor) -> Cut:
    return _cut(x, unroll=4, longest=256, busy=15)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    starts: Tensor | None = None,
    cut: Cut | None = None,
) -> tuple[Tensor, Tensor]:
    """y and the final state."""
    batch, length, channels = x.shape
    cut, x = cut or forward_cut(x), even_rows(x)
    y = torch.empty((batch, length, channels), dtype=x.dtype, device=x.device)
    final = torch.empty((batch, weight.shape[1] - 1, channels), dtype=x.dtype, device=x.device)
    grid = (batch * ceil_div(length, cut.rows * cut.span) * ceil_div(channels, cut.block),)
    arguments = x, *_constants(weight, bias, initial_state, starts), y, final, length, cut.span
    launch(forward_kernel, grid, arguments, **_shape(x, weight, silu, cut))
    return y, final


def backward(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    starts: Tensor | None = None,
    dx: Tensor | None = None,
    cut: Cut | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, and in float32 of weight, bias (None without one) and the initial state.

    dx: where to write the gradient of x, even rows; a new tensor if None.
    """
    batch, length, channels = x.shape
    cut, dy, x = cut or backward_cut(x), even_rows(dy), even_rows(x)
    if dx is None:
        dx = torch.empty((batch, length, channels), dtype=x.dtype, device=x.device)
    dweight, dstart = (
        torch.empty(shape, dtype=torch.float32, device=x.device)
        for shape in (weight.shape, (batch, weight.shape[1] - 1, channels))
    )
    dbias = None if bias is None else torch.empty((channels,), dtype=torch.float32, device=x.device)
    parts = batch * ceil_div(length + _TAPS - 1, cut.rows * cut.span)
    sums = torch.empty((parts, _SUMS, channels), dtype=torch.float32, device=x.device)
    arguments = (
        dy, x, *_constants(weight, bias, initial_state, starts),
        None if dfinal is None else dfinal.contiguous(), dx, sums, dstart, length, cut.span,
    )  # fmt: skip
    launch(
        backward_kernel, (parts * ceil_div(channels, cut.block),), arguments,
        DY_ROW=dy.stride(1), DX_ROW=dx.stride(1), **_shape(x, weight, silu, cut),
    )  # fmt: skip
    launch(
        sum_kernel, (ceil_div(channels, 16), weight.shape[1] + (bias is not None)),
        (sums, dweight, dbias, parts),
        CHANNELS=channels, WIDTH=weight.shape[1], ROWS=256, BLOCK=16, num_warps=16,
    )  # fmt: skip
    return dx, dweight, dbias, dstart


def _constants(weight: Tensor, bias: Tensor | None, initial_state: Tensor | None, starts: Tensor | None):
    return (
        weight.contiguous(),
        None if bias is None else bias.contiguous(),
        None if initial_state is None else initial_state.contiguous(),
        None if starts is None else starts.contiguous().view(torch.uint8),
    )


def _shape(x: Tensor, weight: Tensor, silu: bool, cut: Cut) -> dict[str, int]:
    return {
        "CHANNELS": x.shape[2], "ROW": x.stride(1), "WIDTH": weight.shape[1], "SILU": silu,
        "ROWS": cut.rows, "BLOCK": cut.block, "UNROLL": cut.unroll, "num_warps": cut.warps,
        "maxnreg": cut.registers,
    }  # fmt: skip
