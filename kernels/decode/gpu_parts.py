"""What the decoding kernels for GPUs share: words, products of what others wrote, sampling and the head.

Programs that share a tile of rows never meet at a barrier. What one writes for others goes out as words, a
number together with the epoch of its place (how often that was written), in one piece; who needs it reads
until the epoch is the one that is due. A fence and two trips through a counter are saved at every hand-over.
(NCCL sends small messages between GPUs in this way.)

No word is overwritten too early: every stage needs something of all programs of the stage before it, or of a
program that did, so whoever writes a place again knows that its readers are further on.
"""

import triton
import triton.language as tl


@triton.jit
def send(place, values, mask, epoch):
    """Write numbers as words: a float32 above 32 bits of epoch (int64), a bfloat16 above 16 (int32)."""
    if place.dtype.element_ty == tl.int64:
        bits = values.to(tl.float32).to(tl.int32, bitcast=True).to(tl.int64)
        tl.store(place, (bits << 32) | epoch, mask=mask)
    else:
        bits = values.to(tl.bfloat16).to(tl.int16, bitcast=True).to(tl.int32)
        tl.store(place, (bits << 16) | (epoch & 0xFFFF), mask=mask)


@triton.jit
def _look(place, mask):
    return tl.load(place, mask=mask, other=0, volatile=True)


@triton.jit
def _missing(words, mask, epoch):
    if words.dtype == tl.int64:
        late = words.to(tl.int32) != epoch
    else:
        late = (words & 0xFFFF) != (epoch & 0xFFFF)
    return mask & late


@triton.jit
def opened(words):
    """The numbers in the words; 0 in a word that is 0."""
    if words.dtype == tl.int64:
        return (words >> 32).to(tl.int32).to(tl.float32, bitcast=True)
    else:
        return (words >> 16).to(tl.int16).to(tl.bfloat16, bitcast=True)


@triton.jit
def receive(place, mask, epoch):
    """The numbers of this epoch, as soon as they are there; 0 outside the mask."""
    words = _look(place, mask)
    missing = _missing(words, mask, epoch)
    while tl.max(missing.to(tl.int32)) > 0:
        words = tl.where(missing, _look(place, missing), words)
        missing = _missing(words, mask, epoch)
    return opened(words)


@triton.jit
def receive_three(place_a, mask_a, place_b, mask_b, place_c, mask_c, epoch):
    """`receive` of three tiles at once: they come one after the other, but none waits for another's trip."""
    a, b, c = _look(place_a, mask_a), _look(place_b, mask_b), _look(place_c, mask_c)
    late_a, late_b = _missing(a, mask_a, epoch), _missing(b, mask_b, epoch)
    late_c = _missing(c, mask_c, epoch)
    while tl.max(late_a.to(tl.int32)) + tl.max(late_b.to(tl.int32)) + tl.max(late_c.to(tl.int32)) > 0:
        a = tl.where(late_a, _look(place_a, late_a), a)
        b = tl.where(late_b, _look(place_b, late_b), b)
        c = tl.where(late_c, _look(place_c, late_c), c)
        late_a, late_b = _missing(a, mask_a, epoch), _missing(b, mask_b, epoch)
        late_c = _missing(c, mask_c, epoch)
    return opened(a), opened(b), opened(c)


@triton.jit
def product(
    words, row, in_rows, epoch, matrix, c, in_c,
    WIDTH: tl.constexpr, K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Rows of words (rows, WIDTH) times rows `c` of a matrix (rows, WIDTH), and the sums of their squares.

    Each warp has a part of WIDTH: one chain of products over all of it would take longer than the rest.
    """
    K_PART: tl.constexpr = K_TILE // PARTS
    part = tl.arange(0, PARTS) * K_PART
    inner = tl.arange(0, K_PART)
    sums = tl.zeros([PARTS, row.shape[0], c.shape[0]], tl.float32)
    squares = tl.zeros([PARTS, row.shape[0]], tl.float32)
    for start in range(0, WIDTH, K_TILE):
        k = start + part[:, None] + inner[None, :]
        in_k = k < WIDTH
        place = matrix + c.to(tl.int64)[None, None, :] * WIDTH + k[:, :, None]
        weights = tl.load(place, mask=in_c[None, None, :] & in_k[:, :, None], other=0.0)
        place = words + row[None, :, None] * WIDTH + k[:, None, :]
        x = receive(place, in_rows[None, :, None] & in_k[:, None, :], epoch)
        squares += tl.sum(x.to(tl.float32) * x.to(tl.float32), 2)
        sums = tl.dot(x.to(weights.dtype), weights, sums, input_precision=PRECISION)
    return tl.sum(sums, 0), tl.sum(squares, 0)


@triton.jit
def normed_product(
    words, row, in_rows, epoch, eps, matrix, c, in_c,
    WIDTH: tl.constexpr, K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """`product` of rows that are divided by their root mean square; the norm's weight is in the matrix."""
    out, squares = product(words, row, in_rows, epoch, matrix, c, in_c, WIDTH, K_TILE, PARTS, PRECISION)
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
    program, row, in_rows, epoch, next_epoch, residual, head, logits, eps,
    D_MODEL: tl.constexpr, VOCAB: tl.constexpr, COLUMNS: tl.constexpr,
    K_TILE: tl.constexpr, PARTS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Logits of COLUMNS ids for every row of the tile."""
    c = program * COLUMNS + tl.arange(0, COLUMNS)
    in_c = c < VOCAB
    if program * COLUMNS < VOCAB:
        out = normed_product(
            residual, row, in_rows, epoch, eps, head, c, in_c, D_MODEL, K_TILE, PARTS, PRECISION
        )
        send(logits + row[:, None] * VOCAB + c[None, :], out, in_rows[:, None] & in_c[None, :], next_epoch)


@triton.jit
def sample_stage(
    row, t, steps, epoch, residual, embedding, logits, draws, ids, rule, top_k,
    D_MODEL: tl.constexpr, VOCAB: tl.constexpr, V_TILE: tl.constexpr, D_TILE: tl.constexpr,
    GREEDY: tl.constexpr, TRUNCATES: tl.constexpr,
):  # fmt: skip
    """Draw the id of step t for one row as `Rule.choose` does, and start its residual sum.

    rule: float64 (temperature, top_p, min_p).
    """
    v = tl.arange(0, V_TILE)
    own = receive(logits + row * VOCAB + v, v < VOCAB, t)
    own = tl.where(v < VOCAB, own, float("-inf"))
    if GREEDY:
        chosen = tl.argmax(own, 0)
    else:
        largest = tl.max(own, 0).to(tl.float64)
        weights = _weights(own, largest, rule)
        if TRUNCATES:
            weights = tl.where(_kept(own, largest, rule, top_k, V_TILE), weights, 0.0)
        cumulative = tl.cumsum(weights)
        target = tl.load(draws + row * steps + t) * tl.max(cumulative)
        chosen = tl.sum(((cumulative <= target) & (v < VOCAB)).to(tl.int32))
        chosen = tl.minimum(chosen, tl.max(tl.where(weights > 0, v, 0)))
    tl.store(ids + row * steps + t, chosen)
    c = tl.arange(0, D_TILE)
    vector = tl.load(embedding + chosen * D_MODEL + c, mask=c < D_MODEL)
    send(residual + row * D_MODEL + c, vector, c < D_MODEL, epoch)


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
