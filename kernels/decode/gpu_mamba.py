"""Steps of a stack of Mamba blocks on a GPU, all layers, head and sampling in one kernel.

A program owns CHANNELS channels of its tiles of rows in every layer. A layer has four stages, each over all
programs: from the norm to the convolution's output; the products for delta, B and C; the step of the
recurrence; the output product.
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
from ssm_seq.kernels.decode.gpu_words import received_rows, send, settle
from ssm_seq.kernels.gluon_math import exp2, sigmoid, softplus


@gluon.jit
def _into_stage(
    program, layer, tile, rows, epoch, next_epoch, residual, in_proj, conv_weight, conv_bias, conv,
    u_words, u_rows, z_rows, eps,
    D_MODEL: gl.constexpr, MODEL: gl.constexpr, D_INNER: gl.constexpr, INNER: gl.constexpr,
    WIDTH: gl.constexpr, CHANNELS: gl.constexpr, K_TILE: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    LAYOUT: gl.constexpr = made_layout(gl.num_warps(), CHANNELS)
    row, c, in_rows = places(tile, program * CHANNELS, rows, CHANNELS, ROWS, LAYOUT)
    in_c = c < D_INNER
    inside = in_rows & in_c[:, None]
    taps = conv_weight + layer * (WIDTH * D_INNER) + c
    newest_tap = gl.load(taps + (WIDTH - 1) * D_INNER, mask=in_c, other=0.0)
    out = gl.load(conv_bias + layer * D_INNER + c, mask=in_c, other=0.0)[:, None]
    place = conv + (layer * rows + row) * ((WIDTH - 1) * D_INNER) + c[:, None]
    for k in gl.static_range(WIDTH - 1):
        tap = gl.load(taps + k * D_INNER, mask=in_c, other=0.0)
        out += tap[:, None] * gl.load(place + k * D_INNER, mask=inside, other=0.0)
    u, z, squares = products(
        residual, tile, rows, epoch, in_proj + layer * (2 * D_INNER * D_MODEL), program * CHANNELS,
        CHANNELS, D_INNER, D_MODEL, MODEL, K_TILE, True, ROWS,
    )  # fmt: skip
    scale = gl.rsqrt(squares / D_MODEL + eps)[None, :]
    u *= scale
    out += u * newest_tap[:, None]
    out *= sigmoid(out, False)
    send(u_words, rows, row, c[:, None], out, in_rows, next_epoch, INNER)
    gl.store(u_rows + row * D_INNER + c[:, None], out, mask=inside)
    gl.store(z_rows + row * D_INNER + c[:, None], z * scale, mask=inside)
    for k in gl.static_range(1, WIDTH - 1):
        past = gl.load(place + k * D_INNER, mask=inside, other=0.0)
        gl.store(place + (k - 1) * D_INNER, past, mask=inside)
    if WIDTH > 1:
        gl.store(place + (WIDTH - 2) * D_INNER, u, mask=inside)


@gluon.jit
def _low_stage(
    program, programs, layer, tile, rows, epoch, x_proj, u_words, low_words,
    D_INNER: gl.constexpr, INNER: gl.constexpr, LOW: gl.constexpr, COLUMNS: gl.constexpr,
    K_TILE: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    """Eight rows of the tile and COLUMNS outputs at once: there are few outputs for so many programs."""
    EIGHT: gl.constexpr = 8
    PARTS: gl.constexpr = ROWS // EIGHT
    for part in range(program, LOW // COLUMNS * PARTS, programs):
        first, eight = part // PARTS * COLUMNS, tile * PARTS + part % PARTS
        out, _, _ = products(
            u_words, eight, rows, epoch, x_proj + layer * (LOW * D_INNER), first, COLUMNS, LOW,
            D_INNER, INNER, K_TILE, False, EIGHT,
        )  # fmt: skip
        row, c, in_rows = places(eight, first, rows, COLUMNS, EIGHT, made_layout(gl.num_warps(), COLUMNS))
        send(low_words, rows, row, c[:, None], out, in_rows, epoch, LOW)


@gluon.constexpr_function
def _state_layout(warps, inner, lanes):
    """Of (channels, rows, inner), `lanes` lanes to a channel and row."""
    return gl.BlockedLayout([1, 1, inner // lanes], [32 // lanes, 1, lanes], [1, warps, 1], [2, 0, 1])


@gluon.jit
def _scan_stage(
    program, layer, tile, rows, epoch, low_words, dt_proj, dt_bias, A, D, ssm, u_rows, z_rows, y_words,
    D_INNER: gl.constexpr, INNER: gl.constexpr, D_STATE: gl.constexpr, N_TILE: gl.constexpr,
    DT_RANK: gl.constexpr, R_TILE: gl.constexpr, SECTION: gl.constexpr, LOW: gl.constexpr,
    LOW_TILE: gl.constexpr, CHANNELS: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    WARPS: gl.constexpr = gl.num_warps()
    LANES: gl.constexpr = max(N_TILE // 16, 1)
    STATE: gl.constexpr = _state_layout(WARPS, N_TILE, LANES)
    RANK: gl.constexpr = _state_layout(WARPS, R_TILE, LANES)
    OWN: gl.constexpr = gl.SliceLayout(2, STATE)
    row, c, in_rows = places(tile, program * CHANNELS, rows, CHANNELS, ROWS, OWN)
    in_c = c < D_INNER
    inside = in_c[:, None] & in_rows
    n = gl.arange(0, N_TILE, gl.SliceLayout(0, gl.SliceLayout(1, STATE)))
    place = ((layer * rows + row) * D_INNER + c[:, None])[:, :, None] * D_STATE + n[None, None, :]
    wide = inside[:, :, None] & (n < D_STATE)[None, None, :]
    x = gl.load(ssm + place, mask=wide, other=0.0)
    at, there = of_channels(A, layer, program * CHANNELS, D_INNER, D_STATE, N_TILE, CHANNELS, STATE, 1)
    rate = gl.load(at, mask=there, other=0.0)
    at, there = of_channels(dt_proj, layer, program * CHANNELS, D_INNER, DT_RANK, R_TILE, CHANNELS, RANK, 1)
    to_delta = gl.load(at, mask=there, other=0.0)
    bias = gl.load(dt_bias + layer * D_INNER + c, mask=in_c, other=0.0)[:, None]
    skip = gl.load(D + layer * D_INNER + c, mask=in_c, other=0.0)[:, None]
    gl.thread_barrier()  # u and z come from other threads of this program
    u = gl.load(u_rows + row * D_INNER + c[:, None], mask=inside, other=0.0)
    z = gl.load(z_rows + row * D_INNER + c[:, None], mask=inside, other=0.0)
    gate = z * sigmoid(z, False)

    low = gl.allocate_shared_memory(
        gl.float32, [ROWS, LOW_TILE], gl.SwizzledSharedLayout(1, 1, 1, [1, 0]),
        received_rows(low_words, tile, rows, epoch, LOW, LOW_TILE, ROWS),
    )  # fmt: skip
    rank = low.slice(0, R_TILE, 1).load(gl.SliceLayout(0, RANK))
    into = low.slice(SECTION, N_TILE, 1).load(gl.SliceLayout(0, STATE))
    out_of = low.slice(2 * SECTION, N_TILE, 1).load(gl.SliceLayout(0, STATE))
    delta = gl.sum(to_delta.to(gl.float32)[:, None, :] * rank[None, :, :], 2)
    delta = softplus(gl.convert_layout(delta, OWN) + bias, False)
    x = exp2(delta[:, :, None] * rate[:, None, :]) * x + (delta * u)[:, :, None] * into[None, :, :]
    y = gl.sum(x * out_of[None, :, :], 2) + skip * u
    send(y_words, rows, row, c[:, None], y * gate, in_rows, epoch, INNER)
    gl.store(ssm + place, x, mask=wide)


@gluon.jit
def _out_stage(
    program, layer, tile, rows, epoch, next_epoch, residual, out_proj, y_words,
    D_MODEL: gl.constexpr, MODEL: gl.constexpr, D_INNER: gl.constexpr, INNER: gl.constexpr,
    COLUMNS: gl.constexpr, K_TILE: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    if program * COLUMNS < MODEL:
        LAYOUT: gl.constexpr = made_layout(gl.num_warps(), COLUMNS)
        row, c, in_rows = places(tile, program * COLUMNS, rows, COLUMNS, ROWS, LAYOUT)
        before = own_residual(residual, rows, row, c[:, None], in_rows, next_epoch - 1, MODEL)
        out, _, _ = products(
            y_words, tile, rows, epoch, out_proj + layer * (D_MODEL * D_INNER), program * COLUMNS, COLUMNS,
            D_MODEL, D_INNER, INNER, K_TILE, False, ROWS,
        )  # fmt: skip
        send(residual, rows, row, c[:, None], before + out, in_rows, next_epoch, MODEL)


@gluon.jit(do_not_specialize=["rows", "steps", "first", "last", "top_k"])
def mamba_kernel(
    embedding, head, in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj, conv, ssm,
    logits, draws, ids, rule, residual, u_words, low_words, y_words, u_rows, z_rows,
    eps, rows, steps, first, last, top_k,
    LAYERS: gl.constexpr, D_MODEL: gl.constexpr, MODEL: gl.constexpr, D_INNER: gl.constexpr,
    INNER: gl.constexpr, WIDTH: gl.constexpr, D_STATE: gl.constexpr, N_TILE: gl.constexpr,
    DT_RANK: gl.constexpr, R_TILE: gl.constexpr, SECTION: gl.constexpr, LOW: gl.constexpr,
    LOW_TILE: gl.constexpr, VOCAB: gl.constexpr, VOCABS: gl.constexpr, V_TILE: gl.constexpr,
    D_TILE: gl.constexpr, CHANNELS: gl.constexpr, LOW_COLUMNS: gl.constexpr, OUT_COLUMNS: gl.constexpr,
    HEAD_COLUMNS: gl.constexpr, MODEL_TILE: gl.constexpr, INNER_TILE: gl.constexpr,
    GREEDY: gl.constexpr, TRUNCATES: gl.constexpr, ROWS: gl.constexpr,
):  # fmt: skip
    """Stages first..last-1 of the walk: for each step the sampling, four a layer, and the head."""
    program, programs = gl.program_id(0), gl.num_programs(0)
    STAGES: gl.constexpr = 4 * LAYERS + 2
    for stage in range(first, last):
        t = stage // STAGES
        within = stage % STAGES
        place = (within - 1) // 4
        layer = gl.to_tensor(place).to(gl.int64)
        kind = (within - 1) % 4
        of_residual = t * (LAYERS + 1) + 1  # its epoch after the sampling of this step
        of_layer = t * LAYERS + place + 1
        if kind == 2:
            settle(residual)
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
            elif kind == 0:
                _into_stage(
                    program, layer, tile, rows, of_residual + place, of_layer, residual, in_proj,
                    conv_weight, conv_bias, conv, u_words, u_rows, z_rows, eps, D_MODEL, MODEL, D_INNER,
                    INNER, WIDTH, CHANNELS, MODEL_TILE, ROWS,
                )  # fmt: skip
            elif kind == 1:
                _low_stage(
                    program, programs, layer, tile, rows, of_layer, x_proj, u_words, low_words, D_INNER,
                    INNER, LOW, LOW_COLUMNS, INNER_TILE, ROWS,
                )  # fmt: skip
            elif kind == 2:
                _scan_stage(
                    program, layer, tile, rows, of_layer, low_words, dt_proj, dt_bias, A, D, ssm,
                    u_rows, z_rows, y_words, D_INNER, INNER, D_STATE, N_TILE, DT_RANK, R_TILE, SECTION, LOW,
                    LOW_TILE, CHANNELS, ROWS,
                )  # fmt: skip
            else:
                _out_stage(
                    program, layer, tile, rows, of_layer, of_residual + place + 1, residual, out_proj,
                    y_words, D_MODEL, MODEL, D_INNER, INNER, OUT_COLUMNS, INNER_TILE, ROWS,
                )  # fmt: skip
