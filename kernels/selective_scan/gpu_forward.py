"""Forward kernels of the selective scan for NVIDIA GPUs, parallel over chunks of the sequence.

1. `chunk_ends`: each chunk's end state from a zero start, and the sum of its steps (whose product with A is
   the logarithm of the chunk's decay).
2. `pass_over_chunks`: the state at every chunk's start; the only sequential part, one step a chunk.
3. `outputs`: each chunk from its start state.

One warp walks through time with a tile (channels, d_state) of states in registers. A thread holds a few
channels and up to 16 of their states, so sums over d_state stay in the thread. The layouts are written out,
which is why this is Gluon and not Triton: all threads share wide reads of B and C, which wait in shared
memory in float32. Exponentials are base 2.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

# Shared memory as rows of one step each, and as a whole.
LINE = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [0]))
TABLE = gl.constexpr(gl.SwizzledSharedLayout(1, 1, 1, [1, 0]))


@gluon.constexpr_function
def tile_layout(channels, d_tile, lanes):
    """Of (channels, d_state): `lanes` lanes share a channel, and a thread holds `channels` neighbours."""
    return gl.BlockedLayout([channels, d_tile // lanes], [32 // lanes, lanes], [1, 1], [1, 0])


@gluon.constexpr_function
def matrix_layout(d_tile):
    """Of (steps, d_state), for rows of B and C."""
    lanes = min(max(d_tile // 4, 1), 32)
    return gl.BlockedLayout([1, min(d_tile, 4)], [32 // lanes, lanes], [1, 1], [1, 0])


@gluon.jit
def exp2(x):
    return gl.inline_asm_elementwise(
        "ex2.approx.ftz.f32 $0, $1;", "=f,f", [x], dtype=gl.float32, is_pure=True, pack=1
    )


@gluon.jit
def sigmoid(x):
    return 1.0 / (1.0 + exp2(x * -1.4426950408889634))


@gluon.jit
def softplus(x):
    """max(x, 0) + log(1 + e), e = exp(-|x|), as 2 artanh(e / (2 + e)): exact in float32 for tiny e too."""
    e = exp2(gl.abs(x) * -1.4426950408889634)
    s = e / (e + 2.0)
    q = s * s
    p = q * 0.24424915 + 0.21389970
    p = p * q + 0.28621040
    p = p * q + 0.39998678
    p = p * q + 0.66666679
    p = p * q + 2.0
    return gl.maximum(x, 0.0) + s * p


@gluon.jit
def step_size(delta, bias, valid, SOFTPLUS: gl.constexpr):
    """The step, zero past the sequence's end: then the state stays as it is."""
    step = delta.to(gl.float32) + bias
    if SOFTPLUS:
        step = softplus(step)
    return gl.where(valid, step, 0.0)


@gluon.jit
def matrix_rows(matrix, row, t, steps, D_STATE: gl.constexpr, STAGE: gl.constexpr, D_TILE: gl.constexpr,
                LAYOUT: gl.constexpr):  # fmt: skip
    """Rows t to t + STAGE of B or C, zero past the end, (STAGE, D_TILE)."""
    i = t + gl.arange(0, STAGE, gl.SliceLayout(1, LAYOUT))
    n = gl.arange(0, D_TILE, gl.SliceLayout(0, LAYOUT))
    inside = gl.expand_dims(i < steps, 1) & gl.expand_dims(n < D_STATE, 0)
    return gl.load(
        matrix + gl.expand_dims(row + i, 1) * D_STATE + gl.expand_dims(n, 0), mask=inside, other=0.0
    )


