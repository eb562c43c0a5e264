"""k-mer counts against a naive count."""

from collections import Counter

import numpy as np
import pytest
from Bio.Seq import Seq
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.data.alphabet import DNA
from ssm_seq.evaluation.kmers import kmer_counts, kmer_frequencies, reverse_complements


def naive(text: str, k: int) -> Counter:
    words = (text[i : i + k] for i in range(len(text) - k + 1))
    return Counter(word for word in words if set(word) <= set("ACGT"))


def column(word: str) -> int:
    return int("".join(str("ACGT".index(letter)) for letter in word), 4)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.text("ACGTNRacgt", min_size=20, max_size=20), min_size=1, max_size=4), st.integers(1, 5))
def test_counts(texts, k):
    counts = kmer_counts(DNA.encode(np.array([list(t.encode()) for t in texts], np.uint8)), k)
    assert counts.shape == (len(texts), 4**k)
    for row, text in zip(counts, texts, strict=True):
        expected = naive(text.upper(), k)
        assert row.sum() == expected.total()
        assert all(row[column(word)] == times for word, times in expected.items())


@settings(deadline=None, max_examples=20)
@given(st.text("ACGTN", min_size=8, max_size=30), st.integers(1, 4))
def test_both_strands(text, k):
    back = str(Seq(text).reverse_complement())
    ids, back_ids = (DNA.encode(t.encode())[None] for t in (text, back))
    both = kmer_counts(ids, k, both_strands=True)
    np.testing.assert_array_equal(both, kmer_counts(ids, k) + kmer_counts(back_ids, k))
    np.testing.assert_array_equal(both, kmer_counts(back_ids, k, both_strands=True))


def test_reverse_complement_columns():
    assert reverse_complements(3)[column("AAC")] == column("GTT")
    assert reverse_complements(4)[column("ACGT")] == column("ACGT")


def test_frequencies_sum_to_one_or_are_zero():
    ids = DNA.encode(np.frombuffer(b"ACGTACGTNNNNNNNN", np.uint8).reshape(2, 8))
    frequencies = kmer_frequencies(ids, 2)
    assert frequencies.sum(1).tolist() == pytest.approx([1, 0])
    assert frequencies[0, column("AC")] == pytest.approx(2 / 7)


def test_windows_shorter_than_k():
    assert kmer_counts(np.zeros((2, 3), np.uint8), 4).tolist() == np.zeros((2, 256)).tolist()
