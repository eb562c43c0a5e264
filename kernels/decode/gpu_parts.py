"""What the decoding kernels for GPUs share: sampling, the head, and the barrier between their stages.

A kernel walks through stages; the programs of one tile of rows wait for each other between two of them, and
tiles never wait for other tiles. What one program writes and another reads goes past the first-level cache,
which belongs to one multiprocessor (".cg").
"""

import triton
import triton.language as tl


@triton.jit
def barrier(counter, target):
    """Wait until `target` programs in all have come here; what they wrote before is visible after."""
    tl.debug_barrier()  # the whole program is here before its arrival counts
    tl.atomic_add(counter, 1, sem="release", scope="gpu")
    seen = _acquire(counter)
    while seen < target:
        seen = _acquire(counter)
    tl.debug_barrier()


@triton.jit
def _acquire(counter):
    return tl.inline_asm_elementwise(
        "ld.acquire.gpu.global.u32 $0, [$1];", "=r,l", [counter], dtype=tl.int32, is_pure=False, pack=1
    )


@triton.jit
def scale_of(residual, row, in_rows, eps, D_MODEL: tl.constexpr, K_TILE: tl.constexpr):
    """1 / root mean square of each row."""
    squares = tl.zeros([row.shape[0], K_TILE], tl.float32)
    for start in range(0, D_MODEL, K_TILE):
        k = start + tl.arange(0, K_TILE)
        place = residual + row[:, None] * D_MODEL + k[None, :]
        x = tl.load(place, mask=in_rows[:, None] & (k < D_MODEL)[None, :], other=0.0, cache_modifier=".cg")
        squares += x * x
    return tl.rsqrt(tl.sum(squares, 1) / D_MODEL + eps)


