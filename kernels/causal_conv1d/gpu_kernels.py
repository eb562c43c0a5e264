"""The kernels of the causal convolution for GPUs.

A program takes a tile of (ROWS spans of time, BLOCK channels): each row walks through `span` steps of its
own, the last inputs in registers. The loads of the next UNROLL steps go out before those of this group are
used.
The registers are those of a filter of width 4; of a narrower one the first taps are left out.
"""

import triton
import triton.language as tl

from ssm_seq.kernels.gpu_math import sigmoid


@triton.jit
def _steps(place, t, end, in_c, ROW: tl.constexpr, STEPS: tl.constexpr):
    """What lies at `place` for the times t to t + STEPS, a tuple of tiles; zero outside [0, end)."""
    found = ()
    for i in tl.static_range(STEPS):
        found = found + (tl.load(place + i * ROW, mask=in_c & (t + i >= 0) & (t + i < end), other=0),)
    return found


@triton.jit
def _before(x, start, b, t, c, length, in_c, CHANNELS: tl.constexpr, ROW: tl.constexpr, WIDTH: tl.constexpr):
    """x_t in float32, the initial state's before the beginning."""
    row = (b * length + t) * ROW
    value = tl.load(x + row + c, mask=in_c & (t >= 0) & (t < length), other=0.0).to(tl.float32)
    if start is not None:
        row = (b * (WIDTH - 1) + t + WIDTH - 1) * CHANNELS
        value += tl.load(start + row + c, mask=in_c & (t < 0) & (t >= 1 - WIDTH), other=0.0).to(tl.float32)
    return value


@triton.jit
def _tap(weight, k: tl.constexpr, c, in_c, WIDTH: tl.constexpr):
    """The weight of x_(t - 3 + k)."""
    present = in_c & (k >= 4 - WIDTH)
    return tl.load(weight + c * WIDTH + (k - 4 + WIDTH), mask=present, other=0.0).to(tl.float32)


@triton.jit
def _joined(starts, b, t, length):
    """Whether x_(t - 1) and x_t are of one sequence."""
    return tl.load(starts + b * length + t, mask=(t >= 0) & (t < length), other=0) == 0


@triton.jit
def _filtered(x0, x1, x2, x3, w0, w1, w2, w3, offset, WIDTH: tl.constexpr):
    out = offset + w3 * x0
    if WIDTH > 1:
        out += w2 * x1
    if WIDTH > 2:
        out += w1 * x2
    if WIDTH > 3:
        out += w0 * x3
    return out


