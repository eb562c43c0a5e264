"""An order-k Markov model of symbols: the count of what followed the last k, smoothed by shorter contexts."""

from collections.abc import Iterable, Iterator

import numpy as np
from numpy.typing import NDArray

from ssm_seq.data.alphabet import Dna
from ssm_seq.data.store import Store

_LARGEST_TABLE = 1 << 24
_PIECE = 1 << 22
_STRENGTHS = 2.0 ** np.arange(-2, 15)


class Markov:
    """P_k(x | c) = (n(c, x) + a_k P_(k-1)(x | c')) / (n(c) + a_k), down to P_(-1) = 1 / symbols.

    c' is the context c without its oldest symbol (the hierarchical model of MacKay & Peto 1995, with one
    strength a for each order, chosen to make each training symbol likely given the counts of all others).

    sequences: pieces of ids, uint8; an id >= symbols (N) is unknown, and ends a context.
    order: reduced to what a table of 2**24 counts allows: 11 for four symbols, 2 for 256.
    """

    def __init__(self, sequences: Iterable[NDArray[np.uint8]], symbols: int, order: int) -> None:
        self.symbols = symbols
        while symbols ** (order + 1) > _LARGEST_TABLE:
            order -= 1
        self.order = order
        counts = np.zeros(symbols ** (order + 1), np.int64)
        for sequence in sequences:
            codes, known = self._contexts(sequence[None])
            target = sequence[None, :]
            whole = (known == order) & (target < symbols)
            counts += np.bincount(codes[whole] * symbols + target[whole], minlength=len(counts))
        self.tables = self._smooth(counts)

    def bits(self, ids: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """-log2 P of every symbol but the first given those before it in its window, and which are known.

        (n, length) ids -> (n, length - 1) bits (0 where unknown), (n, length - 1) bool. Where fewer than
        `order` known symbols come directly before, the longest context there is counts.
        """
        codes, context = self._contexts(ids)
        codes, context, target = codes[:, 1:], context[:, 1:], ids[:, 1:]
        known = target < self.symbols
        bits = np.zeros(target.shape)
        for order, table in enumerate(self.tables):
            here = known & (context == order)
            bits[here] = -np.log2(table[codes[here] % self.symbols**order, target[here]])
        return bits, known

    def _contexts(self, ids: NDArray[np.uint8]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each position the last `order` symbols as a number (the newest the least significant digit),
        and how many known ones (at most `order`) come directly before it; (n, length) each."""
        n, length = ids.shape
        unknown = ids >= self.symbols
        digits = np.where(unknown, 0, ids).astype(np.int64)
        codes = np.zeros((n, length), np.int64)
        for back in range(1, min(self.order, length - 1) + 1):
            codes[:, back:] += digits[:, : length - back] * self.symbols ** (back - 1)
        positions = np.arange(length)
        last_unknown = np.maximum.accumulate(np.where(unknown, positions, -1), axis=1)
        before = np.concatenate([np.full((n, 1), -1), last_unknown[:, :-1]], axis=1)
        return codes, np.minimum(positions - 1 - before, self.order)

    def _smooth(self, counts: NDArray[np.int64]) -> list[NDArray[np.float64]]:
        """The tables P_0 .. P_order, (symbols**j, symbols) each, from counts of the longest context."""
        by_order = [counts]
        for _ in range(self.order):
            by_order.append(by_order[-1].reshape(self.symbols, -1).sum(0))
        lower = np.full((1, self.symbols), 1 / self.symbols)
        tables = []
        for level in reversed(by_order):
            n = level.reshape(-1, len(lower), self.symbols)  # (oldest symbol, the rest of the context, next)
            strength = _strength(n, lower)
            lower = ((n + strength * lower) / (n.sum(-1, keepdims=True) + strength)).reshape(-1, self.symbols)
            tables.append(lower)
        return tables


def _strength(counts: NDArray[np.int64], lower: NDArray[np.float64]) -> float:
    """The strength with the highest leave-one-out likelihood of the counts."""
    seen = np.nonzero(counts)
    n, total = counts[seen], counts.sum(-1)[seen[:2]]
    prior = lower[seen[1], seen[2]]
    scores = [np.sum(n * np.log((n - 1 + a * prior) / (total - 1 + a))) for a in _STRENGTHS]
    return float(_STRENGTHS[int(np.argmax(scores))])


def markov_model(store: Store, order: int, both_strands: bool = False) -> Markov:
    """A Markov model of a store's train split; for `both_strands` (DNA) of its reverse complement as well."""
    return Markov(_training_text(store, order, both_strands), store.alphabet.definite, order)


def _training_text(store: Store, order: int, both_strands: bool) -> Iterator[NDArray[np.uint8]]:
    """The train ranges in pieces that overlap by `order`, so that each full context is seen once."""
    for number, record in enumerate(store.records):
        for start, end, split in record.ranges:
            for first in range(start, end, _PIECE) if split == "train" else ():
                ids = store.ids(number, max(start, first - order), min(end, first + _PIECE))
                yield ids
                if both_strands and isinstance(store.alphabet, Dna):
                    yield store.alphabet.complement(ids)[::-1]
