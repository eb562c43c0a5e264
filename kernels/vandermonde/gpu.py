"""The Vandermonde product on a GPU: a program takes a square of positions as a product of two matrices.

Position first + i width + j belongs to row i and column j; exp(l a) is the product of a power for the row
and one for the column, so that `square` positions take 2 width exponentials of each mode.
"""

import math

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2, processors

FORWARD, BACKWARD = (64, 16), (32, 32)  # width of the square, modes at a time: the fastest of six on an H100
MIN_PAIRS = 16  # that a product of matrices takes
PROGRAMS = 4  # of the backward for each multiprocessor, where the positions suffice
QUARTERS = tl.constexpr(2 / math.pi)  # of a turn in a radian


@triton.jit
def _powers(a_real, a_imaginary, position):
    """exp(position a), the phase reduced to an eighth of a turn in float64 before it is rounded.

    Cosine and sine of pi/2 r, |r| <= 1/2, by their series to 3e-8; a general one, which reduces its argument
    in float32, would take several times as many instructions.
    """
    quarters = position.to(tl.float64) * (a_imaginary.to(tl.float64) * QUARTERS)
    nearest = tl.floor(quarters + 0.5)
    r = (quarters - nearest).to(tl.float32)
    q, quadrant = r * r, nearest.to(tl.int64).to(tl.int32)
    cosine = ((9.1926027e-4 * q - 2.0863481e-2) * q + 2.5366951e-1) * q - 1.2337006
    cosine = cosine * q + 1.0
    sine = (((1.6044118e-4 * q - 4.6817541e-3) * q + 7.9692626e-2) * q - 6.4596410e-1) * q + 1.5707963
    sine = sine * r
    odd = (quadrant & 1) == 1
    real, imaginary = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    size = tl.exp(a_real * position.to(tl.float32))
    real = tl.where(((quadrant + 1) & 2) == 2, -real, real) * size
    return real, tl.where((quadrant & 2) == 2, -imaginary, imaginary) * size


@triton.jit
def _complex(parts, place, mask):
    """Real and imaginary parts, which lie side by side; zero where the mask is not set."""
    real = tl.load(parts + 2 * place, mask=mask, other=0.0)
    return real, tl.load(parts + 2 * place + 1, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["length"])