@triton.jit(do_not_specialize=["length", "span"])
def forward_kernel(
    x, weight, bias, start, starts, y, final, length, span,
    CHANNELS: tl.constexpr, ROW: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    blocks: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    chunks = tl.cdiv(length, ROWS * span)
    pid = tl.program_id(0)
    c = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)[None, :]
    in_c = c < CHANNELS
    chunk = pid // blocks % chunks
    b = (pid // blocks // chunks).to(tl.int64)
    begin = chunk * (ROWS * span)
    first = begin + tl.arange(0, ROWS)[:, None] * span
    end = tl.minimum(first + span, length)
    place = x + (b * length + first) * ROW + c
    out_place = y + (b * length + first) * CHANNELS + c
    ahead = _steps(place, first, end, in_c, ROW, UNROLL)
    w0, w1 = _tap(weight, 0, c, in_c, WIDTH), _tap(weight, 1, c, in_c, WIDTH)
    w2, w3 = _tap(weight, 2, c, in_c, WIDTH), _tap(weight, 3, c, in_c, WIDTH)
    offset = tl.zeros([1, BLOCK], tl.float32)
    if bias is not None:
        offset = tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)
    x3 = _before(x, start, b, first - 3, c, length, in_c, CHANNELS, ROW, WIDTH)
    x2 = _before(x, start, b, first - 2, c, length, in_c, CHANNELS, ROW, WIDTH)
    x1 = _before(x, start, b, first - 1, c, length, in_c, CHANNELS, ROW, WIDTH)
    if starts is not None:
        joined = _joined(starts, b, first - 1, length)
        x2 = tl.where(joined, x2, 0.0)
        x3 = tl.where(joined & _joined(starts, b, first - 2, length), x3, 0.0)
    for t0 in range(0, tl.minimum(span, length - begin), UNROLL):
        now = ahead
        t = first + t0
        ahead = _steps(place + (t0 + UNROLL) * ROW, t + UNROLL, end, in_c, ROW, UNROLL)
        for i in tl.static_range(UNROLL):
            if starts is not None:
                joined = _joined(starts, b, t + i, length)
                x1, x2, x3 = tl.where(joined, x1, 0.0), tl.where(joined, x2, 0.0), tl.where(joined, x3, 0.0)
            x0 = now[i].to(tl.float32)
            out = _filtered(x0, x1, x2, x3, w0, w1, w2, w3, offset, WIDTH)
            if SILU:
                out = out * sigmoid(out)
            tl.store(out_place + (t0 + i) * CHANNELS, out, mask=in_c & (t + i < end))
            x3, x2, x1 = x2, x1, x0
    if chunk == chunks - 1:
        present = in_c
        for k in tl.static_range(1, WIDTH):
            t = length - k
            value = _before(x, start, b, t, c, length, in_c, CHANNELS, ROW, WIDTH)
            if starts is not None:
                present = present & _joined(starts, b, t + 1, length)
                value = tl.where(present, value, 0.0)
            tl.store(final + (b * (WIDTH - 1) + WIDTH - 1 - k) * CHANNELS + c, value, mask=in_c)


