"""The Cauchy product on a GPU: points across threads forwards; pairs and points across them backwards.

The backward's sums over the points are taken in parts, one a program, which are then added up in their order.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2, processors

POINTS = 512  # of a forward program
MAX_ROWS = 8  # of a program: each holds four sums for every point
TILE = (16, 16)  # pairs and points of a backward program at a time
PROGRAMS = 16  # of the backward for each multiprocessor, where the points suffice


@triton.jit
def _complex(parts, place, mask):
    """Real and imaginary parts, which lie side by side; zero where the mask is not set."""
    real = tl.load(parts + 2 * place, mask=mask, other=0.0)
    return real, tl.load(parts + 2 * place + 1, mask=mask, other=0.0)


@triton.jit
def _inverse(x, y, a, b):
    """1 / ((z - w) (z - conj w)), z = x + i y, w = a + i b: its real part and minus its imaginary one.

    The differences come before the products: near a pole z^2 - 2 a z + |w|^2 would lose all digits.
    """
    apart = x - a
    real = apart * apart - (y - b) * (y + b)
    imaginary = 2.0 * apart * y
    scale = 1.0 / (real * real + imaginary * imaginary)
    return real * scale, imaginary * scale


@triton.jit(do_not_specialize=["points"])
def _forward_kernel(v, w, z, k, rows, pairs, points, ROWS_: tl.constexpr, POINTS_: tl.constexpr):
    """v (heads, rows, pairs), w (heads, pairs), z (points), k (heads, rows, points), complex."""
    h = tl.program_id(0).to(tl.int64)
    r = tl.program_id(1) * ROWS_ + tl.arange(0, ROWS_)[:, None]
    j = tl.program_id(2) * POINTS_ + tl.arange(0, POINTS_)[None, :]
    row = h * rows + r
    x, y = _complex(z, tl.minimum(j, points - 1), True)
    slope_real = tl.zeros([ROWS_, POINTS_], x.dtype)
    slope_imaginary = tl.zeros([ROWS_, POINTS_], x.dtype)
    level_real = tl.zeros([ROWS_, POINTS_], x.dtype)
    level_imaginary = tl.zeros([ROWS_, POINTS_], x.dtype)
    for n in range(pairs):
        a, b = _complex(w, h * pairs + n, True)
        v_real, v_imaginary = _complex(v, row * pairs + n, r < rows)
        level = -(v_real * a + v_imaginary * b)
        real, minus_imaginary = _inverse(x, y, a, b)
        slope_real += v_real * real
        slope_imaginary -= v_real * minus_imaginary
        level_real += level * real
        level_imaginary -= level * minus_imaginary
    k_real = 2.0 * (x * slope_real - y * slope_imaginary + level_real)
    k_imaginary = 2.0 * (x * slope_imaginary + y * slope_real + level_imaginary)
    inside = (r < rows) & (j < points)
    place = 2 * (row * points + j)
    tl.store(k + place, k_real, mask=inside)
    tl.store(k + place + 1, k_imaginary, mask=inside)


@triton.jit(do_not_specialize=["points", "span"])
def _backward_kernel(
    dk, v, w, z, drows, dpairs, heads, rows, pairs, points, span,
    ROWS_: tl.constexpr, PAIRS_: tl.constexpr, POINTS_: tl.constexpr,
):  # fmt: skip
    """Sums over `span` points. drows (spans, 2, heads, rows, pairs): S0, S1; dpairs (spans, row blocks, 2,
    heads, pairs): T0, T1 of ROWS_ rows."""
    blocks = tl.cdiv(rows, ROWS_)
    h = (tl.program_id(0) // blocks).to(tl.int64)
    r = tl.program_id(0) % blocks * ROWS_ + tl.arange(0, ROWS_)[:, None, None]
    n = tl.program_id(1) * PAIRS_ + tl.arange(0, PAIRS_)[None, :, None]
    known, row = n < pairs, h * rows + r
    a, b = _complex(w, h * pairs + tl.minimum(n, pairs - 1), True)
    v_real, v_imaginary = _complex(v, row * pairs + n, (r < rows) & known)
    level = -(v_real * a + v_imaginary * b)
    s0 = tl.zeros([ROWS_, PAIRS_, POINTS_], a.dtype)
    s1 = tl.zeros([ROWS_, PAIRS_, POINTS_], a.dtype)
    t0 = tl.zeros([PAIRS_, POINTS_], a.dtype)
    t1 = tl.zeros([PAIRS_, POINTS_], a.dtype)
    part = tl.program_id(2).to(tl.int64)
    for j0 in range(0, span, POINTS_):
        j = part * span + j0 + tl.arange(0, POINTS_)[None, None, :]
        x, y = _complex(z, tl.minimum(j, points - 1), True)
        g, minus_g = _complex(dk, row * points + j, (r < rows) & (j < points))
        s, minus_s = _inverse(x, y, a, b)
        sz_real, sz_imaginary = s * x + minus_s * y, s * y - minus_s * x
        s0 += g * s - minus_g * minus_s
        s1 += g * sz_real + minus_g * sz_imaginary
        # M = conj(dk) (Re v z + e), summed over rows.
        slope, minus_slope = tl.sum(g * v_real, axis=0)[None], tl.sum(minus_g * v_real, axis=0)[None]
        real = slope * x + minus_slope * y + tl.sum(g * level, axis=0)[None]
        imaginary = slope * y - minus_slope * x - tl.sum(minus_g * level, axis=0)[None]
        ms_real, ms_imaginary = real * s + imaginary * minus_s, imaginary * s - real * minus_s
        t0 += tl.sum(ms_real * s + ms_imaginary * minus_s, axis=0)
        t1 += tl.sum(ms_real * sz_real - ms_imaginary * sz_imaginary, axis=0)
    stored, size = (r < rows) & known, tl.cast(heads, tl.int64) * pairs
    place = part * 2 * rows * size + row * pairs + n
    tl.store(drows + place, tl.sum(s0, axis=2)[:, :, None], mask=stored)
    tl.store(drows + place + rows * size, tl.sum(s1, axis=2)[:, :, None], mask=stored)
    n = tl.program_id(1) * PAIRS_ + tl.arange(0, PAIRS_)
    place = (part * blocks + tl.program_id(0) % blocks) * 2 * size + h * pairs + n
    tl.store(dpairs + place, tl.sum(t0, axis=1), mask=n < pairs)
    tl.store(dpairs + place + size, tl.sum(t1, axis=1), mask=n < pairs)


def forward(v: Tensor, w: Tensor, z: Tensor) -> Tensor:
    """k (heads, rows, points) for v (heads, rows, pairs), w (heads, pairs), z (points,)."""
    heads, rows, pairs = v.shape
    k = torch.empty(heads, rows, len(z), dtype=v.dtype, device=v.device)
    row_block = min(next_power_of_2(rows), MAX_ROWS)
    grid = (heads, ceil_div(rows, row_block), ceil_div(len(z), POINTS))
    arguments = (*map(torch.view_as_real, (v, w, z, k)), rows, pairs, len(z))
    launch(_forward_kernel, grid, arguments, ROWS_=row_block, POINTS_=POINTS, num_warps=4)
    return k


def backward(dk: Tensor, v: Tensor, w: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """S0, S1 (heads, rows, pairs), T0, T1 (heads, pairs), as in op.py."""
    heads, rows, pairs = v.shape
    row_block, (pair_block, point_block) = min(next_power_of_2(rows), MAX_ROWS), TILE
    blocks = ceil_div(rows, row_block)
    grid = (heads * blocks, ceil_div(pairs, pair_block))
    span = ceil_div(len(z), max(PROGRAMS * _processors(z) // (grid[0] * grid[1]), 1))
    span = ceil_div(span, point_block) * point_block
    parts = ceil_div(len(z), span)
    drows = torch.empty(parts, 2, heads, rows, pairs, dtype=z.real.dtype, device=z.device)
    dpairs = torch.empty(parts * blocks, 2, heads, pairs, dtype=z.real.dtype, device=z.device)
    arguments = (
        *map(torch.view_as_real, (dk, v, w, z)), drows, dpairs, heads, rows, pairs, len(z), span,
    )  # fmt: skip
    layout = {"ROWS_": row_block, "PAIRS_": pair_block, "POINTS_": point_block, "num_warps": 4}
    launch(_backward_kernel, (*grid, parts), arguments, **layout)
    return *drows.sum(0), *dpairs.sum(0)


def _processors(tensor: Tensor) -> int:
    return processors(tensor.device) if tensor.is_cuda else 1  # the interpreter's
