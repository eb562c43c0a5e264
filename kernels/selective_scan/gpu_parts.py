"""What the kernels of the selective scan for NVIDIA GPUs share: layouts, step sizes, loads.

Times t count in walking order, from the last position back where FLIP is set; `row` is where in memory the
walk's first time is.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_seq.kernels.gluon_math import softplus

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
def no_step(SOFTPLUS: gl.constexpr):
    """What is loaded for delta where there is no position, for a step of zero: the state stays as it is."""
    if SOFTPLUS:
        return -30000.0
    else:
        return 0.0


@gluon.jit
def step_size(delta, bias, valid, SOFTPLUS: gl.constexpr, ROUGH: gl.constexpr):
    """The step from delta (where not valid: `no_step`)."""
    step = delta.to(gl.float32) + bias
    if SOFTPLUS:
        return softplus(step, ROUGH)
    else:
        return gl.where(valid, step, 0.0)


@gluon.jit
def fetch(
    x, row, t, steps, c0, ROW: gl.constexpr, FLIP: gl.constexpr, STEPS: gl.constexpr, BLOCK: gl.constexpr
):
    """Ask for rows t to t + STEPS of a block of channels to come to the second-level cache."""
    SECTORS: gl.constexpr = max(BLOCK // 16, 1)
    LAYOUT: gl.constexpr = gl.BlockedLayout(
        [1, 1], [32 // min(SECTORS, 32), min(SECTORS, 32)], [1, 1], [1, 0]
    )
    i = t + gl.arange(0, STEPS, gl.SliceLayout(1, LAYOUT))
    sector = gl.arange(0, SECTORS, gl.SliceLayout(0, LAYOUT))
    inside = ((i >= 0) & (i < steps)).to(gl.int32)
    at = x + gl.expand_dims((row + walk(i, FLIP)) * ROW, 1) + gl.expand_dims(c0 + sector * 16, 0)
    gl.inline_asm_elementwise(
        "{ .reg .pred p; setp.ne.s32 p, $2, 0; @p prefetch.global.L2 [$1]; mov.u32 $0, $2; }", "=r,l,r",
        [at, gl.expand_dims(inside, 1)], dtype=gl.int32, is_pure=False, pack=1,
    )  # fmt: skip


@gluon.jit
def first_row(b, length, first, FLIP: gl.constexpr):
    """The row in memory of time `first` of sequence b; the row of time `first + t` is `walk(t)` further."""
    if FLIP:
        return b * length + (length - 1 - first)
    else:
        return b * length + first


@gluon.jit
def walk(t, FLIP: gl.constexpr):
    if FLIP:
        return -t
    else:
        return t


@gluon.jit
def matrix_rows(matrix, row, t, steps, ROW: gl.constexpr, D_STATE: gl.constexpr, FLIP: gl.constexpr,
                STAGE: gl.constexpr, D_TILE: gl.constexpr, LAYOUT: gl.constexpr):  # fmt: skip
    """Times t to t + STAGE of B or C, zero outside of the chunk, (STAGE, D_TILE)."""
    i = t + gl.arange(0, STAGE, gl.SliceLayout(1, LAYOUT))
    n = gl.arange(0, D_TILE, gl.SliceLayout(0, LAYOUT))
    inside = gl.expand_dims(i < steps, 1) & gl.expand_dims(n < D_STATE, 0)
    return gl.load(
        matrix + gl.expand_dims(row + walk(i, FLIP), 1) * ROW + gl.expand_dims(n, 0), mask=inside, other=0.0
    )


@gluon.jit
def rows_ahead(x, row, t, steps, c, in_c, other, ROW: gl.constexpr, FLIP: gl.constexpr, UNROLL: gl.constexpr):
    """UNROLL rows of a sequence from time t on, asked for long before they are needed."""
    rows = ()
    first = x + (row + walk(t, FLIP)) * ROW + c
    for i in gl.static_range(UNROLL):
        inside = in_c & (t + i < steps)
        rows = rows + (gl.load(first + walk(i, FLIP) * ROW, mask=inside, other=other),)
    return rows


@gluon.jit
def place(CHANNELS_ALL: gl.constexpr, GROUPS: gl.constexpr, CHANNELS: gl.constexpr, LANES: gl.constexpr,
          LAYOUT: gl.constexpr):  # fmt: skip
    """This program's sequence and chunk (as one number), group of B and C, first channel, channels, and which
    of them exist."""
    BLOCK: gl.constexpr = CHANNELS * 32 // LANES
    of_group: gl.constexpr = CHANNELS_ALL // GROUPS
    blocks: gl.constexpr = (of_group + BLOCK - 1) // BLOCK
    pid = gl.program_id(0)
    block = pid % (blocks * GROUPS)
    group = block // blocks
    c0 = group * of_group + (block % blocks) * BLOCK
    c = c0 + gl.arange(0, BLOCK, gl.SliceLayout(1, LAYOUT))
    return pid // (blocks * GROUPS), group, c0, c, c < (group + 1) * of_group


@gluon.jit
def load_tile(matrix, base, c, in_c, CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr,
              WIDTH: gl.constexpr, TILES: gl.constexpr, LAYOUT: gl.constexpr):  # fmt: skip
    """The states' (channels, d_state) numbers of a matrix at `base`, as TILES groups."""
    tiles = ()
    for g in gl.static_range(TILES):
        n = g * WIDTH + gl.arange(0, WIDTH, gl.SliceLayout(0, LAYOUT))
        inside = gl.expand_dims(in_c, 1) & gl.expand_dims(n < D_STATE, 0)
        offsets = gl.expand_dims(c, 1) * D_STATE + gl.expand_dims(n, 0)
        tiles = tiles + (
            gl.load(matrix + base * (CHANNELS_ALL * D_STATE) + offsets, mask=inside, other=0.0).to(
                gl.float32
            ),
        )
    return tiles


@gluon.jit
def store_tile(matrix, base, c, in_c, tiles, CHANNELS_ALL: gl.constexpr, D_STATE: gl.constexpr,
               WIDTH: gl.constexpr, TILES: gl.constexpr, LAYOUT: gl.constexpr):  # fmt: skip
    for g in gl.static_range(TILES):
        n = g * WIDTH + gl.arange(0, WIDTH, gl.SliceLayout(0, LAYOUT))
        inside = gl.expand_dims(in_c, 1) & gl.expand_dims(n < D_STATE, 0)
        offsets = gl.expand_dims(c, 1) * D_STATE + gl.expand_dims(n, 0)
        gl.store(matrix + base * (CHANNELS_ALL * D_STATE) + offsets, tiles[g], mask=inside)
