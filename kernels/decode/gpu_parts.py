"""What the decoding kernels for GPUs share: how programs hand over, products, sampling and the head.

A kernel walks through stages; the programs that share a tile of rows wait for each other between two of them,
and tiles never wait for other tiles. All that a stage does not need from the others, above all its weights,
is asked for before it waits. What one program writes and another reads goes past the first-level cache, which
belongs to one multiprocessor (".cg"), so nothing has to be thrown out of that cache at a hand-over. A program
without work in a stage waits all the same: it must not be counted in before its time.
"""

import triton
import triton.language as tl


@triton.jit
def arrive(counter):
    """What the program has written is there for the others from now on."""
    tl.debug_barrier()  # of all its threads
    tl.atomic_add(counter, 1, sem="release", scope="gpu")


@triton.jit
def wait(counter, target):
    """Until `target` programs in all have arrived; what they had written by then is there to read."""
    while tl.atomic_add(counter, 0, sem="acquire", scope="gpu") < target:
        pass
    tl.debug_barrier()


@triton.jit
def _tile_of(matrix, c, in_c, start, WIDTH: tl.constexpr, K_TILE: tl.constexpr, PARTS: tl.constexpr):
    """Rows `c` of a matrix (rows, WIDTH) from column `start` on: (PARTS, K_TILE / PARTS, len(c))."""
    K_PART: tl.constexpr = K_TILE // PARTS
    k = start + tl.arange(0, PARTS)[:, None] * K_PART + tl.arange(0, K_PART)[None, :]
    place = matrix + c.to(tl.int64)[None, None, :] * WIDTH + k[:, :, None]
    return tl.load(place, mask=in_c[None, None, :] & (k < WIDTH)[:, :, None], other=0.0)


@triton.jit
def product(
    counter, target, values, row, in_rows, matrix, c, in_c,
    WIDTH: tl.constexpr, K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Wait; then rows of `values` (rows, WIDTH) times rows `c` of a matrix (rows, WIDTH), and the sums of the
    rows' squares.

    Each warp has a part of WIDTH: one chain of products over all of it would take longer than the rest.
    """
    K_PART: tl.constexpr = K_TILE // PARTS
    weights = _tile_of(matrix, c, in_c, 0, WIDTH, K_TILE, PARTS)
    wait(counter, target)
    sums = tl.zeros([PARTS, row.shape[0], c.shape[0]], tl.float32)
    squares = tl.zeros([PARTS, row.shape[0]], tl.float32)
    for start in tl.static_range(0, WIDTH, K_TILE):
        if start > 0:
            weights = _tile_of(matrix, c, in_c, start, WIDTH, K_TILE, PARTS)
        k = start + tl.arange(0, PARTS)[:, None, None] * K_PART + tl.arange(0, K_PART)[None, None, :]
        place = values + row[None, :, None] * WIDTH + k
        x = tl.load(place, mask=in_rows[None, :, None] & (k < WIDTH), other=0.0, cache_modifier=".cg")
        squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), 2)
        sums = tl.dot(x.to(weights.dtype), weights, sums, input_precision=PRECISION)
    return tl.sum(sums, 0), tl.sum(squares, 0)


@triton.jit
def normed_product(
    counter, target, values, row, in_rows, eps, matrix, c, in_c,
    WIDTH: tl.constexpr, K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`product` of rows that are divided by their root mean square; the norm's weight is in the matrix."""
    out, squares = product(
        counter, target, values, row, in_rows, matrix, c, in_c, WIDTH, K_TILE, PARTS, PRECISION
    )
    return out * tl.rsqrt(squares / WIDTH + eps)[:, None]


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
    counter, target, program, row, in_rows, residual, head, logits, eps,
    D_MODEL: tl.constexpr, VOCAB: tl.constexpr, COLUMNS: tl.constexpr,
    K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits of COLUMNS ids for every row of the tile."""
    c = program * COLUMNS + tl.arange(0, COLUMNS)
    in_c = c < VOCAB
    if program * COLUMNS < VOCAB:
        out = normed_product(
            counter, target, residual, row, in_rows, eps, head, c, in_c, D_MODEL, K_TILE, PARTS, PRECISION
        )
        tl.store(logits + row[:, None] * VOCAB + c[None, :], out, mask=in_rows[:, None] & in_c[None, :])
    else:
        wait(counter, target)


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
    draw = tl.load(draws + row * steps + t)
    own = tl.load(logits + row * VOCAB + v, mask=v < VOCAB, other=float("-inf"), cache_modifier=".cg")
    if GREEDY:
        chosen = tl.argmax(own, 0)
    else:
        largest = tl.max(own, 0).to(tl.float64)
        weights = _weights(own, largest, rule)
        if TRUNCATES:
            weights = tl.where(_kept(own, largest, rule, top_k, V_TILE), weights, 0.0)
        cumulative = tl.cumsum(weights)
        chosen = tl.sum(((cumulative <= draw * tl.max(cumulative)) & (v < VOCAB)).to(tl.int32))
        chosen = tl.minimum(chosen, tl.max(tl.where(weights > 0, v, 0)))
    tl.store(ids + row * steps + t, chosen)
    c = tl.arange(0, D_TILE)
    vector = tl.load(embedding + chosen * D_MODEL + c, mask=c < D_MODEL)
    tl.store(residual + row * D_MODEL + c, vector, mask=c < D_MODEL)


@triton.jit
def _weights(logits, largest, rule):
    return tl.exp((logits.to(tl.float64) - largest) / tl.load(rule))


@triton.jit
def _kept(logits, largest, rule, top_k, V_TILE: tl.constexpr):
    """Which ids are left of the distribution.

    They are sorted by a number that is larger for larger logits and, of equals, for lower ids.
    """
    place = tl.arange(0, V_TILE)
    bits = logits.to(tl.int32, bitcast=True)
    rising = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (rising.to(tl.int64) << 32) | (V_TILE - 1 - place)
    ordered = tl.sort(keys, descending=True)
    rising = (ordered >> 32).to(tl.int32)
    bits = rising ^ ((rising >> 31) & 0x7FFFFFFF)
    weights = _weights(bits.to(tl.float32, bitcast=True), largest, rule)
    weights = tl.where(place < top_k, weights, 0.0)
    before = tl.cumsum(weights) - weights
    kept = (before < tl.load(rule + 1) * tl.sum(weights)) & (weights >= tl.load(rule + 2)) & (place < top_k)
    return keys >= tl.min(tl.where(kept, ordered, tl.max(ordered)))
