"""The Markov model against what can be worked out by hand."""

import math

import numpy as np
import pytest

from ssm_seq.data.alphabet import DNA
from ssm_seq.data.store import Range, Store, StoreWriter
from ssm_seq.evaluation import markov
from ssm_seq.evaluation.markov import Markov, markov_model


def ids(text: str) -> np.ndarray:
    return DNA.encode(text.encode())


def test_a_repeated_word_costs_nothing_once_it_is_known():
    model = Markov([ids("ACGT" * 500)], 4, 2)
    bits, known = model.bits(ids("ACGTACGTACGT")[None])
    assert known.all()
    assert bits.max() < 0.01


def test_random_letters_cost_their_entropy():
    random = np.random.default_rng(0)
    shares = np.array([0.5, 0.25, 0.125, 0.125])
    train, test = (random.choice(4, 200_000, p=shares).astype(np.uint8) for _ in "ab")
    for order in (0, 2, 5):
        assert Markov([train], 4, order).bits(test[None])[0].mean() == pytest.approx(1.75, abs=0.02)


def test_a_first_order_chain_costs_its_entropy_rate():
    random = np.random.default_rng(0)
    stay = random.random(60_000) < 0.9  # else one of the three others
    chain = np.cumsum(np.where(stay, 0, random.integers(1, 4, 60_000))) % 4
    rate = -0.9 * math.log2(0.9) - 0.1 * math.log2(0.1 / 3)
    train, test = chain[:40_000].astype(np.uint8), chain[40_000:].astype(np.uint8)
    assert Markov([train], 4, 0).bits(test[None])[0].mean() == pytest.approx(2, abs=0.02)
    for order in (1, 4):
        assert Markov([train], 4, order).bits(test[None])[0].mean() == pytest.approx(rate, abs=0.03)


def test_every_context_has_a_distribution():
    model = Markov([ids("ACGTTGCANNACGGTAC" * 3)], 4, 3)
    assert [table.shape for table in model.tables] == [(1, 4), (4, 4), (16, 4), (64, 4)]
    for table in model.tables:
        np.testing.assert_allclose(table.sum(1), 1)
        assert (table > 0).all()


def test_smoothing_by_the_formula(monkeypatch):
    """AAC: after A comes A once and C once; strength 2 and uniform 1/4 below."""
    monkeypatch.setattr(markov, "_STRENGTHS", np.array([2.0]))
    model = Markov([ids("AAC")], 4, 1)
    shares = np.array([1, 1, 0, 0])  # what the contexts of full length predict: A and C
    zero = (shares + 2 / 4) / 4
    np.testing.assert_allclose(model.tables[0], zero[None])
    np.testing.assert_allclose(model.tables[1][0], (shares + 2 * zero) / 4)
    np.testing.assert_allclose(model.tables[1][1:], np.tile(zero, (3, 1)))
    bits, _ = model.bits(ids("GAC")[None])
    np.testing.assert_allclose(bits, -np.log2([[zero[0], (1 + 2 * zero[1]) / 4]]))


def test_an_unknown_letter_is_not_judged_and_ends_the_context():
    model = Markov([ids("ACGT" * 50)], 4, 2)
    bits, known = model.bits(ids("ACNGT")[None])
    assert known.tolist() == [[True, False, True, True]]
    assert bits[0, 1] == 0
    assert bits[0, 2] == -np.log2(model.tables[0][0, 2])  # G after N: no context
    assert bits[0, 3] == -np.log2(model.tables[1][2, 3])  # T after NG: context G
    assert bits[0, 0] == -np.log2(model.tables[1][0, 1])  # the window's start is like an N


def test_contexts_at_the_joints_of_pieces_count_once(tmp_path, monkeypatch):
    random = np.random.default_rng(1)
    text = random.choice(np.frombuffer(b"ACGTN", np.uint8), 500, p=[0.24] * 4 + [0.04])
    with StoreWriter(tmp_path / "store", "dna") as writer:
        writer.add(
            "r", [text], ranges=[Range(0, 300, "train"), Range(300, 400, "test"), Range(400, 500, "train")]
        )
    store = Store.open(tmp_path / "store")
    whole = markov_model(store, 3, both_strands=True)
    monkeypatch.setattr(markov, "_PIECE", 37)
    pieces = markov_model(store, 3, both_strands=True)
    for a, b in zip(whole.tables, pieces.tables, strict=True):
        np.testing.assert_array_equal(a, b)
    train = [store.ids(0, 0, 300), store.ids(0, 400, 500)]
    back = [DNA.complement(part)[::-1] for part in train]
    for a, b in zip(whole.tables, Markov(train + back, 4, 3).tables, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(("symbols", "asked", "order"), [(4, 12, 11), (4, 3, 3), (256, 8, 2)])
def test_order_is_bounded_by_memory(symbols, asked, order, monkeypatch):
    monkeypatch.setattr(Markov, "_smooth", lambda model, counts: counts.size)
    model = Markov([], symbols, asked)
    assert (model.order, model.tables) == (order, symbols ** (order + 1))


def test_sound_that_repeats():
    codes = np.tile(np.arange(100, 140, dtype=np.uint8), 50)
    bits, known = Markov([codes], 256, 1).bits(codes[None, :200])
    assert known.all() and bits.shape == (1, 199)
    assert bits.mean() < 0.05
