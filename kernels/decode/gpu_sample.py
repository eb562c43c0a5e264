"""The draw of the next id on a GPU, by one program for a row."""

from triton.experimental import gluon
from triton.experimental.gluon import language as gl

from ssm_seq.kernels.decode.gpu_words import receive, send, slot


@gluon.jit
def sample_stage(
    row, rows, t, steps, epoch, residual, embedding, logits, draws, ids, rule, top_k,
    D_MODEL: gl.constexpr, MODEL: gl.constexpr, VOCAB: gl.constexpr, VOCABS: gl.constexpr,
    V_TILE: gl.constexpr, D_TILE: gl.constexpr, GREEDY: gl.constexpr, TRUNCATES: gl.constexpr,
):  # fmt: skip
    """Draw the id of step t for one row as `Rule.choose` does, and start its residual sum.

    rule: float64 (temperature, top_p, min_p).
    """
    WARPS: gl.constexpr = gl.num_warps()
    LINE: gl.constexpr = gl.BlockedLayout([1], [32], [WARPS], [0])
    v = gl.arange(0, V_TILE, LINE)
    draw = gl.load(draws + row * steps + t)
    temperature = gl.load(rule)
    place = slot(logits, t, rows, VOCABS) + row * VOCABS + v
    own = receive(place, v < VOCAB, t, max(V_TILE // (32 * WARPS), 1), 1)
    own = gl.where(v < VOCAB, own, float("-inf"))
    largest = gl.max(own, 0)
    if GREEDY:
        chosen = gl.min(gl.where(own == largest, v, V_TILE), 0)
        chosen = gl.where(chosen < VOCAB, chosen, 0)  # logits that are no numbers
    else:
        weight = gl.exp((own.to(gl.float64) - largest.to(gl.float64)) / temperature)
        if TRUNCATES:
            kept = _kept(weight, rule, top_k, V_TILE)
            weight = gl.where(gl.convert_layout(kept, LINE), weight, 0.0)
        cumulative = gl.associative_scan(weight, 0, _add)
        below = (cumulative <= draw * gl.max(cumulative, 0)) & (v < VOCAB)
        # A draw just below 1 may round up to the sum: the last id that can be drawn.
        chosen = gl.minimum(gl.sum(below.to(gl.int32), 0), gl.max(gl.where(weight > 0, v, 0), 0))
    gl.store(ids + row * steps + t, chosen.to(gl.int64))
    c = gl.arange(0, D_TILE, LINE)
    vector = gl.load(embedding + chosen * D_MODEL + c, mask=c < D_MODEL, other=0.0)
    send(residual, rows, row, c, vector, c < MODEL, epoch, MODEL)


@gluon.jit
def _kept(weight, rule, top_k, V_TILE: gl.constexpr):
    """Which ids are left of the distribution: each is compared with all others, which needs no sorting."""
    OTHERS: gl.constexpr = 16
    PAIRS: gl.constexpr = gl.BlockedLayout([1, OTHERS], [32, 1], [gl.num_warps(), 1], [1, 0])
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    weight = gl.convert_layout(weight, gl.SliceLayout(1, PAIRS))
    v = gl.arange(0, V_TILE, gl.SliceLayout(1, PAIRS))
    weights = gl.allocate_shared_memory(gl.float64, [V_TILE], PLAIN, weight)
    weights = weights._reinterpret(gl.float64, [V_TILE // OTHERS, OTHERS], PLAIN)
    rank = gl.zeros([V_TILE], gl.int32, gl.SliceLayout(1, PAIRS))
    before = gl.zeros([V_TILE], gl.float64, gl.SliceLayout(1, PAIRS))
    for i in range(V_TILE // OTHERS):
        other = weights.index(i).load(gl.SliceLayout(0, PAIRS))[None, :]
        its_id = i * OTHERS + gl.arange(0, OTHERS, gl.SliceLayout(0, PAIRS))[None, :]
        likelier = (other > weight[:, None]) | ((other == weight[:, None]) & (its_id < v[:, None]))
        rank += gl.sum(likelier.to(gl.int32), 1)
        before += gl.sum(gl.where(likelier, other, 0.0), 1)
    kept = rank < top_k
    enough = gl.load(rule + 1) * gl.sum(gl.where(kept, weight, 0.0), 0)
    return kept & (before < enough) & (weight >= gl.load(rule + 2))


@gluon.jit
def _add(a, b):
    return a + b