@gluon.jit(do_not_specialize=["length", "chunk_steps", "chunks"])
def chunk_ends(
    u, delta, A2, B, bias, states, sums, length, chunk_steps, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr, U_ROW: gl.constexpr, DELTA_ROW: gl.constexpr,
    UNROLL: gl.constexpr, SOFTPLUS: gl.constexpr, HAS_BIAS: gl.constexpr,
    STAGE: gl.constexpr, CHANNELS: gl.constexpr, D_TILE: gl.constexpr, LANES: gl.constexpr,
):  # fmt: skip
    """states (batch, chunks, channels, d_state), sums (batch, chunks, channels)."""
    LAYOUT: gl.constexpr = tile_layout(CHANNELS, D_TILE, LANES)
    MATRIX: gl.constexpr = matrix_layout(D_TILE)
    BLOCK: gl.constexpr = CHANNELS * 32 // LANES
    blocks: gl.constexpr = (CHANNELS_ALL + BLOCK - 1) // BLOCK
    pid = gl.program_id(0)
    rest = pid // blocks
    c = (pid % blocks) * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(1, LAYOUT))
    n = gl.arange(0, D_TILE, gl.SliceLayout(0, LAYOUT))
    in_c = c < CHANNELS_ALL
    in_tile = gl.expand_dims(in_c, 1) & gl.expand_dims(n < D_STATE, 0)
    offsets = gl.expand_dims(c, 1) * D_STATE + gl.expand_dims(n, 0)
    decay_rate = gl.load(A2 + offsets, mask=in_tile, other=0.0)
    offset = gl.zeros([BLOCK], gl.float32, gl.SliceLayout(1, LAYOUT))
    if HAS_BIAS:
        offset = gl.load(bias + c, mask=in_c, other=0.0)
    first = (rest % chunks) * chunk_steps
    row = (rest // chunks).to(gl.int64) * length + first
    steps = gl.minimum(length - first, chunk_steps)
    x = gl.zeros([BLOCK, D_TILE], gl.float32, LAYOUT)
    total = gl.zeros([BLOCK], gl.float32, gl.SliceLayout(1, LAYOUT))
    over_c: gl.constexpr = gl.SliceLayout(0, LAYOUT)
    B_s = gl.allocate_shared_memory(gl.float32, [STAGE, D_TILE], TABLE)
    B_r = B_s._reinterpret(gl.float32, [STAGE, D_TILE], LINE)
    B_next = matrix_rows(B, row, 0, steps, D_STATE, STAGE, D_TILE, MATRIX)
    for stage in range(0, steps, STAGE):
        B_s.store(B_next.to(gl.float32))
        B_next = matrix_rows(B, row, stage + STAGE, steps, D_STATE, STAGE, D_TILE, MATRIX)
        for at in range(0, STAGE, UNROLL):
            t = stage + at
            u_t, delta_t = u + (row + t) * U_ROW, delta + (row + t) * DELTA_ROW
            for i in gl.static_range(UNROLL):
                valid = t + i < steps
                step = gl.load(delta_t + i * DELTA_ROW + c, mask=in_c & valid, other=0.0)
                value = gl.load(u_t + i * U_ROW + c, mask=in_c & valid, other=0.0).to(gl.float32)
                step = step_size(step, offset, valid, SOFTPLUS)
                total += step
                decay = exp2(gl.expand_dims(step, 1) * decay_rate)
                taken = gl.expand_dims(step * value, 1)
                x = decay * x + taken * gl.expand_dims(B_r.index(at + i).load(over_c), 0)
    gl.store(states + rest.to(gl.int64) * (CHANNELS_ALL * D_STATE) + offsets, x, mask=in_tile)
    gl.store(sums + rest.to(gl.int64) * CHANNELS_ALL + c, total, mask=in_c)


@gluon.jit(do_not_specialize=["chunks"])
def pass_over_chunks(
    states, sums, A2, start, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr, HAS_START: gl.constexpr, REVERSE: gl.constexpr,
    BLOCK: gl.constexpr, UNROLL: gl.constexpr,
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
        for j in gl.static_range(UNROLL):
            chunk = k + j
            mask = inside & (chunk < chunks)
            if REVERSE:
                chunk = chunks - 1 - chunk
            ends = ends + (gl.load(states + (b * chunks + chunk) * size + i, mask=mask, other=0.0),)
            summed = gl.load(sums + (b * chunks + chunk) * CHANNELS_ALL + i // D_STATE, mask=mask, other=0.0)
            decays = decays + (exp2(decay_rate * summed),)
        for j in gl.static_range(UNROLL):
            chunk = k + j
            mask = inside & (chunk < chunks)
            if REVERSE:
                chunk = chunks - 1 - chunk
            gl.store(states + (b * chunks + chunk) * size + i, x, mask=mask)
            x = decays[j] * x + ends[j]


@gluon.jit(do_not_specialize=["length", "chunk_steps", "chunks"])
def outputs(
    u, delta, A2, B, C, D, z, bias, states, y, final, kept, length, chunk_steps, chunks,
    CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr,
    U_ROW: gl.constexpr, DELTA_ROW: gl.constexpr, Z_ROW: gl.constexpr,
    KEEP: gl.constexpr, UNROLL: gl.constexpr, SOFTPLUS: gl.constexpr,
    HAS_START: gl.constexpr, HAS_BIAS: gl.constexpr, HAS_D: gl.constexpr, HAS_Z: gl.constexpr,
    STAGE: gl.constexpr, CHANNELS: gl.constexpr, D_TILE: gl.constexpr, LANES: gl.constexpr,
):  # fmt: skip
    """y, the final state, and x before every KEEPth step, kept (batch, intervals, channels, d_state)."""
    LAYOUT: gl.constexpr = tile_layout(CHANNELS, D_TILE, LANES)
    MATRIX: gl.constexpr = matrix_layout(D_TILE)
    BLOCK: gl.constexpr = CHANNELS * 32 // LANES
    blocks: gl.constexpr = (CHANNELS_ALL + BLOCK - 1) // BLOCK
    pid = gl.program_id(0)
    rest = pid // blocks
    c = (pid % blocks) * BLOCK + gl.arange(0, BLOCK, gl.SliceLayout(1, LAYOUT))
    n = gl.arange(0, D_TILE, gl.SliceLayout(0, LAYOUT))
    in_c = c < CHANNELS_ALL
    in_tile = gl.expand_dims(in_c, 1) & gl.expand_dims(n < D_STATE, 0)
    offsets = gl.expand_dims(c, 1) * D_STATE + gl.expand_dims(n, 0)
    decay_rate = gl.load(A2 + offsets, mask=in_tile, other=0.0)
    nothing = gl.zeros([BLOCK], gl.float32, gl.SliceLayout(1, LAYOUT))
    offset, skip = nothing, nothing
    if HAS_BIAS:
        offset = gl.load(bias + c, mask=in_c, other=0.0)
    if HAS_D:
        skip = gl.load(D + c, mask=in_c, other=0.0)
    chunk = rest % chunks
    b = (rest // chunks).to(gl.int64)
    first = chunk * chunk_steps
    row = b * length + first
    steps = gl.minimum(length - first, chunk_steps)
    x = gl.zeros([BLOCK, D_TILE], gl.float32, LAYOUT)
    if HAS_START:
        x = gl.load(states + rest.to(gl.int64) * (CHANNELS_ALL * D_STATE) + offsets, mask=in_tile, other=0.0)
    over_c: gl.constexpr = gl.SliceLayout(0, LAYOUT)
    B_s = gl.allocate_shared_memory(gl.float32, [STAGE, D_TILE], TABLE)
    C_s = gl.allocate_shared_memory(gl.float32, [STAGE, D_TILE], TABLE)
    B_r = B_s._reinterpret(gl.float32, [STAGE, D_TILE], LINE)
    C_r = C_s._reinterpret(gl.float32, [STAGE, D_TILE], LINE)
    B_next = matrix_rows(B, row, 0, steps, D_STATE, STAGE, D_TILE, MATRIX)
    C_next = matrix_rows(C, row, 0, steps, D_STATE, STAGE, D_TILE, MATRIX)
    for stage in range(0, steps, STAGE):
        B_s.store(B_next.to(gl.float32))
        C_s.store(C_next.to(gl.float32))
        B_next = matrix_rows(B, row, stage + STAGE, steps, D_STATE, STAGE, D_TILE, MATRIX)
        C_next = matrix_rows(C, row, stage + STAGE, steps, D_STATE, STAGE, D_TILE, MATRIX)
        for at in range(0, STAGE, UNROLL):
            t = stage + at
            if KEEP > 0:
                if (t % KEEP == 0) & (t < steps):
                    interval = b * ((length + KEEP - 1) // KEEP) + (first + t) // KEEP
                    gl.store(kept + interval * (CHANNELS_ALL * D_STATE) + offsets, x, mask=in_tile)
            u_t, delta_t = u + (row + t) * U_ROW, delta + (row + t) * DELTA_ROW
            outs = ()
            for i in gl.static_range(UNROLL):
                valid = t + i < steps
                step = gl.load(delta_t + i * DELTA_ROW + c, mask=in_c & valid, other=0.0)
                value = gl.load(u_t + i * U_ROW + c, mask=in_c & valid, other=0.0).to(gl.float32)
                step = step_size(step, offset, valid, SOFTPLUS)
                decay = exp2(gl.expand_dims(step, 1) * decay_rate)
                taken = gl.expand_dims(step * value, 1)
                x = decay * x + taken * gl.expand_dims(B_r.index(at + i).load(over_c), 0)
                out = gl.sum(x * gl.expand_dims(C_r.index(at + i).load(over_c), 0), axis=1)
                if HAS_D:
                    out += skip * value
                if HAS_Z:
                    gate = gl.load(z + (row + t + i) * Z_ROW + c, mask=in_c & valid, other=0.0).to(gl.float32)
                    out *= gate * sigmoid(gate)
                outs = outs + (out,)
            y_t = y + (row + t) * CHANNELS_ALL
            for i in gl.static_range(UNROLL):
                gl.store(y_t + i * CHANNELS_ALL + c, outs[i], mask=in_c & (t + i < steps))
    if chunk == chunks - 1:
        gl.store(final + b * (CHANNELS_ALL * D_STATE) + offsets, x, mask=in_tile)
