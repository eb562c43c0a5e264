"""Steps of a stack of S4D layers on a GPU, all layers, head and sampling in one kernel.

A program owns CHANNELS channels of its tiles of rows in every layer. A layer has two stages, each over all
programs: from the norm to the recurrence's GELU; the gated output product.
"""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_seq.kernels.decode.gpu_products import (
    head_stage,
    made_layout,
    of_channels,
    own_residual,
    places,
    products,
)
from ssm_seq.kernels.decode.gpu_sample import sample_stage
from ssm_seq.kernels.decode.gpu_words import receive, received_rows, send
from ssm_seq.kernels.gluon_math import sigmoid


@gluon.constexpr_function
def _state_layout(warps, pairs):
    """Of (channels, rows, pairs): lanes of a warp have parts of a channel, so that its system comes once."""
    return gl.BlockedLayout([1, 1, max(pairs // 8, 1)], [1, 4, 8], [warps, 1, 1], [2, 1, 0])


@gluon.constexpr_function
def _each(channels, rows, warps):
    """Numbers of (channels, rows) in a thread of that layout."""
    return max(channels // warps, 1) * max(rows // 4, 1)


@gluon.jit
def _pair(place, mask):
    """Real and imaginary parts of complex numbers in memory."""
    return gl.load(place, mask=mask, other=0.0), gl.load(place + 1, mask=mask, other=0.0)


@gluon.jit
def _system(numbers, layer, first, D_MODEL: gl.constexpr, PAIRS: gl.constexpr, N_TILE: gl.constexpr,
            CHANNELS: gl.constexpr, STATE: gl.constexpr):  # fmt: skip
    """A, B or C of a layer's channels, for all rows of a tile."""
    place, inside = of_channels(numbers, layer, first, D_MODEL, PAIRS, N_TILE, CHANNELS, STATE, 2)
    re, im = _pair(place, inside)
    return re[:, None, :], im[:, None, :]


@gluon.jit
def _mix_stage(
    program, layer, tile, rows, epoch, next_epoch, residual, norm, A, B, C, D, state, y_words, eps,
    D_MODEL: gl.constexpr, MODEL: gl.constexpr, INNER: gl.constexpr, PAIRS: gl.constexpr,
    N_TILE: gl.constexpr, D_TILE: gl.constexpr, CHANNELS: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    WARPS: gl.constexpr = gl.num_warps()
    STATE: gl.constexpr = _state_layout(WARPS, N_TILE)
    OWN: gl.constexpr = gl.SliceLayout(2, STATE)
    row, c, in_rows = places(tile, program * CHANNELS, rows, CHANNELS, ROWS, OWN)
    in_c = c < D_MODEL
    inside = in_c[:, None] & in_rows
    n = gl.arange(0, N_TILE, gl.SliceLayout(0, gl.SliceLayout(1, STATE)))
    place = ((layer * rows + row) * D_MODEL + c[:, None])[:, :, None] * PAIRS + n[None, None, :]
    place = state + 2 * place
    wide = inside[:, :, None] & (n < PAIRS)[None, None, :]
    re, im = _pair(place, wide)
    a_re, a_im = _system(A, layer, program * CHANNELS, D_MODEL, PAIRS, N_TILE, CHANNELS, STATE)
    b_re, b_im = _system(B, layer, program * CHANNELS, D_MODEL, PAIRS, N_TILE, CHANNELS, STATE)
    c_re, c_im = _system(C, layer, program * CHANNELS, D_MODEL, PAIRS, N_TILE, CHANNELS, STATE)
    skip = gl.load(D + layer * D_MODEL + c, mask=in_c, other=0.0)[:, None]
    weight = gl.load(norm + layer * D_MODEL + c, mask=in_c, other=0.0)[:, None]

    whole = received_rows(residual, tile, rows, epoch, MODEL, D_TILE, ROWS)
    squares = gl.sum(whole * whole, 1)
    scale = gl.rsqrt(gl.convert_layout(squares, gl.SliceLayout(0, OWN)) / D_MODEL + eps)[None, :]
    u = receive(residual + row * MODEL + c[:, None], inside, epoch, _each(CHANNELS, ROWS, WARPS), 1)
    u *= scale * weight
    new_re = a_re * re - a_im * im + b_re * u[:, :, None]
    new_im = a_re * im + a_im * re + b_im * u[:, :, None]
    y = 2 * gl.sum(c_re * new_re - c_im * new_im, 2) + skip * u
    y = 0.5 * y * (1 + gl.erf(y * 0.7071067811865476))
    send(y_words, rows, row, c[:, None], y, in_rows, next_epoch, INNER)
    gl.store(place, new_re, mask=wide)
    gl.store(place + 1, new_im, mask=wide)


@gluon.jit
def _out_stage(
    program, layer, tile, rows, epoch, next_epoch, residual, out_proj, out_bias, y_words,
    D_MODEL: gl.constexpr, MODEL: gl.constexpr, INNER: gl.constexpr, COLUMNS: gl.constexpr,
    K_TILE: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    if program * COLUMNS < MODEL:
        LAYOUT: gl.constexpr = made_layout(gl.num_warps(), COLUMNS)
        row, c, in_rows = places(tile, program * COLUMNS, rows, COLUMNS, ROWS, LAYOUT)
        before = own_residual(residual, rows, row, c[:, None], in_rows, next_epoch - 1, MODEL)
        bias = out_bias + layer * (2 * D_MODEL) + c
        value_bias = gl.load(bias, mask=c < D_MODEL, other=0.0)[:, None]
        gate_bias = gl.load(bias + D_MODEL, mask=c < D_MODEL, other=0.0)[:, None]
        value, gate, _ = products(
            y_words, tile, rows, epoch, out_proj + layer * (2 * D_MODEL * D_MODEL), program * COLUMNS,
            COLUMNS, D_MODEL, D_MODEL, INNER, K_TILE, True, ROWS,
        )  # fmt: skip
        out = before + (value + value_bias) * sigmoid(gate + gate_bias, False)
        send(residual, rows, row, c[:, None], out, in_rows, next_epoch, MODEL)


@gluon.jit(do_not_specialize=["rows", "steps", "first", "last", "top_k"])
def s4d_kernel(
    embedding, head, norm, A, B, C, D, out_proj, out_bias, state,
    logits, draws, ids, rule, residual, y_words, eps, rows, steps, first, last, top_k,
    LAYERS: gl.constexpr, D_MODEL: gl.constexpr, MODEL: gl.constexpr, INNER: gl.constexpr,
    PAIRS: gl.constexpr, N_TILE: gl.constexpr, VOCAB: gl.constexpr, VOCABS: gl.constexpr,
    V_TILE: gl.constexpr, D_TILE: gl.constexpr, CHANNELS: gl.constexpr, OUT_COLUMNS: gl.constexpr,
    HEAD_COLUMNS: gl.constexpr, MODEL_TILE: gl.constexpr, INNER_TILE: gl.constexpr,
    GREEDY: gl.constexpr, TRUNCATES: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    """Stages first..last-1 of the walk: for each step the sampling, two a layer, and the head."""
    program, programs = gl.program_id(0), gl.num_programs(0)
    STAGES: gl.constexpr = 2 * LAYERS + 2
    for stage in range(first, last):
        t = stage // STAGES
        within = stage % STAGES
        place = (within - 1) // 2
        layer = gl.to_tensor(place).to(gl.int64)
        of_residual = t * (LAYERS + 1) + 1  # its epoch after the sampling of this step
        of_layer = t * LAYERS + place + 1
        for tile in range(gl.program_id(1), gl.cdiv(rows, ROWS), gl.num_programs(1)):
            if within == 0:
                # Each program has one row in its turn.
                for one in range(tile * ROWS + program, gl.minimum(tile * ROWS + ROWS, rows), programs):
                    sample_stage(
                        gl.to_tensor(one).to(gl.int64), rows, t, steps, of_residual, residual, embedding,
                        logits, draws, ids, rule, top_k, D_MODEL, MODEL, VOCAB, VOCABS, V_TILE, D_TILE,
                        GREEDY, TRUNCATES,
                    )  # fmt: skip
            elif within == STAGES - 1:
                head_stage(
                    program, programs, tile, rows, of_residual + LAYERS, t + 1, residual, head, logits, eps,
                    D_MODEL, MODEL, VOCAB, VOCABS, HEAD_COLUMNS, MODEL_TILE, ROWS,
                )  # fmt: skip
            elif within % 2 == 1:
                _mix_stage(
                    program, layer, tile, rows, of_residual + place, of_layer, residual, norm, A, B, C, D,
                    state, y_words, eps, D_MODEL, MODEL, INNER, PAIRS, N_TILE, D_TILE, CHANNELS, ROWS,
                )  # fmt: skip
            else:
                _out_stage(
                    program, layer, tile, rows, of_layer, of_residual + place + 1, residual, out_proj,
                    out_bias, y_words, D_MODEL, MODEL, INNER, OUT_COLUMNS, INNER_TILE, ROWS,
                )  # fmt: skip