@triton.jit
def _adjoint(
    x0, x1, x2, x3, g, later1, later2, later3, one, two, three, w0, w1, w2, w3, offset,
    WIDTH: tl.constexpr, SILU: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """One step: x1 ... x3 without other sequences' inputs, the gradient before silu, and dx so far.

    one, two, three: whether x_(t - 1) ... is of x_t's sequence. later1, ...: dx_(t - 1), ... from steps
    before t.
    """
    if PACKED:
        x1, x2, x3 = tl.where(one, x1, 0.0), tl.where(two, x2, 0.0), tl.where(three, x3, 0.0)
    if SILU:
        out = _filtered(x0, x1, x2, x3, w0, w1, w2, w3, offset, WIDTH)
        open_ = sigmoid(out)
        g = g * open_ * (1.0 + out * (1.0 - open_))
    if WIDTH > 1:
        later1 += tl.where(one, w2 * g, 0.0) if PACKED else w2 * g
    if WIDTH > 2:
        later2 += tl.where(two, w1 * g, 0.0) if PACKED else w1 * g
    if WIDTH > 3:
        later3 += tl.where(three, w0 * g, 0.0) if PACKED else w0 * g
    return x1, x2, x3, g, w3 * g, later1, later2, later3


@triton.jit
def _from_final(dfinal, starts, b, t, c, length, in_c, three, CHANNELS: tl.constexpr, WIDTH: tl.constexpr):
    """What dx_(t - 3) gets from the final state's gradient."""
    present = (t >= length + 4 - WIDTH) & (t < length + 3)
    if starts is not None:
        present = present & three
    row = (b * (WIDTH - 1) + t - 3 - length + WIDTH - 1) * CHANNELS
    return tl.load(dfinal + row + c, mask=in_c & present, other=0.0).to(tl.float32)


@triton.jit
def _lead_in(
    dy, x, start, starts, dfinal, dstart, b, first, c, length, in_c, w0, w1, w2, w3, offset,
    CHANNELS: tl.constexpr, ROW: tl.constexpr, DY_ROW: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr,
):  # fmt: skip
    """The registers before step `first`: x_(first - 1) ..., dx_(first - 1) ... so far, and what is joined.

    Writes the initial state's gradient if it gets `dstart`; `first` has to be 3.
    """
    PACKED: tl.constexpr = starts is not None
    early_g = _steps(dy + (b * length + first - 3) * DY_ROW + c, first - 3, length, in_c, DY_ROW, 3)
    x3 = _before(x, start, b, first - 6, c, length, in_c, CHANNELS, ROW, WIDTH)
    x2 = _before(x, start, b, first - 5, c, length, in_c, CHANNELS, ROW, WIDTH)
    x1 = _before(x, start, b, first - 4, c, length, in_c, CHANNELS, ROW, WIDTH)
    a1 = tl.zeros_like(x1)
    a2, a3 = a1, a1
    one, two, three = in_c, in_c, in_c
    if PACKED:
        one = _joined(starts, b, first - 4, length)
        two = one & _joined(starts, b, first - 5, length)
        three = two
    for i in tl.static_range(3):
        t = first - 3 + i
        x0 = _before(x, start, b, t, c, length, in_c, CHANNELS, ROW, WIDTH)
        if PACKED:
            joined = _joined(starts, b, t, length)
            one, two, three = joined, joined & one, joined & two
        x1, x2, x3, _, a0, a1, a2, a3 = _adjoint(
            x0, x1, x2, x3, early_g[i].to(tl.float32), a1, a2, a3, one, two, three, w0, w1, w2, w3, offset,
            WIDTH, SILU, PACKED,
        )  # fmt: skip
        if dstart is not None:
            if dfinal is not None:
                a3 += _from_final(dfinal, starts, b, t, c, length, in_c, three, CHANNELS, WIDTH)
            row = (b * (WIDTH - 1) + t + WIDTH - 4) * CHANNELS
            tl.store(dstart + row + c, a3, mask=in_c & (t >= 4 - WIDTH))
        x3, x2, x1 = x2, x1, x0
        a3, a2, a1 = a2, a1, a0
    return x1, x2, x3, a1, a2, a3, one, two


@triton.jit(do_not_specialize=["length", "span"])
def backward_kernel(
    dy, x, weight, bias, start, starts, dfinal, dx, sums, dstart, length, span,
    CHANNELS: tl.constexpr, ROW: tl.constexpr, WIDTH: tl.constexpr, SILU: tl.constexpr,
    DY_ROW: tl.constexpr, DX_ROW: tl.constexpr,
    ROWS: tl.constexpr, BLOCK: tl.constexpr, UNROLL: tl.constexpr,
):  # fmt: skip
    """Step t completes dx_(t - 3): a row begins with 3 steps that it does not own, the last one ends at
    length + 3. sums (programs over batch and time, 5, channels): dweight for width 4, then dbias.
    """
    PACKED: tl.constexpr = starts is not None
    blocks: tl.constexpr = (CHANNELS + BLOCK - 1) // BLOCK
    chunks = tl.cdiv(length + 3, ROWS * span)
    pid = tl.program_id(0)
    c = (pid % blocks) * BLOCK + tl.arange(0, BLOCK)[None, :]
    in_c = c < CHANNELS
    part = (pid // blocks).to(tl.int64)
    chunk = pid // blocks % chunks
    b = (pid // blocks // chunks).to(tl.int64)
    begin = chunk * (ROWS * span)
    first = begin + tl.arange(0, ROWS)[:, None] * span
    end = tl.minimum(first + span, length)
    end_dx = tl.minimum(first + span, length + 3)
    place = x + (b * length + first) * ROW + c
    dy_place = dy + (b * length + first) * DY_ROW + c
    dx_place = dx + (b * length + first - 3) * DX_ROW + c
    next_x = _steps(place, first, end, in_c, ROW, UNROLL)
    next_g = _steps(dy_place, first, end, in_c, DY_ROW, UNROLL)
    w0, w1 = _tap(weight, 0, c, in_c, WIDTH), _tap(weight, 1, c, in_c, WIDTH)
    w2, w3 = _tap(weight, 2, c, in_c, WIDTH), _tap(weight, 3, c, in_c, WIDTH)
    offset = tl.zeros([1, BLOCK], tl.float32)
    if bias is not None:
        offset = tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)
    x1, x2, x3, a1, a2, a3, one, two = _lead_in(
        dy, x, start, starts, dfinal, None, b, first, c, length, in_c, w0, w1, w2, w3, offset,
        CHANNELS, ROW, DY_ROW, WIDTH, SILU,
    )  # fmt: skip
    three = two
    nothing = tl.zeros([ROWS, BLOCK], tl.float32)
    dw0, dw1, dw2, dw3, dsum = nothing, nothing, nothing, nothing, nothing
    for t0 in range(0, tl.minimum(span, length + 3 - begin), UNROLL):
        now_x, now_g = next_x, next_g
        t = first + t0
        next_x = _steps(place + (t0 + UNROLL) * ROW, t + UNROLL, end, in_c, ROW, UNROLL)
        next_g = _steps(dy_place + (t0 + UNROLL) * DY_ROW, t + UNROLL, end, in_c, DY_ROW, UNROLL)
        for i in tl.static_range(UNROLL):
            x0 = now_x[i].to(tl.float32)
            g = now_g[i].to(tl.float32)
            if PACKED:
                joined = _joined(starts, b, t + i, length)
                one, two, three = joined, joined & one, joined & two
            x1, x2, x3, g, a0, a1, a2, a3 = _adjoint(
                x0, x1, x2, x3, g, a1, a2, a3, one, two, three, w0, w1, w2, w3, offset, WIDTH, SILU, PACKED
            )
            dw0 += g * x3
            dw1 += g * x2
            dw2 += g * x1
            dw3 += g * x0
            dsum += g
            if dfinal is not None:
                if begin + ROWS * span > length:
                    a3 += _from_final(dfinal, starts, b, t + i, c, length, in_c, three, CHANNELS, WIDTH)
            tl.store(dx_place + (t0 + i) * DX_ROW, a3, mask=in_c & (t + i >= 3) & (t + i < end_dx))
            x3, x2, x1 = x2, x1, x0
            a3, a2, a1 = a2, a1, a0
    if chunk == 0:
        _lead_in(
            dy, x, start, starts, dfinal, dstart, b, 3, c, length, in_c, w0, w1, w2, w3, offset,
            CHANNELS, ROW, DY_ROW, WIDTH, SILU,
        )  # fmt: skip
    place = sums + part * (5 * CHANNELS) + (pid % blocks) * BLOCK + tl.arange(0, BLOCK)
    present = (pid % blocks) * BLOCK + tl.arange(0, BLOCK) < CHANNELS
    tl.store(place, tl.sum(dw0, 0), mask=present)
    tl.store(place + CHANNELS, tl.sum(dw1, 0), mask=present)
    tl.store(place + 2 * CHANNELS, tl.sum(dw2, 0), mask=present)
    tl.store(place + 3 * CHANNELS, tl.sum(dw3, 0), mask=present)
    if bias is not None:
        tl.store(place + 4 * CHANNELS, tl.sum(dsum, 0), mask=present)


@triton.jit(do_not_specialize=["parts"])
def sum_kernel(
    sums, dweight, dbias, parts,
    CHANNELS: tl.constexpr, WIDTH: tl.constexpr, ROWS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """dweight (channels, width) and dbias (channels,) from their parts. Axis 1 of the grid: tap; 4: dbias."""
    k = tl.program_id(1) + 4 - WIDTH
    c = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    in_c = c < CHANNELS
    part = tl.arange(0, ROWS).to(tl.int64)[:, None]
    total = tl.zeros([ROWS, BLOCK], tl.float32)
    for p in range(0, parts, ROWS):
        place = sums + ((part + p) * 5 + k) * CHANNELS + c[None, :]
        total += tl.load(place, mask=in_c[None, :] & (part + p < parts), other=0.0)
    result = tl.sum(total, 0)
    if k < 4:
        tl.store(dweight + c * WIDTH + k - 4 + WIDTH, result, mask=in_c)
    elif dbias is not None:
        tl.store(dbias + c, result, mask=in_c)
