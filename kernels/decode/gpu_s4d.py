"""Steps of a stack of S4D layers on a GPU, all layers, head and sampling in one kernel.

A program owns CHANNELS channels of its tiles of rows in every layer. A layer has two stages, each over all
programs: from the norm to the recurrence's GELU; the gated output product.
"""

import triton
import triton.language as tl

from ssm_seq.kernels.decode.gpu_parts import (
    head_stage,
    opened,
    paired,
    product,
    receive,
    sample_stage,
    send,
    unpaired,
)
from ssm_seq.kernels.gpu_math import sigmoid


@triton.jit
def _pair(place, mask):
    """Real and imaginary parts of complex numbers in memory."""
    return tl.load(place, mask=mask, other=0.0), tl.load(place + 1, mask=mask, other=0.0)


@triton.jit
def _mix_stage(
    program, layer, row, in_rows, rows, epoch, next_epoch, residual, norm, A, B, C, D, state, y_words, eps,
    D_MODEL: tl.constexpr, PAIRS: tl.constexpr, N_TILE: tl.constexpr, CHANNELS: tl.constexpr,
    D_TILE: tl.constexpr,
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
    every = tl.arange(0, D_TILE)
    whole = residual + row[:, None] * D_MODEL + every[None, :]
    x = receive(whole, in_rows[:, None] & (every < D_MODEL)[None, :], epoch)
    u = opened(tl.load(residual + own, mask=inside, other=0, volatile=True))
    u *= tl.rsqrt(tl.sum(x * x, 1) / D_MODEL + eps)[:, None]
    u *= tl.load(norm + layer * D_MODEL + c, mask=in_c, other=0.0)[None, :]
    input = u[:, :, None]
    after_re = a_re[None, :, :] * re - a_im[None, :, :] * im + b_re[None, :, :] * input
    after_im = a_re[None, :, :] * im + a_im[None, :, :] * re + b_im[None, :, :] * input
    tl.store(place, after_re, mask=wide)
    tl.store(place + 1, after_im, mask=wide)
    y = 2 * tl.sum(c_re[None, :, :] * after_re - c_im[None, :, :] * after_im, 2)
    y += tl.load(D + layer * D_MODEL + c, mask=in_c, other=0.0)[None, :] * u
    y = 0.5 * y * (1 + tl.erf(y * 0.7071067811865476))
    send(y_words + own, y, inside, next_epoch)


@triton.jit
def _out_stage(
    program, layer, row, in_rows, epoch, next_epoch, residual, out_proj, out_bias, y_words,
    D_MODEL: tl.constexpr, COLUMNS: tl.constexpr, K_TILE: tl.constexpr, PARTS: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    c = program * COLUMNS + tl.arange(0, COLUMNS)
    in_c = c < D_MODEL
    if program * COLUMNS < D_MODEL:
        inside = in_rows[:, None] & in_c[None, :]
        place = residual + row[:, None] * D_MODEL + c[None, :]
        before = opened(tl.load(place, mask=inside, other=0, volatile=True))
        bias = out_bias + layer * (2 * D_MODEL) + c
        value_bias = tl.load(bias, mask=in_c, other=0.0)
        gate_bias = tl.load(bias + D_MODEL, mask=in_c, other=0.0)
        rows_of_both = paired(program * COLUMNS, D_MODEL, COLUMNS)
        in_both = program * COLUMNS + tl.arange(0, 2 * COLUMNS) // 2 < D_MODEL
        matrix = out_proj + layer * (2 * D_MODEL * D_MODEL)
        both, _ = product(
            y_words, row, in_rows, epoch, matrix, rows_of_both, in_both, D_MODEL, K_TILE, PARTS, PRECISION
        )
        value, gate = unpaired(both, COLUMNS)
        gated = (value + value_bias[None, :]) * sigmoid(gate + gate_bias[None, :])
        send(place, before + gated, inside, next_epoch)


@triton.jit(do_not_specialize=["rows", "steps", "first", "last", "top_k"])
def s4d_kernel(
    embedding, head, norm, A, B, C, D, out_proj, out_bias, state,
    logits, draws, ids, rule, residual, y_words, eps, rows, steps, first, last, top_k,
    LAYERS: tl.constexpr, D_MODEL: tl.constexpr, PAIRS: tl.constexpr, N_TILE: tl.constexpr,
    VOCAB: tl.constexpr, V_TILE: tl.constexpr, D_TILE: tl.constexpr, ROWS: tl.constexpr,
    CHANNELS: tl.constexpr, OUT_COLUMNS: tl.constexpr, HEAD_COLUMNS: tl.constexpr,
    MODEL_TILE: tl.constexpr, PARTS: tl.constexpr, GREEDY: tl.constexpr, TRUNCATES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Stages first..last-1 of the walk: for each step the sampling, two a layer, and the head."""
    program, programs = tl.program_id(0), tl.num_programs(0)
    STAGES: tl.constexpr = 2 * LAYERS + 2
    for stage in range(first, last):
        t = stage // STAGES
        within = stage % STAGES
        place = (within - 1) // 2
        layer = tl.full([], place, tl.int64)
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
            elif (within - 1) % 2 == 0:
                _mix_stage(
                    program, layer, row, in_rows, rows, of_residual + place, of_layer, residual, norm,
                    A, B, C, D, state, y_words, eps, D_MODEL, PAIRS, N_TILE, CHANNELS, D_TILE,
                )  # fmt: skip
            else:
                _out_stage(
                    program, layer, row, in_rows, of_layer, of_residual + place + 1, residual, out_proj,
                    out_bias, y_words, D_MODEL, OUT_COLUMNS, MODEL_TILE, PARTS, PRECISION,
                )  # fmt: skip
