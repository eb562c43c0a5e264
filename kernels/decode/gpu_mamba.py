"""Steps of a stack of Mamba blocks on a GPU, all layers, head and sampling in one kernel.

A program owns CHANNELS channels of its tiles of rows in every layer. A layer has four stages, each over all
programs: from the norm to the convolution's output; the products for delta, B and C; the step of the
recurrence; the output product.
"""

import triton
import triton.language as tl

from ssm_seq.kernels.decode.gpu_parts import (
    head_stage,
    normed_product,
    opened,
    paired,
    product,
    receive_three,
    sample_stage,
    send,
    unpaired,
)
from ssm_seq.kernels.gpu_math import sigmoid, softplus


@triton.jit
def _into_stage(
    program, layer, row, in_rows, rows, epoch, next_epoch,
    residual, in_proj, conv_weight, conv_bias, conv, u_words, u_rows, z_rows, eps,
    D_MODEL: tl.constexpr, D_INNER: tl.constexpr, WIDTH: tl.constexpr, CHANNELS: tl.constexpr,
    K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c = program * CHANNELS + tl.arange(0, CHANNELS)
    in_c = c < D_INNER
    inside = in_rows[:, None] & in_c[None, :]
    own = row[:, None] * D_INNER + c[None, :]
    rows_of_both = paired(program * CHANNELS, D_INNER, CHANNELS)
    in_both = program * CHANNELS + tl.arange(0, 2 * CHANNELS) // 2 < D_INNER
    matrix = in_proj + layer * (2 * D_INNER * D_MODEL)
    both = normed_product(
        residual, row, in_rows, epoch, eps, matrix, rows_of_both, in_both, D_MODEL, K_TILE, PARTS, PRECISION
    )
    u, z = unpaired(both, CHANNELS)
    tl.store(z_rows + own, z, mask=inside)

    taps = conv_weight + layer * (WIDTH * D_INNER) + c
    out = tl.load(conv_bias + layer * D_INNER + c, mask=in_c, other=0.0)[None, :]
    out += u * tl.load(taps + (WIDTH - 1) * D_INNER, mask=in_c, other=0.0)[None, :]
    place = conv + (layer * rows + row[:, None]) * ((WIDTH - 1) * D_INNER) + c[None, :]
    for k in tl.static_range(WIDTH - 1):
        past = tl.load(place + k * D_INNER, mask=inside, other=0.0)
        out += past * tl.load(taps + k * D_INNER, mask=in_c, other=0.0)[None, :]
        if k > 0:
            tl.store(place + (k - 1) * D_INNER, past, mask=inside)
    if WIDTH > 1:
        tl.store(place + (WIDTH - 2) * D_INNER, u, mask=inside)
    out = out * sigmoid(out)
    send(u_words + own, out, inside, next_epoch)
    tl.store(u_rows + own, out, mask=inside)


@triton.jit
def _low_stage(
    program, layer, row, in_rows, epoch, x_proj, u_words, low_words,
    D_INNER: tl.constexpr, OUTPUTS: tl.constexpr, COLUMNS: tl.constexpr,
    K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c = program * COLUMNS + tl.arange(0, COLUMNS)
    in_c = c < OUTPUTS
    if program * COLUMNS < OUTPUTS:
        matrix = x_proj + layer * (OUTPUTS * D_INNER)
        out, _ = product(u_words, row, in_rows, epoch, matrix, c, in_c, D_INNER, K_TILE, PARTS, PRECISION)
        send(low_words + row[:, None] * OUTPUTS + c[None, :], out, in_rows[:, None] & in_c[None, :], epoch)


@triton.jit
def _scan_stage(
    program, layer, row, in_rows, rows, epoch,
    low_words, dt_proj, dt_bias, A, D, ssm, u_rows, z_rows, y_words,
    D_INNER: tl.constexpr, D_STATE: tl.constexpr, N_TILE: tl.constexpr, DT_RANK: tl.constexpr,
    R_TILE: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    OUTPUTS: tl.constexpr = DT_RANK + 2 * D_STATE
    c = program * CHANNELS + tl.arange(0, CHANNELS)
    in_c = c < D_INNER
    n = tl.arange(0, N_TILE)
    in_n = n < D_STATE
    r = tl.arange(0, R_TILE)
    in_r = r < DT_RANK
    inside = in_rows[:, None] & in_c[None, :]
    own = row[:, None] * D_INNER + c[None, :]
    wide = inside[:, :, None] & in_n[None, None, :]
    place = (layer * rows + row[:, None, None]) * D_INNER + c[None, :, None]
    place = ssm + place * D_STATE + n[None, None, :]
    x = tl.load(place, mask=wide, other=0.0)
    rate = A + (layer * D_INNER + c[:, None]) * D_STATE + n[None, :]
    rate = tl.load(rate, mask=in_c[:, None] & in_n[None, :], other=0.0)
    weights = tl.load(
        dt_proj + (layer * D_INNER + c[None, :]) * DT_RANK + r[:, None], mask=in_c[None, :] & in_r[:, None],
        other=0.0,
    )  # fmt: skip
    bias = tl.load(dt_bias + layer * D_INNER + c, mask=in_c, other=0.0)
    skip = tl.load(D + layer * D_INNER + c, mask=in_c, other=0.0)
    tl.debug_barrier()  # u and z come from other threads of this program
    u = tl.load(u_rows + own, mask=inside, other=0.0)
    z = tl.load(z_rows + own, mask=inside, other=0.0)
    low_row = low_words + row[:, None] * OUTPUTS
    low, into, out_of = receive_three(
        low_row + r[None, :], in_rows[:, None] & in_r[None, :],
        low_row + DT_RANK + n[None, :], in_rows[:, None] & in_n[None, :],
        low_row + DT_RANK + D_STATE + n[None, :], in_rows[:, None] & in_n[None, :], epoch,
    )  # fmt: skip
    delta = softplus(tl.dot(low.to(weights.dtype), weights, input_precision=PRECISION) + bias[None, :])
    x = tl.exp2(delta[:, :, None] * rate[None, :, :]) * x + (delta * u)[:, :, None] * into[:, None, :]
    tl.store(place, x, mask=wide)
    y = tl.sum(x * out_of[:, None, :], 2) + skip[None, :] * u
    send(y_words + own, y * (z * sigmoid(z)), inside, epoch)


@triton.jit
def _out_stage(
    program, layer, row, in_rows, epoch, next_epoch, residual, out_proj, y_words,
    D_MODEL: tl.constexpr, D_INNER: tl.constexpr, COLUMNS: tl.constexpr,
    K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c = program * COLUMNS + tl.arange(0, COLUMNS)
    in_c = c < D_MODEL
    if program * COLUMNS < D_MODEL:
        inside = in_rows[:, None] & in_c[None, :]
        place = residual + row[:, None] * D_MODEL + c[None, :]
        before = opened(tl.load(place, mask=inside, other=0, volatile=True))
        matrix = out_proj + layer * (D_MODEL * D_INNER)
        out, _ = product(y_words, row, in_rows, epoch, matrix, c, in_c, D_INNER, K_TILE, PARTS, PRECISION)
        send(place, before + out, inside, next_epoch)


@triton.jit(do_not_specialize=["rows", "steps", "first", "last", "top_k"])
def mamba_kernel(
    embedding, head, in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj, conv, ssm,
    logits, draws, ids, rule, residual, u_words, low_words, y_words, u_rows, z_rows,
    eps, rows, steps, first, last, top_k,
    LAYERS: tl.constexpr, D_MODEL: tl.constexpr, D_INNER: tl.constexpr, WIDTH: tl.constexpr,
    D_STATE: tl.constexpr, N_TILE: tl.constexpr, DT_RANK: tl.constexpr, R_TILE: tl.constexpr,
    VOCAB: tl.constexpr, V_TILE: tl.constexpr, D_TILE: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, LOW_COLUMNS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
    HEAD_COLUMNS: tl.constexpr, MODEL_TILE: tl.constexpr, INNER_TILE: tl.constexpr, PARTS: tl.constexpr,
    GREEDY: tl.constexpr, TRUNCATES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Stages first..last-1 of the walk: for each step the sampling, four a layer, and the head."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    STAGES: tl.constexpr = 4 * LAYERS + 2
    for stage in range(first, last):
        t = stage // STAGES
        within = stage % STAGES
        place = (within - 1) // 4
        layer = tl.full([], place, tl.int64)
        kind = (within - 1) % 4
        of_residual = t * (LAYERS + 1) + 1  # its epoch after the sampling of this step
        of_layer = t * LAYERS + place + 1
        for tile in range(tl.program_id(1), tl.cdiv(rows, ROWS), tl.num_programs(1)):
            row = tile * ROWS + tl.arange(0, ROWS)
            in_rows = row < rows
            row = row.to(tl.int64)
            if within == 0:
                # Each program has one row in its turn.
                for one in range(tile * ROWS + program, tl.minimum(tile * ROWS + ROWS, rows), programs):
                    sample_stage(
                        tl.full([], one, tl.int64), t, steps, of_residual, residual, embedding, logits,
                        draws, ids, rule, top_k, D_MODEL, VOCAB, V_TILE, D_TILE, GREEDY, TRUNCATES,
                    )  # fmt: skip
            elif within == STAGES - 1:
                head_stage(
                    program, row, in_rows, of_residual + LAYERS, t + 1, residual, head, logits, eps,
                    D_MODEL, VOCAB, HEAD_COLUMNS, MODEL_TILE, PARTS, PRECISION,
                )  # fmt: skip
            elif kind == 0:
                _into_stage(
                    program, layer, row, in_rows, rows, of_residual + place, of_layer, residual, in_proj,
                    conv_weight, conv_bias, conv, u_words, u_rows, z_rows, eps, D_MODEL, D_INNER, WIDTH,
                    CHANNELS, MODEL_TILE, PARTS, PRECISION,
                )  # fmt: skip
            elif kind == 1:
                _low_stage(
                    program, layer, row, in_rows, of_layer, x_proj, u_words, low_words, D_INNER,
                    DT_RANK + 2 * D_STATE, LOW_COLUMNS, INNER_TILE, PARTS, PRECISION,
                )  # fmt: skip
            elif kind == 2:
                _scan_stage(
                    program, layer, row, in_rows, rows, of_layer, low_words, dt_proj, dt_bias, A, D, ssm,
                    u_rows, z_rows, y_words, D_INNER, D_STATE, N_TILE, DT_RANK, R_TILE, CHANNELS, PRECISION,
                )  # fmt: skip
            else:
                _out_stage(
                    program, layer, row, in_rows, of_layer, of_residual + place + 1, residual, out_proj,
                    y_words, D_MODEL, D_INNER, OUT_COLUMNS, INNER_TILE, PARTS, PRECISION,
                )  # fmt: skip
