"""The causal convolution on a GPU: how the work is cut, and the launches (one forward, two backward)."""

from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from ssm_seq.kernels.causal_conv1d.gpu_kernels import backward_kernel, forward_kernel, sum_kernel
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


def _cut(x: Tensor, per_thread: int, unroll: int, warps: int, longest: int, registers: int) -> Cut:
    """Spans as long as they can be while every multiprocessor has 16 warps. unroll: of 2-byte elements."""
    batch, length, channels = x.shape
    unroll = 2 * unroll // x.element_size()
    block = min(32 * per_thread, triton.next_power_of_2(channels))
    rows = 32 * per_thread * warps // block
    span = longest
    across = batch * triton.cdiv(channels, block) * warps
    while span > unroll and across * triton.cdiv(length, rows * span) < 16 * _processors(x.device):
        span //= 2
    return Cut(rows, block, span, unroll, warps, registers)


def forward_cut(x: Tensor) -> Cut:
    return _cut(x, per_thread=8, unroll=4, warps=4, longest=128, registers=128)


def backward_cut(x: Tensor) -> Cut:
    return _cut(x, per_thread=4, unroll=4, warps=4, longest=256, registers=128)


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


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
    grid = batch * triton.cdiv(length, cut.rows * cut.span) * triton.cdiv(channels, cut.block)
    forward_kernel[(grid,)](
        x, *_constants(weight, bias, initial_state, starts), y, final, length, cut.span,
        **_shape(x, weight, silu, cut),
    )  # fmt: skip
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
    cut: Cut | None = None,
) -> tuple[Tensor | None, ...]:
    """Gradients of x, and in float32 of weight, bias (None without one) and the initial state."""
    batch, length, channels = x.shape
    cut, dy, x = cut or backward_cut(x), even_rows(dy), even_rows(x)
    dx = torch.empty((batch, length, channels), dtype=x.dtype, device=x.device)
    dweight, dstart = (
        torch.empty(shape, dtype=torch.float32, device=x.device)
        for shape in (weight.shape, (batch, weight.shape[1] - 1, channels))
    )
    dbias = None if bias is None else torch.empty((channels,), dtype=torch.float32, device=x.device)
    parts = batch * triton.cdiv(length + _TAPS - 1, cut.rows * cut.span)
    sums = torch.empty((parts, _SUMS, channels), dtype=torch.float32, device=x.device)
    backward_kernel[(parts * triton.cdiv(channels, cut.block),)](
        dy, x, *_constants(weight, bias, initial_state, starts),
        None if dfinal is None else dfinal.contiguous(), dx, sums, dstart, length, cut.span,
        DY_ROW=dy.stride(1), **_shape(x, weight, silu, cut),
    )  # fmt: skip
    sum_kernel[(triton.cdiv(channels, 16), weight.shape[1] + (bias is not None))](
        sums, dweight, dbias, parts, CHANNELS=channels, WIDTH=weight.shape[1], ROWS=256, BLOCK=16, num_warps=8
    )
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
