"""Frequencies of k-mers: what a DNA window is made of, without the order of its pieces."""

import numpy as np
from numpy.typing import NDArray

_BASES = 4


def kmer_counts(ids: NDArray[np.uint8], k: int, both_strands: bool = False) -> NDArray[np.int64]:
    """How often each k-mer of A, C, G, T occurs in each window, (n, length) ids -> (n, 4**k).

    Column c is the k-mer whose ids are the base-4 digits of c, the first the most significant. A k-mer with
    any other letter (N, IUPAC) is not counted. both_strands: the windows' reverse complements count as well.
    """
    n, length = ids.shape
    size = _BASES**k
    if length < k:
        return np.zeros((n, size), np.int64)
    codes = np.zeros((n, length - k + 1), np.int64)
    whole = np.ones(codes.shape, bool)
    for offset in range(k):
        letters = ids[:, offset : offset + codes.shape[1]]
        codes = codes * _BASES + letters
        whole &= letters < _BASES
    rows = np.arange(n)[:, None] * size
    counts = np.bincount((codes + rows)[whole], minlength=n * size).reshape(n, size)
    return counts + counts[:, reverse_complements(k)] if both_strands else counts


def reverse_complements(k: int) -> NDArray[np.int64]:
    """For each k-mer's column the column of its reverse complement, (4**k,)."""
    codes, result = np.arange(_BASES**k), np.zeros(_BASES**k, np.int64)
    for _ in range(k):
        result = result * _BASES + (
            _BASES - 1 - codes % _BASES
        )  # ids A0 C1 G2 T3: the complement of i is 3 - i
        codes //= _BASES
    return result


def kmer_frequencies(ids: NDArray[np.uint8], k: int, both_strands: bool = False) -> NDArray[np.float32]:
    """`kmer_counts` as shares of all k-mers counted in a window, (n, 4**k); zeros where there is none."""
    counts = kmer_counts(ids, k, both_strands)
    return (counts / np.maximum(counts.sum(1, keepdims=True), 1)).astype(np.float32)
