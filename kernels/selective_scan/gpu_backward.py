"""Backward kernels of the selective scan for NVIDIA GPUs.

1. `chunk_ends` (forward file) of dy and C: the gradient that each chunk sends to the state before it, from
   nothing behind it.
2. `pass_over_chunks`, reversed: the gradient that reaches each chunk's end state.
3. `gradients`: each chunk, walked back interval by interval. An interval starts from a state that the forward
   pass kept, recomputes the states at every `ROUND`th step into shared memory and those of one round into
   registers.

In 3. the tile (channels, d_state) is spread over lanes along both axes, since sums go both ways: over d_state
for u and delta, over channels for B and C. What needs one value a channel is computed for a whole round at
once, before and after the walk, and handed over in shared memory. A program does `SUBS` blocks of channels,
one after the other, and adds up their parts of dB and dC itself: no atomics, and the same bits every time.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_seq.kernels.gluon_math import exp2, sigmoid
from ssm_seq.kernels.selective_scan.gpu_parts import (
    LINE,
    TABLE,
    fetch,
    first_row,
    matrix_layout,
    matrix_rows,
    no_step,
    step_size,
    tile_layout,
    walk,
)

# Shared memory as tables one after the other.
CUBE = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [2, 1, 0]))


@gluon.jit
def _advance(x, steps_r, scaled_r, B_i, i, k, decay_rate, over_d: gl.constexpr):
    """The state after the step i of the interval, which is the step k of its round."""
    decay = exp2(gl.expand_dims(steps_r.index(i).load(over_d), 1) * decay_rate)
    return decay * x + gl.expand_dims(scaled_r.index(k).load(over_d), 1) * B_i


@gluon.jit
def _unless_reset(x, resets, row, t, steps, FLIP: gl.constexpr):
    reset = gl.load(resets + row + walk(t, FLIP), mask=t < steps, other=0) != 0
    return gl.where(reset, 0.0, x)


@gluon.jit
def _over_d_state(part_s, product, BLOCK: gl.constexpr, D_TILE: gl.constexpr, LANES: gl.constexpr):
    """A thread's part of the sum over d_state, left in shared memory (lanes, channels) for `_collect`."""
    parts = gl.sum(gl.reshape(product, [BLOCK, LANES, D_TILE // LANES]), axis=2)
    part_s.store(gl.permute(parts, (1, 0)))


@gluon.jit
def _over_channels(part_s, product, BLOCK: gl.constexpr, D_TILE: gl.constexpr, LANES: gl.constexpr):
    """A thread's part of the sum over channels, (lanes, d_state)."""
    part_s.store(gl.sum(gl.reshape(product, [32 // LANES, BLOCK * LANES // 32, D_TILE]), axis=1))


@gluon.jit
def _collect(parts_s, layout: gl.constexpr, result: gl.constexpr):
    """The sums whose parts several steps left behind, (steps, lanes, values) -> (steps, values)."""
    return gl.convert_layout(gl.sum(parts_s.load(layout), axis=1), result)


@gluon.jit(do_not_specialize=["length", "chunk_steps", "chunks"])
def gradients(
    dy, u, delta, A2, B, C, D, z, bias, resets, kept, ends,
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstart, y, length, chunk_steps, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr, GROUPS: gl.constexpr,
    DY_ROW: gl.constexpr, U_ROW: gl.constexpr, DELTA_ROW: gl.constexpr, Z_ROW: gl.constexpr,
    DZ_ROW: gl.constexpr, B_FIXED: gl.constexpr, C_FIXED: gl.constexpr,
    SOFTPLUS: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_D: gl.constexpr, HAS_Z: gl.constexpr,
    HAS_RESETS: gl.constexpr, HAS_ENDS: gl.constexpr, FLIP: gl.constexpr, AGAIN: gl.constexpr,
    ROUGH: gl.constexpr, KEEP: gl.constexpr, ROUND: gl.constexpr, SUBS: gl.constexpr, CHANNELS: gl.constexpr,
    D_TILE: gl.constexpr, LANES: gl.constexpr,
):  # fmt: skip
    """dA (batch, chunks, channels, d_state), dD, dbias (batch, chunks, channels), for the caller to add up.

    dB, dC (sets, batch, length, groups, d_state), likewise, or like dA where fixed in time. AGAIN: y, too.
    """
    OTHERS: gl.constexpr = 32 // LANES
    BLOCK: gl.constexpr = CHANNELS * OTHERS
    WIDE: gl.constexpr = min(max(ROUND * D_TILE // 32, 1), D_TILE, 4)
    ACROSS: gl.constexpr = min(D_TILE // WIDE, 32)
    LAYOUT: gl.constexpr = tile_layout(CHANNELS, D_TILE, LANES)
    MATRIX: gl.constexpr = matrix_layout(D_TILE)
    WIDTH: gl.constexpr = max(ROUND * BLOCK // 32, 1)
    SEQUENCE: gl.constexpr = gl.BlockedLayout(
        [1, WIDTH], [32 * WIDTH // BLOCK, BLOCK // WIDTH], [1, 1], [1, 0]
    )
    # Of sums before their last addition, over what is in the middle.
    CHANNEL_PARTS: gl.constexpr = gl.BlockedLayout(
        [1, LANES, WIDTH], [32 * WIDTH // BLOCK, 1, BLOCK // WIDTH], [1, 1, 1], [2, 1, 0]
    )
    MATRIX_PARTS: gl.constexpr = gl.BlockedLayout(
        [1, OTHERS, WIDE], [32 // ACROSS, 1, ACROSS], [1, 1, 1], [2, 1, 0]
    )
    PRODUCTS: gl.constexpr = gl.BlockedLayout([1, WIDE], [32 // ACROSS, ACROSS], [1, 1], [1, 0])
    of_group: gl.constexpr = CHANNELS_ALL // GROUPS
    sets: gl.constexpr = ((of_group + BLOCK - 1) // BLOCK + SUBS - 1) // SUBS
    rounds: gl.constexpr = KEEP // ROUND
    over_d: gl.constexpr = gl.SliceLayout(1, LAYOUT)
    over_c: gl.constexpr = gl.SliceLayout(0, LAYOUT)
    M_ROW: gl.constexpr = GROUPS * D_STATE
    steps_s = gl.allocate_shared_memory(gl.float32, [rounds, ROUND, BLOCK], TABLE)
    scaled_s = gl.allocate_shared_memory(gl.float32, [ROUND, BLOCK], TABLE)
    grads_s = gl.allocate_shared_memory(gl.float32, [ROUND, BLOCK], TABLE)
    B_s = gl.allocate_shared_memory(gl.float32, [KEEP, D_TILE], TABLE)
    C_s = gl.allocate_shared_memory(gl.float32, [KEEP, D_TILE], TABLE)
    states_s = gl.allocate_shared_memory(kept.dtype.element_ty, [rounds - 1, BLOCK, D_TILE], TABLE)
    out_parts = gl.allocate_shared_memory(gl.float32, [ROUND, LANES, BLOCK], TABLE)
    scaled_parts = gl.allocate_shared_memory(gl.float32, [ROUND, LANES, BLOCK], TABLE)
    exponent_parts = gl.allocate_shared_memory(gl.float32, [ROUND, LANES, BLOCK], TABLE)
    dB_parts = gl.allocate_shared_memory(gl.float32, [ROUND, OTHERS, D_TILE], TABLE)
    dC_parts = gl.allocate_shared_memory(gl.float32, [ROUND, OTHERS, D_TILE], TABLE)
    steps_r = steps_s._reinterpret(gl.float32, [KEEP, BLOCK], LINE)
    scaled_r = scaled_s._reinterpret(gl.float32, [ROUND, BLOCK], LINE)
    grads_r = grads_s._reinterpret(gl.float32, [ROUND, BLOCK], LINE)
    B_r = B_s._reinterpret(gl.float32, [KEEP, D_TILE], LINE)
    C_r = C_s._reinterpret(gl.float32, [KEEP, D_TILE], LINE)
    out_cube = out_parts._reinterpret(gl.float32, [ROUND, LANES, BLOCK], CUBE)
    scaled_cube = scaled_parts._reinterpret(gl.float32, [ROUND, LANES, BLOCK], CUBE)
    exponent_cube = exponent_parts._reinterpret(gl.float32, [ROUND, LANES, BLOCK], CUBE)
    dB_cube = dB_parts._reinterpret(gl.float32, [ROUND, OTHERS, D_TILE], CUBE)
    dC_cube = dC_parts._reinterpret(gl.float32, [ROUND, OTHERS, D_TILE], CUBE)

    pid = gl.program_id(0)
    set_ = pid % sets
    group = pid // sets % GROUPS
    rest = pid // (sets * GROUPS)
    chunk = rest % chunks
    b = (rest // chunks).to(gl.int64)
    first = chunk * chunk_steps
    row = first_row(b, length, first, FLIP)
    steps = gl.minimum(length - first, chunk_steps)
    intervals = (steps + KEEP - 1) // KEEP
    n = gl.arange(0, D_TILE, over_c)
    if not B_FIXED:
        B += group * D_STATE
    if not C_FIXED:
        C += group * D_STATE
    part = set_.to(gl.int64) * ((gl.num_programs(0) // (sets * GROUPS * chunks)) * length.to(gl.int64))
    i_g = gl.arange(0, ROUND, gl.SliceLayout(1, SEQUENCE))
    i_m = gl.arange(0, ROUND, gl.SliceLayout(1, PRODUCTS))
    n_m = gl.arange(0, D_TILE, gl.SliceLayout(0, PRODUCTS))
    for sub in range(SUBS):
        c0 = group * of_group + (set_ * SUBS + sub) * BLOCK
        c = c0 + gl.arange(0, BLOCK, over_d)
        c_p = c0 + gl.arange(0, BLOCK, gl.SliceLayout(0, SEQUENCE))
        in_c_p = c_p < (group + 1) * of_group
        columns = gl.expand_dims(c_p, 0)
        in_tile = gl.expand_dims(c < (group + 1) * of_group, 1) & gl.expand_dims(n < D_STATE, 0)
        offsets = gl.expand_dims(c, 1) * D_STATE + gl.expand_dims(n, 0)
        decay_rate = gl.load(A2 + offsets, mask=in_tile, other=0.0)
        skip = gl.zeros([BLOCK], gl.float32, gl.SliceLayout(0, SEQUENCE))
        offset = skip
        dD_sum = gl.zeros([ROUND, BLOCK], gl.float32, SEQUENCE)
        dbias_sum = dD_sum
        if HAS_D:
            skip = gl.load(D + c_p, mask=in_c_p, other=0.0)
        if HAS_BIAS:
            offset = gl.load(bias + c_p, mask=in_c_p, other=0.0)
        skip, offset = gl.expand_dims(skip, 0), gl.expand_dims(offset, 0)
        g = gl.zeros([BLOCK, D_TILE], gl.float32, LAYOUT)
        dA_sum = g
        if B_FIXED:
            B_tile = gl.load(B + offsets, mask=in_tile, other=0.0).to(gl.float32)
            dB_sum = g
        if C_FIXED:
            C_tile = gl.load(C + offsets, mask=in_tile, other=0.0).to(gl.float32)
            dC_sum = g
        if HAS_ENDS:
            g = gl.load(
                ends + rest.to(gl.int64) * (CHANNELS_ALL * D_STATE) + offsets, mask=in_tile, other=0.0
            )
        for back in range(0, intervals):
            t = (intervals - 1 - back) * KEEP
            fetch(delta, row, t - KEEP, steps, c0, DELTA_ROW, FLIP, KEEP, BLOCK)
            fetch(u, row, t - KEEP, steps, c0, U_ROW, FLIP, KEEP, BLOCK)
            fetch(dy, row, t - KEEP, steps, c0, DY_ROW, FLIP, KEEP, BLOCK)
            if HAS_Z:
                fetch(z, row, t - KEEP, steps, c0, Z_ROW, FLIP, KEEP, BLOCK)
            if not B_FIXED:
                B_k = matrix_rows(B, row, t, steps, M_ROW, D_STATE, FLIP, KEEP, D_TILE, MATRIX)
            if not C_FIXED:
                C_k = matrix_rows(C, row, t, steps, M_ROW, D_STATE, FLIP, KEEP, D_TILE, MATRIX)
            valid = gl.expand_dims(t + i_g < steps, 1) & gl.expand_dims(in_c_p, 0)
            rows = gl.expand_dims(row + walk(t + i_g, FLIP), 1)
            raw_delta = gl.load(delta + rows * DELTA_ROW + columns, mask=valid, other=no_step(SOFTPLUS))
            raw_u = gl.load(u + rows * U_ROW + columns, mask=valid, other=0.0)
            interval = b * ((length + KEEP - 1) // KEEP) + (first + t) // KEEP
            earlier = gl.maximum(interval - 1, 0)
            fetch(kept, earlier, 0, 1, c0 * D_STATE, CHANNELS_ALL * D_STATE, False, 1, BLOCK * D_TILE)
            x = gl.load(kept + interval * (CHANNELS_ALL * D_STATE) + offsets, mask=in_tile, other=0.0)
            x = x.to(gl.float32)
            if not B_FIXED:
                B_s.store(B_k.to(gl.float32))
            if not C_FIXED:
                C_s.store(C_k.to(gl.float32))
            for j in range(0, rounds - 1):
                step = step_size(raw_delta, offset, valid, SOFTPLUS, ROUGH)
                steps_s.index(j).store(step)
                scaled_s.store(step * raw_u.to(gl.float32))
                valid = gl.expand_dims(t + (j + 1) * ROUND + i_g < steps, 1) & gl.expand_dims(in_c_p, 0)
                rows = gl.expand_dims(row + walk(t + (j + 1) * ROUND + i_g, FLIP), 1)
                raw_delta = gl.load(delta + rows * DELTA_ROW + columns, mask=valid, other=no_step(SOFTPLUS))
                raw_u = gl.load(u + rows * U_ROW + columns, mask=valid, other=0.0)
                states_s.index(j).store(x.to(kept.dtype.element_ty))
                for k in gl.static_range(ROUND):
                    i = j * ROUND + k
                    if HAS_RESETS:
                        x = _unless_reset(x, resets, row, t + i, steps, FLIP)
                    if B_FIXED:
                        B_i = B_tile
                    else:
                        B_i = gl.expand_dims(B_r.index(i).load(over_c), 0)
                    x = _advance(x, steps_r, scaled_r, B_i, i, k, decay_rate, over_d)
            steps_s.index(rounds - 1).store(step_size(raw_delta, offset, valid, SOFTPLUS, ROUGH))
            for jj in range(0, rounds):
                j = rounds - 1 - jj
                t_j = t + j * ROUND
                valid = gl.expand_dims(t_j + i_g < steps, 1) & gl.expand_dims(in_c_p, 0)
                rows = gl.expand_dims(row + walk(t_j + i_g, FLIP), 1)
                value = raw_u.to(gl.float32)
                scaled_s.store(steps_s.index(j).load(SEQUENCE) * value)
                i_b = t_j - ROUND + i_g
                inside = gl.expand_dims((i_b >= t) & (i_b < steps), 1) & gl.expand_dims(in_c_p, 0)
                before = gl.expand_dims(row + walk(i_b, FLIP), 1)
                raw_u = gl.load(u + before * U_ROW + columns, mask=inside, other=0.0)
                raw_delta = gl.load(delta + rows * DELTA_ROW + columns, mask=valid, other=no_step(SOFTPLUS))
                raw_dy = gl.load(dy + rows * DY_ROW + columns, mask=valid, other=0.0)
                if HAS_Z:
                    raw_z = gl.load(z + rows * Z_ROW + columns, mask=valid, other=0.0)
                xs = (x,)
                for k in gl.static_range(ROUND):
                    i = j * ROUND + k
                    if HAS_RESETS:
                        x = _unless_reset(x, resets, row, t + i, steps, FLIP)
                    if B_FIXED:
                        B_i = B_tile
                    else:
                        B_i = gl.expand_dims(B_r.index(i).load(over_c), 0)
                    x = _advance(x, steps_r, scaled_r, B_i, i, k, decay_rate, over_d)
                    xs = xs + (x,)
                grad = raw_dy.to(gl.float32)
                if HAS_Z:
                    gate = raw_z.to(gl.float32)
                    open_ = sigmoid(gate, ROUGH)
                    grad *= gate * open_
                grads_s.store(grad)
                in_m = gl.expand_dims(t_j + i_m < steps, 1) & gl.expand_dims(n_m < D_STATE, 0)
                at = gl.expand_dims(part + row + walk(t_j + i_m, FLIP), 1) * M_ROW
                at += group * D_STATE + gl.expand_dims(n_m, 0)
                if not B_FIXED:
                    dB_before = gl.load(dB + at, mask=in_m & (sub > 0), other=0.0)
                if not C_FIXED:
                    dC_before = gl.load(dC + at, mask=in_m & (sub > 0), other=0.0)
                for k in gl.static_range(ROUND - 1, -1, -1):
                    i = j * ROUND + k
                    step_i = gl.expand_dims(steps_r.index(i).load(over_d), 1)
                    scaled_i = gl.expand_dims(scaled_r.index(k).load(over_d), 1)
                    grad_i = gl.expand_dims(grads_r.index(k).load(over_d), 1)
                    if B_FIXED:
                        B_i = B_tile
                    else:
                        B_i = gl.expand_dims(B_r.index(i).load(over_c), 0)
                    if C_FIXED:
                        C_i = C_tile
                        dC_sum += grad_i * xs[k + 1]
                    else:
                        C_i = gl.expand_dims(C_r.index(i).load(over_c), 0)
                        _over_channels(dC_parts.index(k), grad_i * xs[k + 1], BLOCK, D_TILE, LANES)
                    g += grad_i * C_i
                    if B_FIXED:
                        dB_sum += scaled_i * g
                    else:
                        _over_channels(dB_parts.index(k), scaled_i * g, BLOCK, D_TILE, LANES)
                    if HAS_Z or AGAIN:
                        _over_d_state(out_parts.index(k), xs[k + 1] * C_i, BLOCK, D_TILE, LANES)
                    _over_d_state(scaled_parts.index(k), g * B_i, BLOCK, D_TILE, LANES)
                    g *= exp2(step_i * decay_rate)
                    before_i = xs[k]
                    if HAS_RESETS:
                        g = _unless_reset(g, resets, row, t + i, steps, FLIP)
                        before_i = _unless_reset(before_i, resets, row, t + i, steps, FLIP)
                    change = g * before_i
                    _over_d_state(exponent_parts.index(k), change * decay_rate, BLOCK, D_TILE, LANES)
                    dA_sum += change * step_i
                if not B_FIXED:
                    gl.store(dB + at, dB_before + _collect(dB_cube, MATRIX_PARTS, PRODUCTS), mask=in_m)
                if not C_FIXED:
                    gl.store(dC + at, dC_before + _collect(dC_cube, MATRIX_PARTS, PRODUCTS), mask=in_m)

                dscaled = _collect(scaled_cube, CHANNEL_PARTS, SEQUENCE)
                dstep = (
                    dscaled * value + _collect(exponent_cube, CHANNEL_PARTS, SEQUENCE) * 0.6931471805599453
                )
                if SOFTPLUS:
                    dstep *= sigmoid(raw_delta.to(gl.float32) + offset, ROUGH)
                gl.store(ddelta + rows * CHANNELS_ALL + columns, dstep, mask=valid)
                dbias_sum += gl.where(valid, dstep, 0.0)
                if HAS_Z or AGAIN:
                    out = _collect(out_cube, CHANNEL_PARTS, SEQUENCE) + skip * value
                if HAS_Z:
                    dgate = raw_dy.to(gl.float32) * out * open_ * (1.0 + gate * (1.0 - open_))
                    gl.store(dz + rows * DZ_ROW + columns, dgate, mask=valid)
                    out *= gate * open_
                if AGAIN:
                    gl.store(y + rows * CHANNELS_ALL + columns, out, mask=valid)
                dD_sum += grad * value
                dvalue = dscaled * steps_s.index(j).load(SEQUENCE) + grad * skip
                gl.store(du + rows * CHANNELS_ALL + columns, dvalue, mask=valid)
                x = states_s.index(gl.maximum(j - 1, 0)).load(LAYOUT).to(gl.float32)

        tile = rest.to(gl.int64) * (CHANNELS_ALL * D_STATE) + offsets
        gl.store(dA + tile, dA_sum, mask=in_tile)
        if B_FIXED:
            gl.store(dB + tile, dB_sum, mask=in_tile)
        if C_FIXED:
            gl.store(dC + tile, dC_sum, mask=in_tile)
        gl.store(dD + rest.to(gl.int64) * CHANNELS_ALL + c_p, gl.sum(dD_sum, axis=0), mask=in_c_p)
        gl.store(dbias + rest.to(gl.int64) * CHANNELS_ALL + c_p, gl.sum(dbias_sum, axis=0), mask=in_c_p)
        if chunk == 0:
            gl.store(dstart + b * (CHANNELS_ALL * D_STATE) + offsets, g, mask=in_tile)
