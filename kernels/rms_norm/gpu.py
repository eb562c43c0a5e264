"""The norm on a GPU: one pass over memory in either direction, rows whole in registers.

The backward computes the norms of the rows again: it has to read them anyway.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2

TILE = 2048  # elements of a program at a time, more where a row is longer
PROGRAMS = 2048  # of the backward at most: each leaves a partial sum of the weight's gradient


@triton.jit
def _scale(values, eps, WIDTH: tl.constexpr):
    return tl.rsqrt(tl.sum(values * values, axis=1) / WIDTH + eps)[:, None]


@triton.jit(do_not_specialize=["rows"])
def _forward_kernel(
    x, residual, weight, normed, summed, rows, eps, x_row, residual_row,
    WIDTH: tl.constexpr, HAS_RESIDUAL: tl.constexpr, ROWS_: tl.constexpr, BLOCK_: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64) * ROWS_ + tl.arange(0, ROWS_)[:, None]
    c = tl.arange(0, BLOCK_)[None, :]
    inside = (row < rows) & (c < WIDTH)
    values = tl.load(x + row * x_row + c, mask=inside, other=0.0).to(tl.float32)
    if HAS_RESIDUAL:
        values += tl.load(residual + row * residual_row + c, mask=inside, other=0.0).to(tl.float32)
        rounded = values.to(summed.dtype.element_ty)
        tl.store(summed + row * WIDTH + c, rounded, mask=inside)
        values = rounded.to(tl.float32)
    w = tl.load(weight + c, mask=c < WIDTH, other=0.0).to(tl.float32)
    tl.store(normed + row * WIDTH + c, values * _scale(values, eps, WIDTH) * w, mask=inside)


@triton.jit(do_not_specialize=["rows"])
def _backward_kernel(
    dnormed, dsummed, summed, weight, total, dx, dweight, rows, eps, dnormed_row, dsummed_row, summed_row,
    WIDTH: tl.constexpr, HAS_DSUMMED: tl.constexpr, HAS_DX: tl.constexpr,
    ROWS_: tl.constexpr, BLOCK_: tl.constexpr,
):  # fmt: skip
    """A program takes every `programs`-th tile of rows. dweight (programs, WIDTH): its sums."""
    pid, programs = tl.program_id(0).to(tl.int64), tl.num_programs(0)
    c = tl.arange(0, BLOCK_)[None, :]
    w = tl.load(weight + c, mask=c < WIDTH, other=0.0).to(tl.float32)
    dweight_sum = tl.zeros([ROWS_, BLOCK_], tl.float32)
    for step in range(0, tl.cdiv(tl.cdiv(rows, ROWS_), programs)):
        row = (pid + step * programs) * ROWS_ + tl.arange(0, ROWS_)[:, None]
        inside = (row < rows) & (c < WIDTH)
        values = tl.load(summed + row * summed_row + c, mask=inside, other=0.0).to(tl.float32)
        gradient = tl.load(dnormed + row * dnormed_row + c, mask=inside, other=0.0).to(tl.float32)
        if HAS_DSUMMED:  # asked for before the sums over rows, which all loads would wait for
            carried = tl.load(dsummed + row * dsummed_row + c, mask=inside, other=0.0).to(tl.float32)
        scale = _scale(values, eps, WIDTH)
        directions = values * scale
        dweight_sum += gradient * directions
        gradient *= w
        share = tl.sum(gradient * directions, axis=1)[:, None] / WIDTH
        gradient = (gradient - directions * share) * scale
        if HAS_DSUMMED:
            gradient += carried
        tl.store(total + row * WIDTH + c, gradient, mask=inside)
        if HAS_DX:
            tl.store(dx + row * WIDTH + c, gradient, mask=inside)
    tl.store(dweight + pid * WIDTH + c, tl.sum(dweight_sum, axis=0)[None, :], mask=c < WIDTH)


def forward(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """normed and summed; summed is x where there is no residual."""
    flat, past = _rows(x), None if residual is None else _rows(residual)
    rows, width = flat.shape
    normed = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    summed = x if residual is None else torch.empty(x.shape, dtype=residual.dtype, device=x.device)
    layout = _layout(width)
    arguments = (
        flat, past, weight.contiguous(), normed, summed, rows, eps,
        flat.stride(0), 0 if past is None else past.stride(0),
    )  # fmt: skip
    grid = (ceil_div(rows, layout["ROWS_"]),)
    launch(_forward_kernel, grid, arguments, HAS_RESIDUAL=past is not None, **layout)
    return normed, summed


def backward(
    dnormed: Tensor, dsummed: Tensor | None, summed: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of summed (its dtype), of x (the dtype of dnormed), and of weight (float32).

    The first two are one tensor where their dtypes are.
    """
    values, gradient = _rows(summed), _rows(dnormed)
    carried = None if dsummed is None else _rows(dsummed)
    rows, width = values.shape
    total = torch.empty(summed.shape, dtype=summed.dtype, device=summed.device)
    dx = None if dnormed.dtype == summed.dtype else torch.empty_like(total, dtype=dnormed.dtype)
    layout = _layout(width)
    programs = min(max(ceil_div(rows, layout["ROWS_"]) // 4, 1), PROGRAMS)
    dweight = torch.empty((programs, width), dtype=torch.float32, device=summed.device)
    arguments = (
        gradient, carried, values, weight.contiguous(), total, dx, dweight, rows, eps,
        gradient.stride(0), 0 if carried is None else carried.stride(0), values.stride(0),
    )  # fmt: skip
    flags = {"HAS_DSUMMED": carried is not None, "HAS_DX": dx is not None}
    launch(_backward_kernel, (programs,), arguments, **flags, **layout)
    return total, total if dx is None else dx, dweight.sum(0)


def _rows(tensor: Tensor) -> Tensor:
    """(rows, d) at one distance in memory, without a copy where the tensor is so already."""
    flat = tensor.reshape(-1, tensor.shape[-1])
    return flat if flat.stride(1) == 1 else flat.contiguous()


def _layout(width: int) -> dict[str, int]:
    block = next_power_of_2(width)
    rows = max(TILE // block, 1)
    return {"WIDTH": width, "ROWS_": rows, "BLOCK_": block, "num_warps": max(block * rows // 512, 1)}
