"""Steps of a stack of Mamba blocks on a GPU, all layers, head and sampling in one kernel.

A program owns CHANNELS channels of one tile of rows in every layer, and has the layer's three stages run on
them: from the norm to the convolution's output and its share of the products for delta, B and C; the sum of
those shares and the step of the recurrence; and its columns of the output product.
"""

import triton
import triton.language as tl

from ssm_seq.kernels.decode.gpu_parts import (
    barrier,
    head_stage,
    normed_product,
    paired,
    product,
    sample_stage,
    scale_of,
    unpaired,
)
from ssm_seq.kernels.gpu_math import sigmoid, softplus


@triton.jit
def _into_stage(
    program, layer, row, in_rows, rows,
    residual, norm, in_proj, conv_weight, conv_bias, x_proj, conv, u_rows, z_rows, shares, eps,
    PROGRAMS: tl.constexpr, D_MODEL: tl.constexpr, D_INNER: tl.constexpr, WIDTH: tl.constexpr,
    OUTPUTS: tl.constexpr, OUT_TILE: tl.constexpr, CHANNELS: tl.constexpr, K_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    c = program * CHANNELS + tl.arange(0, CHANNELS)
    in_c = c < D_INNER
    inside = in_rows[:, None] & in_c[None, :]
    own = row[:, None] * D_INNER + c[None, :]
    scale = scale_of(residual, row, in_rows, eps, D_MODEL, K_TILE)
    matrix = in_proj + layer * (2 * D_INNER * D_MODEL)
    weight = norm + layer * D_MODEL
    rows_of_both = paired(program * CHANNELS, D_INNER, CHANNELS)
    in_both = program * CHANNELS + tl.arange(0, 2 * CHANNELS) // 2 < D_INNER
    both = normed_product(
        residual, row, in_rows, scale, weight, matrix, rows_of_both, in_both, D_MODEL, K_TILE, PRECISION
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
    out = tl.where(inside, out * sigmoid(out), 0.0)
    tl.store(u_rows + own, out, mask=inside)

    o = tl.arange(0, OUT_TILE)
    weights = tl.load(
        x_proj + layer * (OUTPUTS * D_INNER) + o[None, :] * D_INNER + c[:, None],
        mask=(o < OUTPUTS)[None, :] & in_c[:, None], other=0.0,
    )  # fmt: skip
    share = tl.dot(out.to(weights.dtype), weights, input_precision=PRECISION)
    place = shares + (row[:, None] * PROGRAMS + program) * OUTPUTS + o[None, :]
    tl.store(place, share, mask=in_rows[:, None] & (o < OUTPUTS)[None, :])


@triton.jit
def _total(
    shares, row, in_rows, o, in_o, PROGRAMS: tl.constexpr, OUTPUTS: tl.constexpr, UNROLL: tl.constexpr
):
    """The sum over the programs in their order."""
    total = tl.zeros([row.shape[0], o.shape[0]], tl.float32)
    place = shares + row[:, None] * (PROGRAMS * OUTPUTS) + o[None, :]
    inside = in_rows[:, None] & in_o[None, :]
    for start in range(0, PROGRAMS, UNROLL):
        for i in tl.static_range(UNROLL):
            mask = inside & (start + i < PROGRAMS)
            total += tl.load(place + (start + i) * OUTPUTS, mask=mask, other=0.0, cache_modifier=".cg")
    return total


@triton.jit
def _scan_stage(
    program, layer, row, in_rows, rows,
    shares, dt_proj, dt_bias, A, D, ssm, u_rows, z_rows, y_rows,
    PROGRAMS: tl.constexpr, D_INNER: tl.constexpr, D_STATE: tl.constexpr, N_TILE: tl.constexpr,
    DT_RANK: tl.constexpr, R_TILE: tl.constexpr, CHANNELS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    OUTPUTS: tl.constexpr = DT_RANK + 2 * D_STATE
    UNROLL: tl.constexpr = PROGRAMS if PROGRAMS < 32 else 32
    c = program * CHANNELS + tl.arange(0, CHANNELS)
    in_c = c < D_INNER
    n = tl.arange(0, N_TILE)
    in_n = n < D_STATE
    r = tl.arange(0, R_TILE)
    inside = in_rows[:, None] & in_c[None, :]
    own = row[:, None] * D_INNER + c[None, :]
    wide = inside[:, :, None] & in_n[None, None, :]
    place = (
        ssm + ((layer * rows + row[:, None, None]) * D_INNER + c[None, :, None]) * D_STATE + n[None, None, :]
    )
    x = tl.load(place, mask=wide, other=0.0)
    rate = tl.load(
        A + (layer * D_INNER + c[:, None]) * D_STATE + n[None, :],
        mask=in_c[:, None] & in_n[None, :],
        other=0.0,
    )
    weights = tl.load(
        dt_proj + (layer * D_INNER + c[None, :]) * DT_RANK + r[:, None],
        mask=in_c[None, :] & (r < DT_RANK)[:, None], other=0.0,
    )  # fmt: skip
    u = tl.load(u_rows + own, mask=inside, other=0.0, cache_modifier=".cg")
    z = tl.load(z_rows + own, mask=inside, other=0.0, cache_modifier=".cg")
    low = _total(shares, row, in_rows, r, r < DT_RANK, PROGRAMS, OUTPUTS, UNROLL)
    into = _total(shares, row, in_rows, DT_RANK + n, in_n, PROGRAMS, OUTPUTS, UNROLL)
    out_of = _total(shares, row, in_rows, DT_RANK + D_STATE + n, in_n, PROGRAMS, OUTPUTS, UNROLL)
    delta = tl.dot(low.to(weights.dtype), weights, input_precision=PRECISION)
    delta = softplus(delta + tl.load(dt_bias + layer * D_INNER + c, mask=in_c, other=0.0)[None, :])
    x = tl.exp2(delta[:, :, None] * rate[None, :, :]) * x + (delta * u)[:, :, None] * into[:, None, :]
    tl.store(place, x, mask=wide)
    y = (
        tl.sum(x * out_of[:, None, :], 2)
        + tl.load(D + layer * D_INNER + c, mask=in_c, other=0.0)[None, :] * u
    )
    tl.store(y_rows + own, y * (z * sigmoid(z)), mask=inside)


@triton.jit
def _out_stage(
    program, layer, row, in_rows, residual, out_proj, y_rows,
    D_MODEL: tl.constexpr, D_INNER: tl.constexpr, COLUMNS: tl.constexpr, K_TILE: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    c = program * COLUMNS + tl.arange(0, COLUMNS)
    if program * COLUMNS < D_MODEL:
        inside = in_rows[:, None] & (c < D_MODEL)[None, :]
        place = residual + row[:, None] * D_MODEL + c[None, :]
        before = tl.load(place, mask=inside, other=0.0, cache_modifier=".cg")
        matrix = out_proj + layer * (D_MODEL * D_INNER)
        out = product(y_rows, row, in_rows, matrix, c, c < D_MODEL, D_INNER, K_TILE, PRECISION)
        tl.store(place, before + out, mask=inside)


@triton.jit(do_not_specialize=["first_tile", "rows", "steps", "first", "last", "top_k"])
def mamba_kernel(
    counters, embedding, norm, final_norm, head, in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias,
    A, D, out_proj, conv, ssm, logits, draws, ids, rule, residual, u_rows, z_rows, y_rows, shares,
    eps, first_tile, rows, steps, first, last, top_k,
    LAYERS: tl.constexpr, PROGRAMS: tl.constexpr, D_MODEL: tl.constexpr, D_INNER: tl.constexpr,
    WIDTH: tl.constexpr, D_STATE: tl.constexpr, N_TILE: tl.constexpr, DT_RANK: tl.constexpr,
    R_TILE: tl.constexpr, OUT_TILE: tl.constexpr, VOCAB: tl.constexpr, V_TILE: tl.constexpr,
    D_TILE: tl.constexpr, ROWS: tl.constexpr, CHANNELS: tl.constexpr, OUT_COLUMNS: tl.constexpr,
    HEAD_COLUMNS: tl.constexpr, K_TILE: tl.constexpr, GREEDY: tl.constexpr, TRUNCATES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Stages first..last-1 of the walk: for each step the sampling, three a layer, and the head."""
    program = tl.program_id(0)
    tile = first_tile + tl.program_id(1)
    row = tile * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    row = row.to(tl.int64)
    STAGES: tl.constexpr = 3 * LAYERS + 2
    for stage in range(first, last):
        within = stage % STAGES
        layer = ((within - 1) // 3).to(tl.int64)
        kind = (within - 1) % 3
        if within == 0:
            for one in range(program, tl.minimum(ROWS, rows - tile * ROWS), PROGRAMS):
                sample_stage(
                    (tile * ROWS + one).to(tl.int64), stage // STAGES, steps, residual, embedding, logits,
                    draws, ids, rule, top_k, D_MODEL, VOCAB, V_TILE, D_TILE, GREEDY, TRUNCATES,
                )  # fmt: skip
        elif within == STAGES - 1:
            head_stage(
                program, row, in_rows, residual, final_norm, head, logits, eps,
                D_MODEL, VOCAB, HEAD_COLUMNS, K_TILE, PRECISION,
            )  # fmt: skip
        elif kind == 0:
            _into_stage(
                program, layer, row, in_rows, rows, residual, norm, in_proj, conv_weight, conv_bias, x_proj,
                conv, u_rows, z_rows, shares, eps, PROGRAMS, D_MODEL, D_INNER, WIDTH,
                DT_RANK + 2 * D_STATE, OUT_TILE, CHANNELS, K_TILE, PRECISION,
            )  # fmt: skip
        elif kind == 1:
            _scan_stage(
                program, layer, row, in_rows, rows, shares, dt_proj, dt_bias, A, D, ssm, u_rows, z_rows,
                y_rows, PROGRAMS, D_INNER, D_STATE, N_TILE, DT_RANK, R_TILE, CHANNELS, PRECISION,
            )  # fmt: skip
        else:
            _out_stage(
                program, layer, row, in_rows, residual, out_proj, y_rows,
                D_MODEL, D_INNER, OUT_COLUMNS, K_TILE, PRECISION,
            )  # fmt: skip
        if stage + 1 < last:
            barrier(counters + tl.program_id(1) * 32, (stage + 1 - first) * PROGRAMS)
