"""The cross entropy on a GPU, some rows at a time: cuBLAS makes logits, a kernel losses or gradients of them.

The backward computes the logits again. Kept for a vocabulary of 15 they would be as small as nothing, but for
one of 50,000 they are most of a model's memory. Logits are float32 whatever the inputs; their gradients have
the inputs' dtype, for the tensor cores.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2

LOGITS = 2**26  # held at once: 256 MiB, and half of it for their gradients in 16 bits
MAX_ROWS = 2**17  # at once: the tensor cores' sums over rows lose digits where there are too many
TILE = 2048  # logits of a program at a time
WIDE = 8  # a vocabulary is filled up to a multiple, as the tensor cores want it


@triton.jit
def _rows(rows, ROWS_: tl.constexpr):
    """The rows of a program, for loads (the last one again past the end) and whether to store them."""
    row = tl.program_id(0).to(tl.int64) * ROWS_ + tl.arange(0, ROWS_)
    return tl.minimum(row, rows - 1), row < rows


@triton.jit
def _load(logits, place, v, VOCAB: tl.constexpr, ROW: tl.constexpr):
    """Rows are loaded whole, by 16 bytes; what fills up the vocabulary is dropped."""
    z = tl.load(logits + place, mask=v < ROW, other=0.0)
    return tl.where(v < VOCAB, z, float("-inf"))


@triton.jit(do_not_specialize=["rows"])
def _loss_kernel(
    logits, targets, losses, sums, rows,
    VOCAB: tl.constexpr, ROW: tl.constexpr, ROWS_: tl.constexpr, BLOCK_: tl.constexpr,
):  # fmt: skip
    """sums: the logarithm of the sum over the vocabulary. A target past the vocabulary gives NaN."""
    row, stored = _rows(rows, ROWS_)
    highest = tl.full([ROWS_], float("-inf"), tl.float32)
    total = tl.zeros([ROWS_], tl.float32)
    for v0 in range(0, VOCAB, BLOCK_):
        v = v0 + tl.arange(0, BLOCK_)[None, :]
        z = _load(logits, row[:, None] * ROW + v, v, VOCAB, ROW)
        before = highest
        highest = tl.maximum(highest, tl.max(z, axis=1))
        total = total * tl.exp(before - highest) + tl.sum(tl.exp(z - highest[:, None]), axis=1)
    log_sum = highest + tl.log(total)
    target = tl.load(targets + row)
    known = (target >= 0) & (target < VOCAB)
    chosen = tl.load(logits + row * ROW + target, mask=known, other=float("nan"))
    tl.store(losses + row, tl.where(target < 0, 0.0, log_sum - chosen), mask=stored)
    tl.store(sums + row, log_sum, mask=stored)


@triton.jit(do_not_specialize=["rows"])
def _gradient_kernel(
    logits, targets, sums, dlosses, gradient, rows,
    VOCAB: tl.constexpr, ROW: tl.constexpr, ROWS_: tl.constexpr, BLOCK_: tl.constexpr,
):  # fmt: skip
    """gradient = dloss * (softmax - onehot), zero where the vocabulary is filled up; it may be the logits."""
    row, stored = _rows(rows, ROWS_)
    target = tl.load(targets + row)
    scale = tl.where(target < 0, 0.0, tl.load(dlosses + row))[:, None]
    log_sum = tl.load(sums + row)[:, None]
    v = tl.program_id(1) * BLOCK_ + tl.arange(0, BLOCK_)[None, :]
    place = row[:, None] * ROW + v
    z = _load(logits, place, v, VOCAB, ROW)
    value = (tl.exp(z - log_sum) - tl.where(v == target[:, None], 1.0, 0.0)) * scale
    value = tl.where(v < VOCAB, value, 0.0)
    tl.store(gradient + place, value, mask=(v < ROW) & stored[:, None])


def forward(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """losses and the logarithms of the sums over the vocabulary, both float32 (rows,)."""
    matrix = _filled_up(weight, hidden.dtype)
    losses, sums = (torch.empty(len(hidden), dtype=torch.float32, device=hidden.device) for _ in range(2))
    for rows in _chunks(hidden, matrix):
        logits = _product(hidden[rows], matrix.t())
        layout = _layout(weight, matrix)
        arguments = (logits, targets[rows], losses[rows], sums[rows], len(logits))
        launch(_loss_kernel, (ceil_div(len(logits), layout["ROWS_"]),), arguments, **layout)
        del logits, arguments  # before the next chunk's exist
    return losses, sums


def backward(
    dlosses: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden (its dtype) and weight (float32)."""
    matrix = _filled_up(weight, hidden.dtype)
    dhidden = torch.empty(hidden.shape, dtype=hidden.dtype, device=hidden.device)
    dweight = torch.zeros(matrix.shape, dtype=torch.float32, device=hidden.device)
    dlosses = dlosses.contiguous()
    layout = _layout(weight, matrix)
    for rows in _chunks(hidden, matrix):
        logits = _product(hidden[rows], matrix.t())
        gradient = logits if hidden.dtype == torch.float32 else torch.empty_like(logits, dtype=hidden.dtype)
        grid = ceil_div(len(logits), layout["ROWS_"]), ceil_div(layout["ROW"], layout["BLOCK_"])
        arguments = (logits, targets[rows], sums[rows], dlosses[rows], gradient, len(logits))
        launch(_gradient_kernel, grid, arguments, **layout)
        torch.mm(gradient, matrix, out=dhidden[rows])
        dweight += _product(gradient.t(), hidden[rows])
        del logits, gradient, arguments
    return dhidden, dweight[: len(weight)]


def _filled_up(weight: Tensor, dtype: torch.dtype) -> Tensor:
    return F.pad(weight.to(dtype), (0, 0, 0, -len(weight) % WIDE))


def _product(left: Tensor, right: Tensor) -> Tensor:
    """The matrix product in float32, of 16-bit matrices too."""
    if left.dtype == torch.float32:
        return torch.mm(left, right)
    return torch.mm(left, right, out_dtype=torch.float32)


def _chunks(hidden: Tensor, matrix: Tensor) -> Iterator[slice]:
    step = min(
        max(LOGITS // len(matrix) // 64, 1) * 64, MAX_ROWS
    )  # chunks start at 16 bytes: one kernel for all
    return (slice(first, first + step) for first in range(0, len(hidden), step))


def _layout(weight: Tensor, matrix: Tensor) -> dict[str, int]:
    block = min(next_power_of_2(len(matrix)), TILE)
    return {"VOCAB": len(weight), "ROW": len(matrix), "ROWS_": TILE // block, "BLOCK_": block, "num_warps": 4}