def _forward_kernel(v, a, k, rows, pairs, length, PAIRS_: tl.constexpr, WIDTH_: tl.constexpr):
    """v (heads, rows, pairs), a (heads, pairs), complex; k (heads, rows, length)."""
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1).to(tl.int64) * WIDTH_ * WIDTH_
    i, j = tl.arange(0, WIDTH_), tl.arange(0, WIDTH_)
    total = tl.zeros([WIDTH_, WIDTH_], tl.float32)
    for n0 in range(0, pairs, PAIRS_):
        n = n0 + tl.arange(0, PAIRS_)
        a_real, a_imaginary = _complex(a, row // rows * pairs + n, n < pairs)
        v_real, v_imaginary = _complex(v, row * pairs + n, n < pairs)
        p_real, p_imaginary = _powers(a_real[None, :], a_imaginary[None, :], (first + i * WIDTH_)[:, None])
        left_real = v_real[None, :] * p_real - v_imaginary[None, :] * p_imaginary
        left_imaginary = v_real[None, :] * p_imaginary + v_imaginary[None, :] * p_real
        real, imaginary = _powers(a_real[:, None], a_imaginary[:, None], j[None, :])
        total = tl.dot(left_real, real, total, input_precision="ieee")
        total = tl.dot(-left_imaginary, imaginary, total, input_precision="ieee")
    place = first + i[:, None] * WIDTH_ + j[None, :]
    tl.store(k + row * length + place, 2.0 * total, mask=place < length)


@triton.jit(do_not_specialize=["length", "span"])
def _backward_kernel(
    dk, a, sums, total_rows, rows, pairs, length, span,
    PAIRS_: tl.constexpr, WIDTH_: tl.constexpr,
):  # fmt: skip
    """sums (spans, 2, heads * rows, pairs, 2): of dk exp(l a) and of l dk exp(l a), `span` positions each."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    n = tl.program_id(2) * PAIRS_ + tl.arange(0, PAIRS_)
    i, j = tl.arange(0, WIDTH_), tl.arange(0, WIDTH_)
    a_real, a_imaginary = _complex(a, row // rows * pairs + n, n < pairs)
    # Positions past the length, where dk is 0: a power that is infinite there would make a sum NaN.
    real, imaginary = _powers(a_real[None, :], a_imaginary[None, :], tl.minimum(j, length - 1)[:, None])
    sum_real = tl.zeros([WIDTH_, PAIRS_], tl.float32)
    sum_imaginary = tl.zeros([WIDTH_, PAIRS_], tl.float32)
    moment_real = tl.zeros([WIDTH_, PAIRS_], tl.float32)
    moment_imaginary = tl.zeros([WIDTH_, PAIRS_], tl.float32)
    for l0 in range(0, span, WIDTH_ * WIDTH_):
        first = part * span + l0
        place = first + i[:, None] * WIDTH_ + j[None, :]
        g = tl.load(dk + row * length + place, mask=place < length, other=0.0)
        lg = g * place.to(tl.float32)
        start = tl.minimum(first + i * WIDTH_, length - 1)[:, None]
        p_real, p_imaginary = _powers(a_real[None, :], a_imaginary[None, :], start)
        end_real = tl.dot(g, real, input_precision="ieee")
        end_imaginary = tl.dot(g, imaginary, input_precision="ieee")
        sum_real += end_real * p_real - end_imaginary * p_imaginary
        sum_imaginary += end_real * p_imaginary + end_imaginary * p_real
        end_real = tl.dot(lg, real, input_precision="ieee")
        end_imaginary = tl.dot(lg, imaginary, input_precision="ieee")
        moment_real += end_real * p_real - end_imaginary * p_imaginary
        moment_imaginary += end_real * p_imaginary + end_imaginary * p_real
    place = 2 * ((part * 2 * total_rows + row) * pairs + n)
    tl.store(sums + place, tl.sum(sum_real, axis=0), mask=n < pairs)
    tl.store(sums + place + 1, tl.sum(sum_imaginary, axis=0), mask=n < pairs)
    place += 2 * total_rows * pairs
    tl.store(sums + place, tl.sum(moment_real, axis=0), mask=n < pairs)
    tl.store(sums + place + 1, tl.sum(moment_imaginary, axis=0), mask=n < pairs)


def forward(v: Tensor, a: Tensor, L: int) -> Tensor:
    """k (heads, rows, L) for v (heads, rows, pairs), a (heads, pairs), complex64."""
    heads, rows, pairs = v.shape
    k = torch.empty(heads, rows, L, dtype=torch.float32, device=v.device)
    layout = _layout(pairs, FORWARD)
    grid = (heads * rows, ceil_div(L, layout["WIDTH_"] ** 2))
    arguments = (torch.view_as_real(v), torch.view_as_real(a), k, rows, pairs, L)
    launch(_forward_kernel, grid, arguments, **layout)
    return k


def backward(dk: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over l of dk exp(l a) and of l dk exp(l a), both (heads, rows, pairs)."""
    (heads, rows, L), pairs, layout = dk.shape, a.shape[1], _layout(a.shape[1], BACKWARD)
    square = layout["WIDTH_"] ** 2
    programs = heads * rows * ceil_div(pairs, layout["PAIRS_"])
    wanted = PROGRAMS * processors(dk.device) if dk.is_cuda else 1  # 1 is the interpreter's
    span = ceil_div(ceil_div(L, max(wanted // programs, 1)), square) * square
    parts = ceil_div(L, span)
    sums = torch.empty(parts, 2, heads, rows, pairs, 2, dtype=torch.float32, device=dk.device)
    grid = (heads * rows, parts, ceil_div(pairs, layout["PAIRS_"]))
    arguments = (dk, torch.view_as_real(a), sums, heads * rows, rows, pairs, L, span)
    launch(_backward_kernel, grid, arguments, **layout)
    return torch.view_as_complex(sums.sum(0)).unbind(0)


def _layout(pairs: int, tile: tuple[int, int]) -> dict[str, int]:
    width, most = tile
    return {"PAIRS_": min(max(next_power_of_2(pairs), MIN_PAIRS), most), "WIDTH_": width, "num_warps": 4}
