"""The causal convolution on a GPU: a program walks through a chunk of time with the last inputs in registers.

Narrower filters are filters of width 4 that begin with zeros.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_seq.kernels.rows import even_rows

BLOCK = 128  # channels of a program
CHUNK = 128  # steps of a program
UNROLL = 4
MAX_WIDTH = 4


@triton.jit
def _row(x, start, b, t, c, length, in_c, CHANNELS: tl.constexpr, ROW: tl.constexpr, WIDTH: tl.constexpr,
         HAS_START: tl.constexpr):  # fmt: skip
    """x_t in float32: zero past the end, the initial state's before the beginning."""
    value = tl.load(x + (b * length + t) * ROW + c, mask=in_c & (t >= 0) & (t < length), other=0.0).to(
        tl.float32
    )
    if HAS_START:
        place = (b * (WIDTH - 1) + t + WIDTH - 1) * CHANNELS + c
        value += tl.load(start + place, mask=in_c & (t < 0) & (t >= 1 - WIDTH), other=0.0).to(tl.float32)
    return value


@triton.jit
def _tap(weight, k: tl.constexpr, c, in_c, WIDTH: tl.constexpr):
    """The weight of x_(t - 3 + k)."""
    present = in_c & (k >= 4 - WIDTH)
    return tl.load(weight + c * WIDTH + (k - 4 + WIDTH), mask=present, other=0.0).to(tl.float32)


