"""Backward kernels of the selective scan for NVIDIA GPUs.

1. `adjoint_ends`: the gradient that each chunk sends to the state before it, from nothing behind it.
2. `pass_over_chunks` (forward file), reversed: the gradient that reaches each chunk's end state.
3. `gradients`: each chunk, walked back interval by interval. An interval starts from a state that the forward
   pass kept, recomputes the states at every `GROUP`th step into shared memory and those of one group into
   registers.

In 3. the tile (channels, d_state) is spread over lanes along both axes, since sums go both ways: over d_state
for u and delta, over channels for B and C. What needs one value a channel is computed for a whole interval at
once, before and after the walk, and handed over in shared memory. A program does `SUBS` blocks of channels,
one after the other, and adds up their parts of dB and dC itself: no atomics, and the same bits every time.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_seq.kernels.selective_scan.gpu_forward import exp2, sigmoid, step_size


@gluon.jit(do_not_specialize=["length", "chunk_steps", "chunks"])
def adjoint_ends(
    dy, delta, A2, C, z, bias, states, sums, length, chunk_steps, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr, DY_ROW: gl.constexpr, DELTA_ROW: gl.constexpr,
    Z_ROW: gl.constexpr, UNROLL: gl.constexpr, SOFTPLUS: gl.constexpr, HAS_BIAS: gl.constexpr,
    HAS_Z: gl.constexpr, BLOCK: gl.constexpr, D_TILE: gl.constexpr, LAYOUT: gl.constexpr,
):  # fmt: skip
    """states (batch, chunks, channels, d_state), sums (batch, chunks, channels)."""
    blocks: gl.constexpr = (CHANNELS_ALL + BLOCK - 1) // BLOCK
    pid = gl.program_id(0)
    rest = pid // blocks
    c = (pid % blocks) * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(1, LAYOUT))
    n = gl.arange(0, D_TILE, gl.SliceLayout(0, LAYOUT))
    in_c, in_n = c < CHANNELS_ALL, n < D_STATE
    in_tile = gl.expand_dims(in_c, 1) & gl.expand_dims(in_n, 0)
    offsets = gl.expand_dims(c, 1) * D_STATE + gl.expand_dims(n, 0)
    decay_rate = gl.load(A2 + offsets, mask=in_tile, other=0.0)
    offset = gl.zeros([BLOCK], gl.float32, gl.SliceLayout(1, LAYOUT))
    if HAS_BIAS:
        offset = gl.load(bias + c, mask=in_c, other=0.0)
    first = (rest % chunks) * chunk_steps
    row = (rest // chunks).to(gl.int64) * length + first
    steps = gl.minimum(length - first, chunk_steps)
    g = gl.zeros([BLOCK, D_TILE], gl.float32, LAYOUT)
    total = gl.zeros([BLOCK], gl.float32, gl.SliceLayout(1, LAYOUT))
    rounds = (steps + UNROLL - 1) // UNROLL
    for back in range(0, rounds):
        t = (rounds - 1 - back) * UNROLL
        for j in gl.static_range(UNROLL):
            i = t + UNROLL - 1 - j
            valid = i < steps
            step = gl.load(delta + (row + i) * DELTA_ROW + c, mask=in_c & valid, other=0.0)
            grad = gl.load(dy + (row + i) * DY_ROW + c, mask=in_c & valid, other=0.0).to(gl.float32)
            matrix = gl.load(C + (row + i) * D_STATE + n, mask=in_n & valid, other=0.0).to(gl.float32)
            if HAS_Z:
                gate = gl.load(z + (row + i) * Z_ROW + c, mask=in_c & valid, other=0.0).to(gl.float32)
                grad *= gate * sigmoid(gate)
            step = step_size(step, offset, valid, SOFTPLUS)
            total += step
            decay = exp2(gl.expand_dims(step, 1) * decay_rate)
            g = (g + gl.expand_dims(grad, 1) * gl.expand_dims(matrix, 0)) * decay
    gl.store(states + rest.to(gl.int64) * (CHANNELS_ALL * D_STATE) + offsets, g, mask=in_tile)
    gl.store(sums + rest.to(gl.int64) * CHANNELS_ALL + c, total, mask=in_c)


@gluon.jit(do_not_specialize=["length", "chunk_steps", "chunks"])
def gradients(
    dy, u, delta, A2, B, C, D, z, bias, kept, ends,
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstart, length, chunk_steps, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr, DY_ROW: gl.constexpr, U_ROW: gl.constexpr,
    DELTA_ROW: gl.constexpr, Z_ROW: gl.constexpr, SOFTPLUS: gl.constexpr, HAS_BIAS: gl.constexpr,
    HAS_D: gl.constexpr, HAS_Z: gl.constexpr, HAS_ENDS: gl.constexpr,
    KEEP: gl.constexpr, GROUP: gl.constexpr, SUBS: gl.constexpr, BLOCK: gl.constexpr, D_TILE: gl.constexpr,
    LAYOUT: gl.constexpr, SEQUENCE: gl.constexpr, MATRIX: gl.constexpr,
):  # fmt: skip
    """dA (batch, chunks, channels, d_state), dD, dbias (batch, chunks, channels), for the caller to add up.

    dB, dC (sets, batch, length, d_state), likewise. LAYOUT: of (channels, d_state); SEQUENCE: of (steps,
    channels); MATRIX: of (steps, d_state).
    """
    blocks: gl.constexpr = (CHANNELS_ALL + BLOCK - 1) // BLOCK
    sets: gl.constexpr = (blocks + SUBS - 1) // SUBS
    groups: gl.constexpr = KEEP // GROUP
    over_d: gl.constexpr = gl.SliceLayout(1, LAYOUT)
    over_c: gl.constexpr = gl.SliceLayout(0, LAYOUT)
    plain: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    plain2: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [1, 0])
    steps_s = gl.allocate_shared_memory(gl.float32, [KEEP, BLOCK], plain)
    scaled_s = gl.allocate_shared_memory(gl.float32, [KEEP, BLOCK], plain)
    grads_s = gl.allocate_shared_memory(gl.float32, [KEEP, BLOCK], plain)
    B_s = gl.allocate_shared_memory(gl.float32, [KEEP, D_TILE], plain)
    C_s = gl.allocate_shared_memory(gl.float32, [KEEP, D_TILE], plain)
    states_s = gl.allocate_shared_memory(gl.float32, [groups, BLOCK, D_TILE], plain2)
    steps_all = steps_s._reinterpret(gl.float32, [KEEP, BLOCK], plain2)
    scaled_all = scaled_s._reinterpret(gl.float32, [KEEP, BLOCK], plain2)
    grads_all = grads_s._reinterpret(gl.float32, [KEEP, BLOCK], plain2)
    B_all = B_s._reinterpret(gl.float32, [KEEP, D_TILE], plain2)
    C_all = C_s._reinterpret(gl.float32, [KEEP, D_TILE], plain2)

    pid = gl.program_id(0)
    set_ = pid % sets
    rest = pid // sets
    chunk = rest % chunks
    b = (rest // chunks).to(gl.int64)
    first = chunk * chunk_steps
    row = b * length + first
    steps = gl.minimum(length - first, chunk_steps)
    intervals = (steps + KEEP - 1) // KEEP
    n = gl.arange(0, D_TILE, over_c)
    part = set_.to(gl.int64) * ((gl.num_programs(0) // (sets * chunks)) * length.to(gl.int64))
    i_p = gl.arange(0, KEEP, gl.SliceLayout(1, SEQUENCE))
    i_m = gl.arange(0, KEEP, gl.SliceLayout(1, MATRIX))
    n_m = gl.arange(0, D_TILE, gl.SliceLayout(0, MATRIX))
    for sub in range(SUBS):
        c0 = (set_ * SUBS + sub) * BLOCK
        c = c0 + gl.arange(0, BLOCK, over_d)
        c_p = c0 + gl.arange(0, BLOCK, gl.SliceLayout(0, SEQUENCE))
        in_c_p = c_p < CHANNELS_ALL
        in_tile = gl.expand_dims(c < CHANNELS_ALL, 1) & gl.expand_dims(n < D_STATE, 0)
        offsets = gl.expand_dims(c, 1) * D_STATE + gl.expand_dims(n, 0)
        decay_rate = gl.load(A2 + offsets, mask=in_tile, other=0.0)
        skip = gl.zeros([BLOCK], gl.float32, gl.SliceLayout(0, SEQUENCE))
        offset, dD_sum, dbias_sum = skip, skip, skip
        if HAS_D:
            skip = gl.load(D + c_p, mask=in_c_p, other=0.0)
        if HAS_BIAS:
            offset = gl.load(bias + c_p, mask=in_c_p, other=0.0)
        g = gl.zeros([BLOCK, D_TILE], gl.float32, LAYOUT)
        dA_sum = g
        if HAS_ENDS:
            g = gl.load(
                ends + rest.to(gl.int64) * (CHANNELS_ALL * D_STATE) + offsets, mask=in_tile, other=0.0
            )
        for back in range(0, intervals):
            t = (intervals - 1 - back) * KEEP
            valid = gl.expand_dims(t + i_p < steps, 1) & gl.expand_dims(in_c_p, 0)
            rows = gl.expand_dims(row + t + i_p, 1)
            columns = gl.expand_dims(c_p, 0)
            step = gl.load(delta + rows * DELTA_ROW + columns, mask=valid, other=0.0)
            step = step_size(step, gl.expand_dims(offset, 0), valid, SOFTPLUS)
            steps_all.store(step)
            value = gl.load(u + rows * U_ROW + columns, mask=valid, other=0.0).to(gl.float32)
            scaled_all.store(step * value)
            grad = gl.load(dy + rows * DY_ROW + columns, mask=valid, other=0.0).to(gl.float32)
            if HAS_Z:
                gate = gl.load(z + rows * Z_ROW + columns, mask=valid, other=0.0).to(gl.float32)
                grad *= gate * sigmoid(gate)
            grads_all.store(grad)
            in_m = gl.expand_dims(t + i_m < steps, 1) & gl.expand_dims(n_m < D_STATE, 0)
            offsets_m = gl.expand_dims(row + t + i_m, 1) * D_STATE + gl.expand_dims(n_m, 0)
            B_all.store(gl.load(B + offsets_m, mask=in_m, other=0.0).to(gl.float32))
            C_all.store(gl.load(C + offsets_m, mask=in_m, other=0.0).to(gl.float32))

            interval = b * ((length + KEEP - 1) // KEEP) + (first + t) // KEEP
            x = gl.load(kept + interval * (CHANNELS_ALL * D_STATE) + offsets, mask=in_tile, other=0.0)
            for j in range(0, groups - 1):
                states_s.index(j).store(x)
                for k in gl.static_range(GROUP):
                    decay = exp2(gl.expand_dims(steps_s.index(j * GROUP + k).load(over_d), 1) * decay_rate)
                    B_i = gl.expand_dims(B_s.index(j * GROUP + k).load(over_c), 0)
                    x = decay * x + gl.expand_dims(scaled_s.index(j * GROUP + k).load(over_d), 1) * B_i
            states_s.index(groups - 1).store(x)
            for jj in range(0, groups):
                j = groups - 1 - jj
                x = states_s.index(j).load(LAYOUT)
                xs = (x,)
                for k in gl.static_range(GROUP):
                    decay = exp2(gl.expand_dims(steps_s.index(j * GROUP + k).load(over_d), 1) * decay_rate)
                    B_i = gl.expand_dims(B_s.index(j * GROUP + k).load(over_c), 0)
                    x = decay * x + gl.expand_dims(scaled_s.index(j * GROUP + k).load(over_d), 1) * B_i
                    xs = xs + (x,)
                for k in gl.static_range(GROUP - 1, -1, -1):
                    i = j * GROUP + k
                    step_i = gl.expand_dims(steps_s.index(i).load(over_d), 1)
                    scaled_i = gl.expand_dims(scaled_s.index(i).load(over_d), 1)
                    grad_i = gl.expand_dims(grads_s.index(i).load(over_d), 1)
                    B_i = gl.expand_dims(B_s.index(i).load(over_c), 0)
                    C_i = gl.expand_dims(C_s.index(i).load(over_c), 0)
                    at = (part + row + t + i) * D_STATE + n
                    in_row = (n < D_STATE) & (t + i < steps)
                    dB_i = gl.load(dB + at, mask=in_row & (sub > 0), other=0.0)
                    dC_i = gl.load(dC + at, mask=in_row & (sub > 0), other=0.0)
                    g += grad_i * C_i
                    gl.store(dC + at, dC_i + gl.sum(grad_i * xs[k + 1], axis=0), mask=in_row)
                    gl.store(dB + at, dB_i + gl.sum(scaled_i * g, axis=0), mask=in_row)
                    if HAS_Z:
                        grads_s.index(i).store(gl.sum(xs[k + 1] * C_i, axis=1))
                    scaled_s.index(i).store(gl.sum(g * B_i, axis=1))
                    g *= exp2(step_i * decay_rate)
                    change = g * xs[k]
                    steps_s.index(i).store(gl.sum(change * decay_rate, axis=1))
                    dA_sum += change * step_i

            dscaled = scaled_all.load(SEQUENCE)
            raw = gl.load(delta + rows * DELTA_ROW + columns, mask=valid, other=0.0)
            step = step_size(raw, gl.expand_dims(offset, 0), valid, SOFTPLUS)
            value = gl.load(u + rows * U_ROW + columns, mask=valid, other=0.0).to(gl.float32)
            dstep = dscaled * value + steps_all.load(SEQUENCE) * 0.6931471805599453
            if SOFTPLUS:
                dstep *= sigmoid(raw.to(gl.float32) + gl.expand_dims(offset, 0))
            gl.store(ddelta + rows * CHANNELS_ALL + columns, dstep, mask=valid)
            dbias_sum += gl.sum(gl.where(valid, dstep, 0.0), axis=0)
            grad = gl.load(dy + rows * DY_ROW + columns, mask=valid, other=0.0).to(gl.float32)
            if HAS_Z:
                gate = gl.load(z + rows * Z_ROW + columns, mask=valid, other=0.0).to(gl.float32)
                open_ = sigmoid(gate)
                out = grads_all.load(SEQUENCE) + gl.expand_dims(skip, 0) * value
                dgate = grad * out * open_ * (1.0 + gate * (1.0 - open_))
                gl.store(dz + rows * CHANNELS_ALL + columns, dgate, mask=valid)
                grad *= gate * open_
            dD_sum += gl.sum(grad * value, axis=0)
            dvalue = dscaled * step + grad * gl.expand_dims(skip, 0)
            gl.store(du + rows * CHANNELS_ALL + columns, dvalue, mask=valid)

        gl.store(dA + rest.to(gl.int64) * (CHANNELS_ALL * D_STATE) + offsets, dA_sum, mask=in_tile)
        gl.store(dD + rest.to(gl.int64) * CHANNELS_ALL + c_p, dD_sum, mask=in_c_p)
        gl.store(dbias + rest.to(gl.int64) * CHANNELS_ALL + c_p, dbias_sum, mask=in_c_p)
        if chunk == 0:
            gl.store(dstart + b * (CHANNELS_ALL * D_STATE) + offsets, g, mask=in_tile)
