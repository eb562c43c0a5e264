"""The kernels of the time-invariant scan for GPUs.

Time is cut in rows: long ones of `chunks` chunks of SIZE positions, then single chunks, then what is left. A
program takes ROWS rows of CHANNELS_ channels and walks through all of them together, chunk after chunk: the
tile [position, row] of a channel is what its matrices are multiplied with on tensor cores (one warp a
channel), and the states [pair, row] stay in registers.

A walk back in time (REVERSE) is the same with the positions counted from a row's end: with `into` and `out`
exchanged, their positions too, and the decay conjugated it gives the gradient of the input and the adjoint
states.

The matrices come in the order in which tensor cores take them, so that their reads from shared memory do not
meet in its banks.
"""

import triton
import triton.language as tl


@triton.jit
def _place(row, rows, long, span, length, SIZE: tl.constexpr):
    """The sequence of each row and where in it the row begins and ends."""
    sequence = (row // rows).to(tl.int64)
    row = row % rows
    begin = tl.minimum(row, long) * span + tl.maximum(row - long, 0) * SIZE
    end = tl.minimum(begin + tl.where(row < long, span, SIZE), length)
    return sequence, row, begin, end


@triton.jit
def _tile(source, first, time, begin, end, c, in_c, ROW: tl.constexpr):
    """[channel, position, row] of a sequence in float32, zero outside of the rows."""
    inside = (time >= begin) & (time < end)
    place = source + (first + time * ROW)[None, :, :] + c
    return tl.load(place, mask=in_c & inside[None, :, :], other=0.0).to(tl.float32)


@triton.jit
def _high(x):
    """The nearest number of 11 bits, which is what tensor cores see of float32."""
    return ((x.to(tl.int32, bitcast=True) + 4096) & -8192).to(tl.float32, bitcast=True)


@triton.jit
def _dot(a, b, total, WHOLE_A: tl.constexpr, WHOLE_B: tl.constexpr):
    """total + a b in float32: of a factor that is not WHOLE the first 11 bits are enough, or all it has."""
    a_high = _high(a)
    b_high = _high(b)
    if WHOLE_A:
        total = tl.dot(a - a_high, b_high, total, input_precision="tf32")
    if WHOLE_B:
        total = tl.dot(a_high, b - b_high, total, input_precision="tf32")
    return tl.dot(a_high, b_high, total, input_precision="tf32")


@triton.jit(do_not_specialize=["length", "batch", "rows", "long", "chunks"])
def walk_kernel(
    v, w, within, into, out, decay, states, y, collected, weighted, correlation,
    length, batch, rows, long, chunks,
    CHANNELS: tl.constexpr, PAIRS: tl.constexpr, V_ROW: tl.constexpr, W_ROW: tl.constexpr,
    REVERSE: tl.constexpr, ENDS: tl.constexpr, WIDE: tl.constexpr,
    SIZE: tl.constexpr, ROWS: tl.constexpr, CHANNELS_: tl.constexpr, PAIRS_: tl.constexpr,
):  # fmt: skip
    """Walk through v (batch, length, CHANNELS) and leave what there is a place for.

    ENDS: the state at the end of each row, from zero, goes to `states`; all rows end together. Otherwise
    the states before the rows come from there, all rows begin together, and
    y: the output, like v;
    collected: sums over chunks of the state before times w, in the place of `out`, for each program;
    weighted: of out times the conjugate of these, weighted by `chunks` less the chunk's number, and summed
    over its positions;
    correlation: sums over chunks of v_s w_t, at [s, t].

    WIDE: v and w are float32, and every product is. Of 16-bit ones, which tensor cores see whole, the outputs
    alone come from products of 11 bits: states and sums are those of float32.
    """
    groups: tl.constexpr = (CHANNELS + CHANNELS_ - 1) // CHANNELS_
    block = tl.program_id(0) // groups
    c = (tl.program_id(0) % groups) * CHANNELS_ + tl.arange(0, CHANNELS_)[:, None, None]
    in_c = c < CHANNELS
    t = tl.arange(0, SIZE)
    p = tl.arange(0, PAIRS_)
    number = block * ROWS + tl.arange(0, ROWS)
    here = number < batch * rows
    sequence, row, begin, end = _place(number, rows, long, chunks * SIZE, length, SIZE)
    end = tl.where(here, end, begin)
    count = tl.max(tl.where(here & (row < long), chunks, 1), axis=0)

    if REVERSE:
        step = -SIZE
        origin = begin + count * SIZE if ENDS else end
        time = (origin - 1)[None, :] - t[:, None]
        row = rows - 1 - row
    else:
        step = SIZE
        origin = end - count * SIZE if ENDS else begin
        time = origin[None, :] + t[:, None]
    time = time.to(tl.int64)
    begin = begin[None, :]
    end = end[None, :]

    pair = p[None, :, None]
    in_p = in_c & (pair < PAIRS)
    at = into + (c * PAIRS + pair) * SIZE + t[None, None, :]
    into_re = tl.load(at, mask=in_p, other=0.0)
    into_im = tl.load(at + CHANNELS * PAIRS * SIZE, mask=in_p, other=0.0)
    pole = decay + (c * PAIRS + pair) * 2
    low = pole + CHANNELS * PAIRS * 2  # what rounding took from it
    a_re = tl.load(pole, mask=in_p, other=0.0)
    a_im = tl.load(pole + 1, mask=in_p, other=0.0)
    b_re = tl.load(low, mask=in_p, other=0.0)
    b_im = tl.load(low + 1, mask=in_p, other=0.0)
    state = states + (sequence * (rows + 1) + row)[None, None, :] * (CHANNELS * PAIRS * 2)
    state += (c * PAIRS + pair) * 2
    in_state = in_p & here[None, None, :]
    nothing = tl.zeros((CHANNELS_, PAIRS_, ROWS), tl.float32)
    if ENDS:
        x_re = nothing
        x_im = nothing
        state += CHANNELS * PAIRS * 2
    else:
        x_re = tl.load(state, mask=in_state, other=0.0)
        x_im = tl.load(state + 1, mask=in_state, other=0.0)
    if y is not None:
        in_last = in_c & (p < PAIRS)[None, None, :]
        at = out + (c * SIZE + t[None, :, None]) * PAIRS + p[None, None, :]
        out_re = tl.load(at, mask=in_last, other=0.0)
        out_im = tl.load(at + CHANNELS * SIZE * PAIRS, mask=in_last, other=0.0)
        lags = tl.load(within + (c * SIZE + t[None, :, None]) * SIZE + t[None, None, :], mask=in_c, other=0.0)
    if collected is not None:
        sum_re = tl.zeros((CHANNELS_, PAIRS_, SIZE), tl.float32)
        sum_im = tl.zeros((CHANNELS_, PAIRS_, SIZE), tl.float32)
        later_re = tl.zeros((CHANNELS_, PAIRS_, SIZE), tl.float32)
        later_im = tl.zeros((CHANNELS_, PAIRS_, SIZE), tl.float32)
    if correlation is not None:
        pairs_of_times = tl.zeros((CHANNELS_, SIZE, SIZE), tl.float32)

    start_v = (sequence * length * V_ROW)[None, :]
    ahead = _tile(v, start_v, time, begin, end, c, in_c, V_ROW)
    if collected is not None:
        start_w = (sequence * length * W_ROW)[None, :]
        ahead_w = _tile(w, start_w, time, begin, end, c, in_c, W_ROW)
    for i in range(count):
        # The next chunk is on its way while this one is worked on.
        value = ahead
        now = time
        time += step
        ahead = _tile(v, start_v, time, begin, end, c, in_c, V_ROW)
        if collected is not None:
            other = ahead_w
            ahead_w = _tile(w, start_w, time, begin, end, c, in_c, W_ROW)
            across = tl.permute(other, (0, 2, 1))
            sum_re += _dot(x_re, across, tl.zeros((CHANNELS_, PAIRS_, SIZE), tl.float32), True, WIDE)
            sum_im += _dot(x_im, across, tl.zeros((CHANNELS_, PAIRS_, SIZE), tl.float32), True, WIDE)
            later_re += sum_re
            later_im += sum_im
            if correlation is not None:
                square = tl.zeros((CHANNELS_, SIZE, SIZE), tl.float32)
                pairs_of_times += _dot(value, across, square, WIDE, WIDE)
        if y is not None:
            result = _dot(lags, value, tl.zeros((CHANNELS_, SIZE, ROWS), tl.float32), WIDE, WIDE)
            result = _dot(out_re, x_re, result, WIDE, WIDE)
            result = _dot(out_im, x_im, result, WIDE, WIDE)
            inside = (now >= begin) & (now < end)
            place = y + ((sequence * length)[None, :] + now)[None, :, :] * CHANNELS + c
            tl.store(place, result.to(y.dtype.element_ty), mask=in_c & inside[None, :, :])
        # Tensor cores cut off what they add up and don't round it. In a state that went through them from
        # chunk to chunk the error would grow with their number (3.5e-6 after 32), so states and sums are
        # added outside.
        new_re = _dot(into_re, value, nothing, True, WIDE)
        new_im = _dot(into_im, value, nothing, True, WIDE)
        if REVERSE:
            new_re = new_re + b_re * x_re + b_im * x_im + a_im * x_im + a_re * x_re
            new_im = new_im + b_re * x_im - b_im * x_re - a_im * x_re + a_re * x_im
        else:
            new_re = new_re + b_re * x_re - b_im * x_im - a_im * x_im + a_re * x_re
            new_im = new_im + b_re * x_im + b_im * x_re + a_im * x_re + a_re * x_im
        x_re = new_re
        x_im = new_im

    if ENDS:
        tl.store(state, x_re, mask=in_state)
        tl.store(state + 1, x_im, mask=in_state)
    if collected is not None:
        spare = (chunks - count).to(tl.float32)
        later_re += spare * sum_re
        later_im += spare * sum_im
        place = out + (c * SIZE + t[None, None, :]) * PAIRS + pair
        mate_re = tl.load(place, mask=in_p, other=0.0)
        mate_im = tl.load(place + CHANNELS * SIZE * PAIRS, mask=in_p, other=0.0)
        real = tl.sum(mate_re * later_re + mate_im * later_im, axis=2)
        imaginary = tl.sum(mate_im * later_re - mate_re * later_im, axis=2)
        c2 = (tl.program_id(0) % groups) * CHANNELS_ + tl.arange(0, CHANNELS_)[:, None]
        flat = ((block.to(tl.int64) * CHANNELS + c2) * PAIRS + p[None, :]) * 2
        in_flat = (c2 < CHANNELS) & (p[None, :] < PAIRS)
        tl.store(weighted + flat, real, mask=in_flat)
        tl.store(weighted + flat + 1, imaginary, mask=in_flat)
        place = ((block.to(tl.int64) * CHANNELS + c) * PAIRS + pair) * SIZE + t[None, None, :]
        tl.store(collected + place * 2, sum_re, mask=in_p)
        tl.store(collected + place * 2 + 1, sum_im, mask=in_p)
    if correlation is not None:
        square = ((block.to(tl.int64) * CHANNELS + c) * SIZE + t[None, :, None]) * SIZE + t[None, None, :]
        tl.store(correlation + square, pairs_of_times, mask=in_c)


@triton.jit(do_not_specialize=["rows", "long", "span", "length"])
def pass_kernel(
    states, start, leaps, kept, reach, rows, long, span, length,
    NUMBERS: tl.constexpr, SIZE: tl.constexpr, REVERSE: tl.constexpr, BLOCK: tl.constexpr,
    UNROLL: tl.constexpr,
):  # fmt: skip
    """Carry the state through the rows of a sequence, in float64: ends from zero become states before.

    states: (batch, rows + 1, NUMBERS) complex; the last one comes out as the state after everything.
    leaps: Abar^steps of a long row, a chunk and the last row, (3, NUMBERS) complex128.
    REVERSE: the rows in turn are the last to the first, the leaps conjugated; reach: sum over rows of the
    state times the conjugate of (span x_end - (span - steps) leap x_begin), the x from `kept`.
    """
    n = (tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)) * 2
    b = tl.program_id(1).to(tl.int64)
    mask = n < 2 * NUMBERS
    base = states + b * (rows + 1) * (2 * NUMBERS) + n
    if start is not None:
        x_re = tl.load(start + b * (2 * NUMBERS) + n, mask=mask, other=0.0).to(tl.float64)
        x_im = tl.load(start + b * (2 * NUMBERS) + n + 1, mask=mask, other=0.0).to(tl.float64)
    else:
        x_re = tl.zeros((BLOCK,), tl.float64)
        x_im = tl.zeros((BLOCK,), tl.float64)
    tl.store(base, x_re.to(tl.float32), mask=mask)
    tl.store(base + 1, x_im.to(tl.float32), mask=mask)
    long_re = tl.load(leaps + n, mask=mask, other=0.0)
    long_im = tl.load(leaps + n + 1, mask=mask, other=0.0)
    short_re = tl.load(leaps + 2 * NUMBERS + n, mask=mask, other=0.0)
    short_im = tl.load(leaps + 2 * NUMBERS + n + 1, mask=mask, other=0.0)
    last_re = tl.load(leaps + 4 * NUMBERS + n, mask=mask, other=0.0)
    last_im = tl.load(leaps + 4 * NUMBERS + n + 1, mask=mask, other=0.0)
    reach_re = tl.zeros((BLOCK,), tl.float64)
    reach_im = tl.zeros((BLOCK,), tl.float64)
    for first in range(0, rows, UNROLL):
        ends_re = ()
        ends_im = ()
        for i in tl.static_range(UNROLL):
            place = base + (i + 1) * (2 * NUMBERS)
            ends_re = ends_re + (tl.load(place, mask=mask & (first + i < rows), other=0.0),)
            ends_im = ends_im + (tl.load(place + 1, mask=mask & (first + i < rows), other=0.0),)
        if REVERSE:
            after_re = ()
            after_im = ()
            for i in tl.static_range(UNROLL + 1):
                row = rows - first - i
                place = kept + (b * (rows + 1) + row) * (2 * NUMBERS) + n
                after_re = after_re + (tl.load(place, mask=mask & (row >= 0), other=0.0),)
                after_im = after_im + (tl.load(place + 1, mask=mask & (row >= 0), other=0.0),)
        for i in tl.static_range(UNROLL):
            inside = first + i < rows
            row = rows - 1 - first - i if REVERSE else first + i
            leap_re = tl.where(row < long, long_re, tl.where(row == rows - 1, last_re, short_re))
            leap_im = tl.where(row < long, long_im, tl.where(row == rows - 1, last_im, short_im))
            if REVERSE:
                begin = tl.minimum(row, long) * span + tl.maximum(row - long, 0) * SIZE
                steps = tl.minimum(tl.where(row < long, span, SIZE), length - begin)
                missing = tl.where(inside, span - steps, 0)
                before_re = after_re[i + 1].to(tl.float64)
                before_im = after_im[i + 1].to(tl.float64)
                end_re = after_re[i].to(tl.float64) * span
                end_im = after_im[i].to(tl.float64) * span
                end_re -= missing * (leap_re * before_re - leap_im * before_im)
                end_im -= missing * (leap_re * before_im + leap_im * before_re)
                reach_re += tl.where(inside, x_re * end_re + x_im * end_im, 0.0)
                reach_im += tl.where(inside, x_im * end_re - x_re * end_im, 0.0)
                leap_im = -leap_im
            next_re = leap_re * x_re - leap_im * x_im + ends_re[i].to(tl.float64)
            next_im = leap_re * x_im + leap_im * x_re + ends_im[i].to(tl.float64)
            x_re = tl.where(inside, next_re, x_re)
            x_im = tl.where(inside, next_im, x_im)
            place = base + (i + 1) * (2 * NUMBERS)
            tl.store(place, x_re.to(tl.float32), mask=mask & inside)
            tl.store(place + 1, x_im.to(tl.float32), mask=mask & inside)
        base += UNROLL * 2 * NUMBERS
    if REVERSE:
        tl.store(reach + b * (2 * NUMBERS) + n, reach_re, mask=mask)
        tl.store(reach + b * (2 * NUMBERS) + n + 1, reach_im, mask=mask)