@triton.jit
def normed_product(
    residual, row, in_rows, scale, norm, matrix, c, in_c,
    D_MODEL: tl.constexpr, K_TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """norm(x) times rows `c` of a matrix (rows, D_MODEL): (rows of the tile, len(c))."""
    out = tl.zeros([row.shape[0], c.shape[0]], tl.float32)
    for start in range(0, D_MODEL, K_TILE):
        k = start + tl.arange(0, K_TILE)
        in_k = k < D_MODEL
        place = matrix + c.to(tl.int64)[None, :] * D_MODEL + k[:, None]
        weights = tl.load(place, mask=in_c[None, :] & in_k[:, None], other=0.0)
        place = residual + row[:, None] * D_MODEL + k[None, :]
        x = tl.load(place, mask=in_rows[:, None] & in_k[None, :], other=0.0, cache_modifier=".cg")
        x = x * scale[:, None] * tl.load(norm + k, mask=in_k, other=0.0)[None, :]
        out = tl.dot(x.to(weights.dtype), weights, out, input_precision=PRECISION)
    return out


@triton.jit
def product(
    values, row, in_rows, matrix, c, in_c, WIDTH: tl.constexpr, K_TILE: tl.constexpr, PRECISION: tl.constexpr
):
    """Rows of `values` (rows, WIDTH), in the matrix's dtype, times rows `c` of a matrix (rows, WIDTH)."""
    out = tl.zeros([row.shape[0], c.shape[0]], tl.float32)
    for start in range(0, WIDTH, K_TILE):
        k = start + tl.arange(0, K_TILE)
        in_k = k < WIDTH
        place = matrix + c.to(tl.int64)[None, :] * WIDTH + k[:, None]
        weights = tl.load(place, mask=in_c[None, :] & in_k[:, None], other=0.0)
        place = values + row[:, None] * WIDTH + k[None, :]
        x = tl.load(place, mask=in_rows[:, None] & in_k[None, :], other=0.0, cache_modifier=".cg")
        out = tl.dot(x, weights, out, input_precision=PRECISION)
    return out


@triton.jit
def paired(first, half, COUNT: tl.constexpr):
    """Rows first, first + half, first + 1, first + 1 + half, ...: 2 COUNT rows of a matrix of two halves."""
    both = tl.arange(0, 2 * COUNT)
    return first + both // 2 + (both % 2) * half


@triton.jit
def unpaired(values, COUNT: tl.constexpr):
    """The columns of both halves, of a product with paired rows."""
    return tl.split(tl.reshape(values, [values.shape[0], COUNT, 2]))


@triton.jit
def head_stage(
    program, row, in_rows, residual, norm, head, logits, eps,
    D_MODEL: tl.constexpr, VOCAB: tl.constexpr, COLUMNS: tl.constexpr,
    K_TILE: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits of COLUMNS ids for every row of the tile."""
    c = program * COLUMNS + tl.arange(0, COLUMNS)
    if program * COLUMNS < VOCAB:
        scale = scale_of(residual, row, in_rows, eps, D_MODEL, K_TILE)
        out = normed_product(
            residual, row, in_rows, scale, norm, head, c, c < VOCAB, D_MODEL, K_TILE, PRECISION
        )
        tl.store(
            logits + row[:, None] * VOCAB + c[None, :], out, mask=in_rows[:, None] & (c < VOCAB)[None, :]
        )


@triton.jit
def sample_stage(
    row, t, steps, residual, embedding, logits, draws, ids, rule, top_k,
    D_MODEL: tl.constexpr, VOCAB: tl.constexpr, V_TILE: tl.constexpr, D_TILE: tl.constexpr,
    GREEDY: tl.constexpr, TRUNCATES: tl.constexpr,
):  # fmt: skip
    """Draw the id of step t for one row as `Rule.choose` does, and start its residual sum.

    rule: float64 (temperature, top_p, min_p).
    """
    v = tl.arange(0, V_TILE)
    own = tl.load(logits + row * VOCAB + v, mask=v < VOCAB, other=float("-inf"), cache_modifier=".cg")
    if GREEDY:
        chosen = tl.argmax(own, 0)
    else:
        largest = tl.max(own, 0).to(tl.float64)
        weights = _weights(own, largest, rule)
        if TRUNCATES:
            rank, before = _places(weights, logits + row * VOCAB, largest, rule, VOCAB, V_TILE, 16)
            weights = tl.where(rank < top_k, weights, 0.0)
            kept = (before < tl.load(rule + 1) * tl.sum(weights)) & (weights >= tl.load(rule + 2))
            weights = tl.where(kept, weights, 0.0)
        cumulative = tl.cumsum(weights)
        target = tl.load(draws + row * steps + t) * tl.max(cumulative)
        chosen = tl.sum(((cumulative <= target) & (v < VOCAB)).to(tl.int32))
        chosen = tl.minimum(chosen, tl.max(tl.where(weights > 0, v, 0)))
    tl.store(ids + row * steps + t, chosen)
    c = tl.arange(0, D_TILE)
    vector = tl.load(embedding + chosen * D_MODEL + c, mask=c < D_MODEL)
    tl.store(residual + row * D_MODEL + c, vector, mask=c < D_MODEL)


@triton.jit
def _weights(logits, largest, rule):
    return tl.exp((logits.to(tl.float64) - largest) / tl.load(rule))


@triton.jit
def _places(weights, logits, largest, rule, VOCAB: tl.constexpr, V_TILE: tl.constexpr, PART: tl.constexpr):
    """In the order of falling weights: each id's rank, and the sum of the weights before it."""
    v = tl.arange(0, V_TILE)[:, None]
    rank = tl.zeros([V_TILE], tl.int32)
    before = tl.zeros([V_TILE], tl.float64)
    for start in range(0, V_TILE, PART):
        w = start + tl.arange(0, PART)
        others = tl.load(logits + w, mask=w < VOCAB, other=float("-inf"), cache_modifier=".cg")
        others = _weights(others, largest, rule)[None, :]
        first = (others > weights[:, None]) | ((others == weights[:, None]) & (w[None, :] < v))
        rank += tl.sum(first.to(tl.int32), 1)
        before += tl.sum(tl.where(first, others, 0.0), 1)
    return rank, before
