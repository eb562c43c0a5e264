"""Steps of a stack of S4D layers on a GPU, all layers, head and sampling in one kernel.

A program owns CHANNELS channels of one tile of rows in every layer, and has the layer's two stages run on
them: from the norm to the recurrence's GELU, and its columns of the gated product.
"""

import triton
import triton.language as tl

from ssm_seq.kernels.decode.gpu_parts import (
    barrier,
    head_stage,
    paired,
    product,
    sample_stage,
    scale_of,
    unpaired,
)
from ssm_seq.kernels.gpu_math import sigmoid


@triton.jit
def _pair(place, mask):
    """Real and imaginary parts of complex numbers in memory."""
    return tl.load(place, mask=mask, other=0.0), tl.load(place + 1, mask=mask, other=0.0)


@triton.jit
def _mix_stage(
    program, layer, row, in_rows, rows, residual, norm, A, B, C, D, state, y_rows, eps,
    D_MODEL: tl.constexpr, PAIRS: tl.constexpr, N_TILE: tl.constexpr, CHANNELS: tl.constexpr,
    K_TILE: tl.constexpr,
):  # fmt: skip
    c = program * CHANNELS + tl.arange(0, CHANNELS)
    in_c = c < D_MODEL
    n = tl.arange(0, N_TILE)
    inside = in_rows[:, None] & in_c[None, :]
    wide = inside[:, :, None] & (n < PAIRS)[None, None, :]
    own = row[:, None] * D_MODEL + c[None, :]
    place = ((layer * rows + row[:, None, None]) * D_MODEL + c[None, :, None]) * PAIRS + n[None, None, :]
    place = state + 2 * place
    re, im = _pair(place, wide)
    system = 2 * ((layer * D_MODEL + c[:, None]) * PAIRS + n[None, :])
    in_system = in_c[:, None] & (n < PAIRS)[None, :]
    a_re, a_im = _pair(A + system, in_system)
    b_re, b_im = _pair(B + system, in_system)
    c_re, c_im = _pair(C + system, in_system)
    scale = scale_of(residual, row, in_rows, eps, D_MODEL, K_TILE)
    u = tl.load(residual + own, mask=inside, other=0.0, cache_modifier=".cg") * scale[:, None]
    u = u * tl.load(norm + layer * D_MODEL + c, mask=in_c, other=0.0)[None, :]
    input = u[:, :, None]
    after_re = a_re[None, :, :] * re - a_im[None, :, :] * im + b_re[None, :, :] * input
    after_im = a_re[None, :, :] * im + a_im[None, :, :] * re + b_im[None, :, :] * input
    tl.store(place, after_re, mask=wide)
    tl.store(place + 1, after_im, mask=wide)
    y = 2 * tl.sum(c_re[None, :, :] * after_re - c_im[None, :, :] * after_im, 2)
    y += tl.load(D + layer * D_MODEL + c, mask=in_c, other=0.0)[None, :] * u
    y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    tl.store(y_rows + own, y, mask=inside)


@triton.jit
def _out_stage(
    program, layer, row, in_rows, residual, out_proj, out_bias, y_rows,
    D_MODEL: tl.constexpr, COLUMNS: tl.constexpr, K_TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    c = program * COLUMNS + tl.arange(0, COLUMNS)
    in_c = c < D_MODEL
    if program * COLUMNS < D_MODEL:
        inside = in_rows[:, None] & in_c[None, :]
        place = residual + row[:, None] * D_MODEL + c[None, :]
        before = tl.load(place, mask=inside, other=0.0, cache_modifier=".cg")
        matrix = out_proj + layer * (2 * D_MODEL * D_MODEL)
        bias = out_bias + layer * (2 * D_MODEL) + c
        rows_of_both = paired(program * COLUMNS, D_MODEL, COLUMNS)
        in_both = program * COLUMNS + tl.arange(0, 2 * COLUMNS) // 2 < D_MODEL
        both = product(y_rows, row, in_rows, matrix, rows_of_both, in_both, D_MODEL, K_TILE, PRECISION)
        value, gate = unpaired(both, COLUMNS)
        value += tl.load(bias, mask=in_c, other=0.0)[None, :]
        gate += tl.load(bias + D_MODEL, mask=in_c, other=0.0)[None, :]
        tl.store(place, before + value * sigmoid(gate), mask=inside)


@triton.jit(do_not_specialize=["first_tile", "rows", "steps", "first", "last", "top_k"])
def s4d_kernel(
    counters, embedding, norm, final_norm, head, A, B, C, D, out_proj, out_bias,
    state, logits, draws, ids, rule, residual, y_rows, eps, first_tile, rows, steps, first, last, top_k,
    LAYERS: tl.constexpr, PROGRAMS: tl.constexpr, D_MODEL: tl.constexpr, PAIRS: tl.constexpr,
    N_TILE: tl.constexpr, VOCAB: tl.constexpr, V_TILE: tl.constexpr, D_TILE: tl.constexpr,
    ROWS: tl.constexpr, CHANNELS: tl.constexpr, OUT_COLUMNS: tl.constexpr, HEAD_COLUMNS: tl.constexpr,
    K_TILE: tl.constexpr, GREEDY: tl.constexpr, TRUNCATES: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Stages first..last-1 of the walk: for each step the sampling, two a layer, and the head."""
    program = tl.program_id(0)
    tile = first_tile + tl.program_id(1)
    row = tile * ROWS + tl.arange(0, ROWS)
    in_rows = row < rows
    row = row.to(tl.int64)
    STAGES: tl.constexpr = 2 * LAYERS + 2
    for stage in range(first, last):
        within = stage % STAGES
        layer = ((within - 1) // 2).to(tl.int64)
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
        elif (within - 1) % 2 == 0:
            _mix_stage(
                program, layer, row, in_rows, rows, residual, norm, A, B, C, D, state, y_rows, eps,
                D_MODEL, PAIRS, N_TILE, CHANNELS, K_TILE,
            )  # fmt: skip
        else:
            _out_stage(
                program, layer, row, in_rows, residual, out_proj, out_bias, y_rows,
                D_MODEL, OUT_COLUMNS, K_TILE, PRECISION,
            )  # fmt: skip
        if stage + 1 < last:
            barrier(counters + tl.program_id(1) * 32, (stage + 1 - first) * PROGRAMS)
