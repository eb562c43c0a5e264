"""Products of a layer's matrices with what other programs wrote, and what is made of them.

A product has a matrix's rows as the first operand and ROWS rows of values as the second, 8 at least, which is
what the tensor cores take. Each warp has a part of the inner dimension: one chain of products over all of it
would take longer than the rest. Layouts are chosen so that weights and words come from memory as the tensor
cores take them, and that all else of a row and a channel is in one thread; only sums over warps go through
shared memory.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.ampere import mma_v2

from ssm_seq.kernels.decode.gpu_words import opened, receive, send, slot


@gluon.constexpr_function
def parts_layout(warps):
    """Of a product's parts (warps, outputs, rows)."""
    return gl.NVMMADistributedLayout(version=[2, 0], warps_per_cta=[warps, 1, 1], instr_shape=[1, 16, 8])


@gluon.constexpr_function
def operand_layout(index, warps, inner):
    """Of a product's operands, `inner` numbers of the inner dimension to a warp: of these four or eight
    neighbours in one thread, so that they come from memory in one piece."""
    return gl.DotOperandLayout(index, parts_layout(warps), min(inner // 8, 8))


@gluon.constexpr_function
def sums_layout(warps, outputs):
    """Of (warps, outputs, rows) for the sum over warps."""
    lanes = min(outputs, 32)
    return gl.BlockedLayout([warps, 1, 1], [1, lanes, 32 // lanes], [1, 1, warps], [0, 1, 2])


@gluon.jit
def products(words, tile, rows, epoch, matrix, first, OUTPUTS: gl.constexpr, COUNT: gl.constexpr,
             WIDTH: gl.constexpr, STRIDE: gl.constexpr, K_TILE: gl.constexpr, TWO: gl.constexpr,
             ROWS: gl.constexpr):  # fmt: skip
    """Rows `first` to first + OUTPUTS of a matrix (COUNT, WIDTH) times a tile's rows of words (rows, STRIDE).

    TWO: the same of the matrix that follows in memory.

    Returns:
        two (OUTPUTS, ROWS) in the layout of sums, the second one zero if not TWO; the rows' sums of squares.
    """
    WARPS: gl.constexpr = gl.num_warps()
    PARTS: gl.constexpr = parts_layout(WARPS)
    parts = gl.zeros([WARPS, OUTPUTS, ROWS], gl.float32, PARTS)
    others = gl.zeros([WARPS, OUTPUTS, ROWS], gl.float32, PARTS)
    squares = gl.zeros(
        [WARPS, ROWS], gl.float32, gl.SliceLayout(1, operand_layout(1, WARPS, K_TILE // WARPS))
    )
    # Asked for before the words, so that they are there by then: where registers allow the next turn's too.
    AHEAD: gl.constexpr = _ahead(
        OUTPUTS * (2 if TWO else 1), K_TILE, ROWS, matrix.dtype.element_ty.primitive_bitwidth, WARPS
    )
    a, b = _one_or_two(matrix, first, 0, OUTPUTS, COUNT, WIDTH, K_TILE, TWO)
    for start in gl.static_range(0, STRIDE, K_TILE):
        if AHEAD and start + K_TILE < STRIDE:
            next_a, next_b = _one_or_two(matrix, first, start + K_TILE, OUTPUTS, COUNT, WIDTH, K_TILE, TWO)
        x = values(words, tile, rows, start, epoch, STRIDE, K_TILE, ROWS)
        wide = x.to(gl.float32)
        squares += gl.sum(wide * wide, 1)
        parts = multiply(a, x, parts)
        if TWO:
            others = multiply(b, x, others)
        if start + K_TILE < STRIDE:
            if AHEAD:
                a, b = next_a, next_b
            else:
                a, b = _one_or_two(matrix, first, start + K_TILE, OUTPUTS, COUNT, WIDTH, K_TILE, TWO)
    SUMS: gl.constexpr = sums_layout(WARPS, OUTPUTS)
    squares = gl.sum(gl.convert_layout(squares, gl.SliceLayout(1, SUMS)), 0)
    squares = gl.convert_layout(squares, gl.SliceLayout(0, gl.SliceLayout(0, SUMS)))
    return _over_warps(parts, SUMS), _over_warps(others, SUMS), squares


@gluon.constexpr_function
def _ahead(outputs, k_tile, rows, bits, warps):
    """Whether a thread has registers for weights of two turns beside its words and sums."""
    lanes = 32 * warps
    weights_and_words = k_tile * (2 * outputs * bits + 32 * rows) // (32 * lanes)
    return weights_and_words + outputs * rows // 32 <= 192


@gluon.jit
def _one_or_two(matrix, first, start, OUTPUTS: gl.constexpr, COUNT: gl.constexpr, WIDTH: gl.constexpr,
                K_TILE: gl.constexpr, TWO: gl.constexpr):  # fmt: skip
    """`weights` of a matrix, and of the one that follows in memory if TWO."""
    a = weights(matrix, first, start, OUTPUTS, COUNT, WIDTH, K_TILE)
    if TWO:
        return a, weights(matrix + COUNT * WIDTH, first, start, OUTPUTS, COUNT, WIDTH, K_TILE)
    else:
        return a, a


@gluon.jit
def weights(matrix, first, start, OUTPUTS: gl.constexpr, COUNT: gl.constexpr, WIDTH: gl.constexpr,
            K_TILE: gl.constexpr):  # fmt: skip
    """A product's first operand: rows from `first` of a matrix (COUNT, WIDTH), columns from `start`."""
    WARPS: gl.constexpr = gl.num_warps()
    INNER: gl.constexpr = K_TILE // WARPS
    LAYOUT: gl.constexpr = operand_layout(0, WARPS, INNER)
    part = gl.arange(0, WARPS, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT)))
    c = first + gl.arange(0, OUTPUTS, gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT)))
    inner = gl.arange(0, INNER, gl.SliceLayout(0, gl.SliceLayout(1, LAYOUT)))
    k = start + part[:, None, None] * INNER + inner[None, None, :]
    return gl.load(
        matrix + c[None, :, None] * WIDTH + k, mask=(c < COUNT)[None, :, None] & (k < WIDTH), other=0.0
    )


@gluon.jit
def values(words, tile, rows, start, epoch, STRIDE: gl.constexpr, K_TILE: gl.constexpr, ROWS: gl.constexpr):
    """A product's second operand: columns from `start` of a tile's rows of words (rows, STRIDE)."""
    WARPS: gl.constexpr = gl.num_warps()
    INNER: gl.constexpr = K_TILE // WARPS
    LAYOUT: gl.constexpr = operand_layout(1, WARPS, INNER)
    part = gl.arange(0, WARPS, gl.SliceLayout(1, gl.SliceLayout(2, LAYOUT)))
    inner = gl.arange(0, INNER, gl.SliceLayout(0, gl.SliceLayout(2, LAYOUT)))
    row = tile * ROWS + gl.arange(0, ROWS, gl.SliceLayout(0, gl.SliceLayout(1, LAYOUT)))
    k = start + part[:, None, None] * INNER + inner[None, :, None]
    inside = (row < rows)[None, None, :] & (k < STRIDE)
    place = slot(words, epoch, rows, STRIDE) + row.to(gl.int64)[None, None, :] * STRIDE + k
    return receive(place, inside, epoch, INNER * ROWS // 32, min(INNER // 8, 8))


@gluon.jit
def multiply(a, x, parts):
    """parts + a x: of float32 by three products of halves, as exact as float32's own; else x is rounded."""
    if a.dtype == gl.float32:
        a_high, x_high = _rounded(a), _rounded(x)
        parts = mma_v2(a - a_high, x_high, parts, input_precision="tf32")
        parts = mma_v2(a_high, x - x_high, parts, input_precision="tf32")
        return mma_v2(a_high, x_high, parts, input_precision="tf32")
    else:
        return mma_v2(a, x.to(gl.bfloat16), parts)


@gluon.jit
def _rounded(x):
    """To the 11 bits that the tensor cores take of a float32."""
    return ((x.to(gl.int32, bitcast=True) + 0x1000) & -0x2000).to(gl.float32, bitcast=True)


@gluon.jit
def _over_warps(parts, SUMS: gl.constexpr):
    return gl.sum(gl.convert_layout(parts, SUMS), 0)


@gluon.constexpr_function
def made_layout(warps, outputs):
    """Of (outputs, rows), what is made of the sums."""
    return gl.SliceLayout(0, sums_layout(warps, outputs))


@gluon.jit
def places(tile, first, rows, OUTPUTS: gl.constexpr, ROWS: gl.constexpr, LAYOUT: gl.constexpr):
    """A tile's rows (1, ROWS), outputs (OUTPUTS,) from `first`, in a layout of both; which rows there are."""
    row = tile * ROWS + gl.arange(0, ROWS, gl.SliceLayout(0, LAYOUT))
    c = first + gl.arange(0, OUTPUTS, gl.SliceLayout(1, LAYOUT))
    return row.to(gl.int64)[None, :], c, (row < rows)[None, :]


@gluon.jit
def of_channels(matrix, layer, first, COUNT: gl.constexpr, WIDTH: gl.constexpr, TILE: gl.constexpr,
                CHANNELS: gl.constexpr, LAYOUT: gl.constexpr, EACH: gl.constexpr):  # fmt: skip
    """Places of rows `first` to first + CHANNELS of a layer's (COUNT, WIDTH) numbers of EACH elements, in the
    layout of (channels, rows, TILE) without its rows, and which of them there are."""
    PLANE: gl.constexpr = gl.SliceLayout(1, LAYOUT)
    c = first + gl.arange(0, CHANNELS, gl.SliceLayout(1, PLANE))
    k = gl.arange(0, TILE, gl.SliceLayout(0, PLANE))
    inside = (c < COUNT)[:, None] & (k < WIDTH)[None, :]
    return matrix + EACH * ((layer * COUNT + c)[:, None] * WIDTH + k[None, :]), inside


@gluon.jit
def own_residual(residual, rows, row, c, in_rows, epoch, MODEL: gl.constexpr):
    """Numbers of the residual sum that this program adds to next."""
    place = slot(residual, epoch, rows, MODEL) + row * MODEL + c
    gl.thread_barrier()  # other threads of this program saw these words come
    return opened(gl.load(place, mask=in_rows & (c < MODEL), other=0, volatile=True))


@gluon.jit
def head_stage(
    program, programs, tile, rows, epoch, next_epoch, residual, head, logits, eps,
    D_MODEL: gl.constexpr, MODEL: gl.constexpr, VOCAB: gl.constexpr, VOCABS: gl.constexpr,
    COLUMNS: gl.constexpr, K_TILE: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    """Logits of COLUMNS ids at once for every row of the tile, until all programs together have all."""
    for first in range(program * COLUMNS, VOCABS, programs * COLUMNS):
        out, _, squares = products(
            residual, tile, rows, epoch, head, first, COLUMNS, VOCAB, D_MODEL, MODEL, K_TILE, False,
            ROWS,
        )  # fmt: skip
        row, c, inside = places(tile, first, rows, COLUMNS, ROWS, made_layout(gl.num_warps(), COLUMNS))
        out *= gl.rsqrt(squares / D_MODEL + eps)[None, :]
        send(logits, rows, row, c[:, None], out, inside, next_epoch, VOCABS)