@triton.jit(do_not_specialize=["length", "chunks"])
def _forward_kernel(
    x, weight, bias, start, y, length, chunks,
    CHANNELS: tl.constexpr, ROW: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_START: tl.constexpr,
    CHUNK_: tl.constexpr, UNROLL_: tl.constexpr, BLOCK_: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (CHANNELS + BLOCK_ - 1) // BLOCK_
    pid = tl.program_id(0)
    c = (pid % blocks) * BLOCK_ + tl.arange(0, BLOCK_)
    in_c = c < CHANNELS
    chunk = pid // blocks % chunks
    b = (pid // blocks // chunks).to(tl.int64)
    w0, w1 = _tap(weight, 0, c, in_c, WIDTH), _tap(weight, 1, c, in_c, WIDTH)
    w2, w3 = _tap(weight, 2, c, in_c, WIDTH), _tap(weight, 3, c, in_c, WIDTH)
    offset = tl.zeros([BLOCK_], tl.float32)
    if HAS_BIAS:
        offset = tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)
    first = chunk * CHUNK_
    x3 = _row(x, start, b, first - 3, c, length, in_c, CHANNELS, ROW, WIDTH, HAS_START)
    x2 = _row(x, start, b, first - 2, c, length, in_c, CHANNELS, ROW, WIDTH, HAS_START)
    x1 = _row(x, start, b, first - 1, c, length, in_c, CHANNELS, ROW, WIDTH, HAS_START)
    for t0 in range(0, CHUNK_, UNROLL_):
        for i in tl.static_range(UNROLL_):
            t = first + t0 + i
            x0 = tl.load(x + (b * length + t) * ROW + c, mask=in_c & (t < length), other=0.0).to(tl.float32)
            out = offset + w0 * x3 + w1 * x2 + w2 * x1 + w3 * x0
            if SILU:
                out = out * tl.sigmoid(out)
            tl.store(y + (b * length + t) * CHANNELS + c, out, mask=in_c & (t < length))
            x3, x2, x1 = x2, x1, x0


@triton.jit(do_not_specialize=["length", "chunks"])
def _backward_kernel(
    dy, x, weight, bias, start, dfinal, dx, dweight, dbias, dstart, length, chunks,
    CHANNELS: tl.constexpr, ROW: tl.constexpr, DY_ROW: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr,
    HAS_BIAS: tl.constexpr, HAS_START: tl.constexpr, HAS_FINAL: tl.constexpr,
    CHUNK_: tl.constexpr, UNROLL_: tl.constexpr, BLOCK_: tl.constexpr,
):  # fmt: skip
    """Step t yields dx_(t - 3), so a chunk runs on for 3 steps more. dweight (batch, chunks, 4, channels)."""
    blocks: tl.constexpr = (CHANNELS + BLOCK_ - 1) // BLOCK_
    pid = tl.program_id(0)
    c = (pid % blocks) * BLOCK_ + tl.arange(0, BLOCK_)
    in_c = c < CHANNELS
    chunk = pid // blocks % chunks
    b = (pid // blocks // chunks).to(tl.int64)
    w0, w1 = _tap(weight, 0, c, in_c, WIDTH), _tap(weight, 1, c, in_c, WIDTH)
    w2, w3 = _tap(weight, 2, c, in_c, WIDTH), _tap(weight, 3, c, in_c, WIDTH)
    nothing = tl.zeros([BLOCK_], tl.float32)
    offset = nothing
    if HAS_BIAS:
        offset = tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)
    first = chunk * CHUNK_
    x3 = _row(x, start, b, first - 3, c, length, in_c, CHANNELS, ROW, WIDTH, HAS_START)
    x2 = _row(x, start, b, first - 2, c, length, in_c, CHANNELS, ROW, WIDTH, HAS_START)
    x1 = _row(x, start, b, first - 1, c, length, in_c, CHANNELS, ROW, WIDTH, HAS_START)
    g3, g2, g1 = nothing, nothing, nothing
    dw0, dw1, dw2, dw3, dsum = nothing, nothing, nothing, nothing, nothing
    for t0 in range(0, CHUNK_ + 4, UNROLL_):
        for i in tl.static_range(UNROLL_):
            t = first + t0 + i
            inside = in_c & (t < length)
            x0 = tl.load(x + (b * length + t) * ROW + c, mask=inside, other=0.0).to(tl.float32)
            g0 = tl.load(dy + (b * length + t) * DY_ROW + c, mask=inside, other=0.0).to(tl.float32)
            if SILU:
                out = offset + w0 * x3 + w1 * x2 + w2 * x1 + w3 * x0
                open_ = tl.sigmoid(out)
                g0 = g0 * open_ * (1.0 + out * (1.0 - open_))
            if t0 + i < CHUNK_:
                dw0 += g0 * x3
                dw1 += g0 * x2
                dw2 += g0 * x1
                dw3 += g0 * x0
                dsum += g0
            s = t - 3
            grad = w3 * g3 + w2 * g2 + w1 * g1 + w0 * g0
            if HAS_FINAL:
                place = (b * (WIDTH - 1) + s - length + WIDTH - 1) * CHANNELS + c
                late = in_c & (s >= length - WIDTH + 1) & (s < length)
                grad += tl.load(dfinal + place, mask=late, other=0.0).to(tl.float32)
            own = in_c & (s >= first) & (s < first + CHUNK_) & (s < length)
            tl.store(dx + (b * length + s) * CHANNELS + c, grad, mask=own)
            if HAS_START:
                early = in_c & (s < 0) & (s >= 1 - WIDTH)
                tl.store(dstart + (b * (WIDTH - 1) + s + WIDTH - 1) * CHANNELS + c, grad, mask=early)
            x3, x2, x1 = x2, x1, x0
            g3, g2, g1 = g2, g1, g0
    part = (b * chunks + chunk) * CHANNELS
    tl.store(dweight + 4 * part + c, dw0, mask=in_c)
    tl.store(dweight + 4 * part + CHANNELS + c, dw1, mask=in_c)
    tl.store(dweight + 4 * part + 2 * CHANNELS + c, dw2, mask=in_c)
    tl.store(dweight + 4 * part + 3 * CHANNELS + c, dw3, mask=in_c)
    tl.store(dbias + part + c, dsum, mask=in_c)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y and the final state."""
    batch, length, channels = x.shape
    taps = weight.shape[1]
    x = even_rows(x)
    y = torch.empty((batch, length, channels), dtype=x.dtype, device=x.device)
    grid, arguments, flags = _launch(x, weight, bias, silu, initial_state)
    _forward_kernel[grid](*arguments, y, length, triton.cdiv(length, CHUNK), **flags)
    past = x.new_zeros(batch, taps - 1, channels) if initial_state is None else initial_state.to(x.dtype)
    final_state = (
        torch.cat([past, x[:, max(length - taps + 1, 0) :]], dim=1)[:, -(taps - 1) :] if taps > 1 else past
    )
    return y, final_state.clone(memory_format=torch.contiguous_format)


def backward(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gradients of x, weight, bias and the initial state."""
    batch, length, channels = x.shape
    taps, chunks = weight.shape[1], triton.cdiv(length, CHUNK)
    dy, x = even_rows(dy), even_rows(x)
    dx = torch.empty((batch, length, channels), dtype=x.dtype, device=x.device)
    dweight = x.new_empty((batch, chunks, MAX_WIDTH, channels), dtype=torch.float32)
    dbias = x.new_empty((batch, chunks, channels), dtype=torch.float32)
    dstart = x.new_zeros((batch, taps - 1, channels), dtype=torch.float32)
    dfinal = None if dfinal is None else dfinal.contiguous()
    grid, arguments, flags = _launch(x, weight, bias, silu, initial_state)
    _backward_kernel[grid](
        dy, *arguments, dfinal, dx, dweight, dbias, dstart, length, chunks,
        DY_ROW=dy.stride(1), HAS_FINAL=dfinal is not None, **flags,
    )  # fmt: skip
    return dx, dweight.sum((0, 1))[MAX_WIDTH - taps :].t().contiguous(), dbias.sum((0, 1)), dstart


def _launch(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_state: Tensor | None):
    batch, length, channels = x.shape
    grid = (batch * triton.cdiv(length, CHUNK) * triton.cdiv(channels, BLOCK),)
    start = None if initial_state is None else initial_state.contiguous()
    flags = {
        "CHANNELS": channels, "ROW": x.stride(1), "WIDTH": weight.shape[1], "SILU": silu,
        "HAS_BIAS": bias is not None, "HAS_START": start is not None,
        "CHUNK_": CHUNK, "UNROLL_": UNROLL, "BLOCK_": BLOCK, "num_warps": 1,
    }  # fmt: skip
    return grid, (x, weight.contiguous(), bias, start), flags
