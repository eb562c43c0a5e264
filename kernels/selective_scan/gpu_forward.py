"""Forward kernels of the selective scan for NVIDIA GPUs, parallel over chunks of the sequence.

1. `chunk_ends`: each chunk's end state from a zero start, and the sum of its steps (whose product with A is
   the logarithm of the chunk's decay). It walks back from the chunk's end, and stops where everything before
   has decayed to nothing: in a long chunk soon.
2. `pass_over_chunks`: the state at every chunk's start; the only sequential part, one step a chunk.
3. `outputs`: each chunk from its start state.

One warp walks through time with a tile (channels, d_state) of states in registers. A thread holds a few
channels and up to 32 of their states, so sums over d_state stay in the thread. The layouts are written out,
which is why this is Gluon and not Triton: all threads share wide reads of B and C, which wait in shared
memory in float32. A tile is a tuple of groups, four states to a thread each, since they decay at different
rates. Exponentials are base 2.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_seq.kernels.gluon_math import exp2, sigmoid
from ssm_seq.kernels.selective_scan.gpu_parts import (
    LINE,
    TABLE,
    fetch,
    first_row,
    load_tile,
    matrix_layout,
    matrix_rows,
    no_step,
    place,
    rows_ahead,
    step_size,
    store_tile,
    tile_layout,
    walk,
)


@gluon.constexpr_function
def negligible(rough):
    """The power of two below which what is left of a step counts as nothing."""
    return -24.0 if rough else -32.0


@gluon.jit(do_not_specialize=["length", "chunk_steps", "chunks"])
def chunk_ends(
    sequence, delta, A2, matrix, z, bias, resets, states, sums, length, chunk_steps, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr, GROUPS: gl.constexpr,
    ROW: gl.constexpr, DELTA_ROW: gl.constexpr, Z_ROW: gl.constexpr, FIXED: gl.constexpr,
    SOFTPLUS: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_RESETS: gl.constexpr, HAS_Z: gl.constexpr,
    FLIP: gl.constexpr, ADJOINT: gl.constexpr, UNROLL: gl.constexpr, ROUGH: gl.constexpr,
    STAGE: gl.constexpr, CHANNELS: gl.constexpr, D_TILE: gl.constexpr, LANES: gl.constexpr,
    TILES: gl.constexpr,
):  # fmt: skip
    """states (batch, chunks, channels, d_state) and sums (batch, chunks, channels), but of the last passed.

    Of u and B the chunk's end state: the sum over t of exp2(A2 * steps after t) step_t u_t B_t.
    ADJOINT, of dy and C what the state before the chunk is sent: of exp2(A2 * steps up to t) dy_t C_t.
    Both begin at the end of the chunk where the exponential is largest; w counts from there.
    """
    WIDTH: gl.constexpr = D_TILE // TILES
    LAYOUT: gl.constexpr = tile_layout(CHANNELS, WIDTH, LANES)
    MATRIX: gl.constexpr = matrix_layout(D_TILE)
    BLOCK: gl.constexpr = CHANNELS * 32 // LANES
    BACK: gl.constexpr = FLIP == ADJOINT
    over_c: gl.constexpr = gl.SliceLayout(0, LAYOUT)
    over_d: gl.constexpr = gl.SliceLayout(1, LAYOUT)
    rest, group, c0, c, in_c = place(CHANNELS_ALL, GROUPS, CHANNELS, LANES, LAYOUT)
    b = (rest // (chunks - 1)).to(gl.int64)
    chunk = rest % (chunks - 1)
    if ADJOINT:
        chunk += 1
    decay_rates = load_tile(A2, 0, c, in_c, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
    offset = gl.zeros([BLOCK], gl.float32, over_d)
    if HAS_BIAS:
        offset = gl.load(bias + c, mask=in_c, other=0.0)
    first = chunk * chunk_steps
    steps = gl.minimum(length - first, chunk_steps)
    if ADJOINT:
        row = first_row(b, length, first, FLIP)
    else:
        row = first_row(b, length, first + steps - 1, FLIP)
    total = gl.zeros([BLOCK], gl.float32, over_d)
    xs = ()
    alive = ()
    for g in gl.static_range(TILES):
        xs = xs + (gl.zeros([BLOCK, WIDTH], gl.float32, LAYOUT),)
        alive = alive + (steps > 0,)
    M_ROW: gl.constexpr = GROUPS * D_STATE
    if FIXED:
        M_tiles = load_tile(matrix, 0, c, in_c, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
    else:
        matrix += group * D_STATE
        M_next = matrix_rows(matrix, row, 0, steps, M_ROW, D_STATE, BACK, STAGE, D_TILE, MATRIX)
    M_s = gl.allocate_shared_memory(gl.float32, [STAGE, D_TILE], TABLE)
    M_r = M_s._reinterpret(gl.float32, [STAGE * TILES, WIDTH], LINE)
    values = rows_ahead(sequence, row, 0, steps, c, in_c, 0.0, ROW, BACK, UNROLL)
    deltas = rows_ahead(delta, row, 0, steps, c, in_c, no_step(SOFTPLUS), DELTA_ROW, BACK, UNROLL)
    gates = values
    if HAS_Z:
        gates = rows_ahead(z, row, 0, steps, c, in_c, 0.0, Z_ROW, BACK, UNROLL)
    stage = 0
    going = steps > 0
    while going:
        fetch(sequence, row, stage + STAGE, steps, c0, ROW, BACK, STAGE, BLOCK)
        fetch(delta, row, stage + STAGE, steps, c0, DELTA_ROW, BACK, STAGE, BLOCK)
        if HAS_Z:
            fetch(z, row, stage + STAGE, steps, c0, Z_ROW, BACK, STAGE, BLOCK)
        if not FIXED:
            M_s.store(M_next.to(gl.float32))
            M_next = matrix_rows(
                matrix, row, stage + STAGE, steps, M_ROW, D_STATE, BACK, STAGE, D_TILE, MATRIX
            )
        for at in range(0, STAGE, UNROLL):
            w = stage + at
            values_next = rows_ahead(sequence, row, w + UNROLL, steps, c, in_c, 0.0, ROW, BACK, UNROLL)
            deltas_next = rows_ahead(
                delta, row, w + UNROLL, steps, c, in_c, no_step(SOFTPLUS), DELTA_ROW, BACK, UNROLL
            )
            gates_next = values_next
            if HAS_Z:
                gates_next = rows_ahead(z, row, w + UNROLL, steps, c, in_c, 0.0, Z_ROW, BACK, UNROLL)
            between = ()
            takens = ()
            for i in gl.static_range(UNROLL):
                step = step_size(deltas[i], offset, w + i < steps, SOFTPLUS, ROUGH)
                taken = values[i].to(gl.float32)
                if HAS_Z:
                    gate = gates[i].to(gl.float32)
                    taken *= gate * sigmoid(gate, ROUGH)
                if HAS_RESETS:
                    reset = gl.load(resets + row + walk(w + i, BACK), mask=w + i < steps, other=0) != 0
                if ADJOINT:
                    if HAS_RESETS:
                        total = gl.where(reset, float("inf"), total)
                    total += step
                    between = between + (total,)
                else:
                    between = between + (total,)
                    taken *= step
                    total += step
                    if HAS_RESETS:
                        total = gl.where(reset, float("inf"), total)
                takens = takens + (taken,)
            new = ()
            for g in gl.static_range(TILES):
                x = xs[g]
                if alive[g]:
                    for i in gl.static_range(UNROLL):
                        weight = exp2(gl.expand_dims(between[i], 1) * decay_rates[g])
                        if FIXED:
                            M_t = M_tiles[g]
                        else:
                            M_t = gl.expand_dims(M_r.index((at + i) * TILES + g).load(over_c), 0)
                        added = weight * (gl.expand_dims(takens[i], 1) * M_t)
                        if HAS_RESETS:
                            added = gl.where(gl.expand_dims(between[i], 1) == float("inf"), 0.0, added)
                        x += added
                new = new + (x,)
            xs = new
            values = values_next
            deltas = deltas_next
            gates = gates_next
        stage += STAGE
        going = False
        still = ()
        for g in gl.static_range(TILES):
            n = g * WIDTH + gl.arange(0, WIDTH, over_c)
            exists = gl.expand_dims(in_c, 1) & gl.expand_dims(n < D_STATE, 0)
            exponent = gl.where(exists, gl.expand_dims(total, 1) * decay_rates[g], float("-inf"))
            slowest = gl.max(gl.max(exponent, axis=1), axis=0)
            still = still + (alive[g] & (stage < steps) & (slowest > negligible(ROUGH)),)
            going = going | still[g]
        alive = still
    base = b * chunks + chunk
    store_tile(states, base, c, in_c, xs, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
    gl.store(sums + base * CHANNELS_ALL + c, total, mask=in_c)


@gluon.jit(do_not_specialize=["chunks"])
def pass_over_chunks(
    states, sums, A2, start, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr, HAS_START: gl.constexpr, REVERSE: gl.constexpr,
    HAS_RESETS: gl.constexpr, BLOCK: gl.constexpr, UNROLL: gl.constexpr,
):  # fmt: skip
    """Each chunk's end state becomes the state at its start (REVERSE: gradients, from the last chunk on)."""
    size: gl.constexpr = CHANNELS_ALL * D_STATE
    layout: gl.constexpr = gl.BlockedLayout([1], [32], [gl.num_warps()], [0])
    b = gl.program_id(1).to(gl.int64)
    i = gl.program_id(0) * BLOCK + gl.arange(0, BLOCK, layout)
    inside = i < size
    decay_rate = gl.load(A2 + i, mask=inside, other=0.0)
    x = gl.zeros([BLOCK], gl.float32, layout)
    if HAS_START:
        x = gl.load(start + b * size + i, mask=inside, other=0.0)
    for k in range(0, chunks, UNROLL):
        ends = ()
        decays = ()
        crossed = ()
        for j in gl.static_range(UNROLL):
            chunk = k + j
            # The last chunk to be reached has no end to hand on: nothing was written there.
            mask = inside & (chunk < chunks - 1)
            if REVERSE:
                chunk = chunks - 1 - chunk
            ends = ends + (gl.load(states + (b * chunks + chunk) * size + i, mask=mask, other=0.0),)
            summed = gl.load(sums + (b * chunks + chunk) * CHANNELS_ALL + i // D_STATE, mask=mask, other=0.0)
            decays = decays + (exp2(decay_rate * summed),)
            crossed = crossed + (summed == float("inf"),)
        for j in gl.static_range(UNROLL):
            chunk = k + j
            mask = inside & (chunk < chunks)
            if REVERSE:
                chunk = chunks - 1 - chunk
            gl.store(states + (b * chunks + chunk) * size + i, x, mask=mask)
            x = decays[j] * x
            if HAS_RESETS:
                x = gl.where(crossed[j], 0.0, x)
            x += ends[j]


@gluon.jit(do_not_specialize=["length", "chunk_steps", "chunks"])
def outputs(
    u, delta, A2, B, C, D, z, bias, resets, states, y, final, kept, length, chunk_steps, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr, GROUPS: gl.constexpr,
    U_ROW: gl.constexpr, DELTA_ROW: gl.constexpr, Z_ROW: gl.constexpr,
    B_FIXED: gl.constexpr, C_FIXED: gl.constexpr,
    KEEP: gl.constexpr, UNROLL: gl.constexpr, SOFTPLUS: gl.constexpr,
    HAS_START: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_D: gl.constexpr, HAS_Z: gl.constexpr,
    HAS_RESETS: gl.constexpr, FLIP: gl.constexpr, ROUGH: gl.constexpr,
    STAGE: gl.constexpr, CHANNELS: gl.constexpr, D_TILE: gl.constexpr, LANES: gl.constexpr,
    TILES: gl.constexpr,
):  # fmt: skip
    """y, the final state, and x before every KEEPth step, kept (batch, intervals, channels, d_state)."""
    WIDTH: gl.constexpr = D_TILE // TILES
    LAYOUT: gl.constexpr = tile_layout(CHANNELS, WIDTH, LANES)
    MATRIX: gl.constexpr = matrix_layout(D_TILE)
    BLOCK: gl.constexpr = CHANNELS * 32 // LANES
    over_c: gl.constexpr = gl.SliceLayout(0, LAYOUT)
    over_d: gl.constexpr = gl.SliceLayout(1, LAYOUT)
    rest, group, c0, c, in_c = place(CHANNELS_ALL, GROUPS, CHANNELS, LANES, LAYOUT)
    b = (rest // chunks).to(gl.int64)
    chunk = rest % chunks
    decay_rates = load_tile(A2, 0, c, in_c, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
    offset = gl.zeros([BLOCK], gl.float32, over_d)
    skip = offset
    if HAS_BIAS:
        offset = gl.load(bias + c, mask=in_c, other=0.0)
    if HAS_D:
        skip = gl.load(D + c, mask=in_c, other=0.0)
    first = chunk * chunk_steps
    row = first_row(b, length, first, FLIP)
    steps = gl.minimum(length - first, chunk_steps)
    if HAS_START:
        xs = load_tile(states, b * chunks + chunk, c, in_c, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
    else:
        xs = ()
        for g in gl.static_range(TILES):
            xs = xs + (gl.zeros([BLOCK, WIDTH], gl.float32, LAYOUT),)
    if B_FIXED:
        B_tiles = load_tile(B, 0, c, in_c, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
    if C_FIXED:
        C_tiles = load_tile(C, 0, c, in_c, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
    M_row: gl.constexpr = GROUPS * D_STATE
    B += group * D_STATE
    C += group * D_STATE
    B_s = gl.allocate_shared_memory(gl.float32, [STAGE, D_TILE], TABLE)
    C_s = gl.allocate_shared_memory(gl.float32, [STAGE, D_TILE], TABLE)
    B_r = B_s._reinterpret(gl.float32, [STAGE * TILES, WIDTH], LINE)
    C_r = C_s._reinterpret(gl.float32, [STAGE * TILES, WIDTH], LINE)
    if not B_FIXED:
        B_next = matrix_rows(B, row, 0, steps, M_row, D_STATE, FLIP, STAGE, D_TILE, MATRIX)
    if not C_FIXED:
        C_next = matrix_rows(C, row, 0, steps, M_row, D_STATE, FLIP, STAGE, D_TILE, MATRIX)
    us = rows_ahead(u, row, 0, steps, c, in_c, 0.0, U_ROW, FLIP, UNROLL)
    deltas = rows_ahead(delta, row, 0, steps, c, in_c, no_step(SOFTPLUS), DELTA_ROW, FLIP, UNROLL)
    zs = us
    if HAS_Z:
        zs = rows_ahead(z, row, 0, steps, c, in_c, 0.0, Z_ROW, FLIP, UNROLL)
    for stage in range(0, steps, STAGE):
        fetch(u, row, stage + STAGE, steps, c0, U_ROW, FLIP, STAGE, BLOCK)
        fetch(delta, row, stage + STAGE, steps, c0, DELTA_ROW, FLIP, STAGE, BLOCK)
        if HAS_Z:
            fetch(z, row, stage + STAGE, steps, c0, Z_ROW, FLIP, STAGE, BLOCK)
        if not B_FIXED:
            B_s.store(B_next.to(gl.float32))
            B_next = matrix_rows(B, row, stage + STAGE, steps, M_row, D_STATE, FLIP, STAGE, D_TILE, MATRIX)
        if not C_FIXED:
            C_s.store(C_next.to(gl.float32))
            C_next = matrix_rows(C, row, stage + STAGE, steps, M_row, D_STATE, FLIP, STAGE, D_TILE, MATRIX)
        for at in range(0, STAGE, UNROLL):
            t = stage + at
            if KEEP > 0:
                if (t % KEEP == 0) & (t < steps):
                    interval = b * ((length + KEEP - 1) // KEEP) + (first + t) // KEEP
                    store_tile(kept, interval, c, in_c, xs, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
            us_next = rows_ahead(u, row, t + UNROLL, steps, c, in_c, 0.0, U_ROW, FLIP, UNROLL)
            deltas_next = rows_ahead(
                delta, row, t + UNROLL, steps, c, in_c, no_step(SOFTPLUS), DELTA_ROW, FLIP, UNROLL
            )
            zs_next = us_next
            if HAS_Z:
                zs_next = rows_ahead(z, row, t + UNROLL, steps, c, in_c, 0.0, Z_ROW, FLIP, UNROLL)
            y_t = y + (row + walk(t, FLIP)) * CHANNELS_ALL + c
            for i in gl.static_range(UNROLL):
                step = step_size(deltas[i], offset, t + i < steps, SOFTPLUS, ROUGH)
                value = us[i].to(gl.float32)
                taken = gl.expand_dims(step * value, 1)
                products = gl.zeros([BLOCK, WIDTH], gl.float32, LAYOUT)
                new = ()
                for g in gl.static_range(TILES):
                    x = xs[g]
                    if HAS_RESETS:
                        mine = t + i < steps
                        reset = gl.load(resets + row + walk(t + i, FLIP), mask=mine, other=0) != 0
                        x = gl.where(reset, 0.0, x)
                    if B_FIXED:
                        B_t = B_tiles[g]
                    else:
                        B_t = gl.expand_dims(B_r.index((at + i) * TILES + g).load(over_c), 0)
                    x = exp2(gl.expand_dims(step, 1) * decay_rates[g]) * x + taken * B_t
                    if C_FIXED:
                        C_t = C_tiles[g]
                    else:
                        C_t = gl.expand_dims(C_r.index((at + i) * TILES + g).load(over_c), 0)
                    products += x * C_t
                    new = new + (x,)
                xs = new
                out = gl.sum(products, axis=1) + skip * value
                if HAS_Z:
                    gate = zs[i].to(gl.float32)
                    out *= gate * sigmoid(gate, ROUGH)
                gl.store(y_t + walk(i, FLIP) * CHANNELS_ALL, out, mask=in_c & (t + i < steps))
            us = us_next
            deltas = deltas_next
            zs = zs_next
    if chunk == chunks - 1:
        store_tile(final, b, c, in_c, xs, CHANNELS_ALL, D_STATE, WIDTH, TILES, LAYOUT)
