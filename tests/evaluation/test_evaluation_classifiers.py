"""Held-out windows, the majority class and the logistic regression."""

from functools import partial

import numpy as np
import pytest

from ssm_seq.data.store import Range, Store, StoreWriter
from ssm_seq.errors import InputError
from ssm_seq.evaluation.classifiers import logistic_regression, majority_class
from ssm_seq.evaluation.held_out import held_out, training_windows
from ssm_seq.evaluation.kmers import kmer_frequencies

TWO_MERS = partial(kmer_frequencies, k=2)


def store_of(path, *records):
    """records: (name, text, label, split or ranges)."""
    with StoreWriter(path, "dna") as writer:
        for name, text, label, where in records:
            place = {"split": where} if isinstance(where, str) else {"ranges": where}
            writer.add(name, [text], label=label, **place)
    return Store.open(path)


@pytest.fixture
def species(tmp_path):
    random = np.random.default_rng(0)

    def text(share, length):
        return random.choice(np.frombuffer(b"ACGT", np.uint8), length, p=share).tobytes()

    rich, poor = [0.15, 0.35, 0.35, 0.15], [0.35, 0.15, 0.15, 0.35]
    return store_of(
        tmp_path / "store",
        ("rich", text(rich, 9000), "rich", "train"),
        ("poor", text(poor, 900), "poor", "train"),
        *(
            (f"{s}{n}", text(p, 2000), n, s)
            for s in ("valid", "test")
            for n, p in (("rich", rich), ("poor", poor))
        ),
    )


def test_windows_are_the_same_for_everyone_and_bounded(species):
    first, again = held_out(species, 100, 15, seed=3), held_out(species, 100, 15, seed=3)
    assert len(first.indices) == 15
    np.testing.assert_array_equal(first.ids, again.ids)
    assert not np.array_equal(first.indices, held_out(species, 100, 15, seed=4).indices)
    assert len(held_out(species, 100, 1000, seed=3).indices) == 40
    names = [species.records[i].name for i in first.records]
    assert names == [f"test{species.labels[i]}" for i in first.labels]


def test_windows_longer_than_every_range(tmp_path):
    store = store_of(tmp_path / "s", ("r", b"A" * 90, "a", [Range(0, 50, "train"), Range(50, 90, "test")]))
    with pytest.raises(
        InputError, match="test split has no window of 64 positions; its longest range has 40"
    ):
        held_out(store, 64, 10, 0)
    with pytest.raises(InputError, match="no 'valid' split"):
        held_out(store, 64, 10, 0, split="valid")


def test_training_windows_have_classes_alike(species):
    train = training_windows(species, 100, seed=0)
    assert {species.records[i].name for i in train.records} == {"rich", "poor"}
    assert 0.3 < train.labels.mean() < 0.7


def test_majority_is_by_positions_in_train(tmp_path):
    store = store_of(
        tmp_path / "s",
        ("r1", b"A" * 90, "a", "test"),
        ("r2", b"A" * 50, "b", [Range(0, 30, "train"), Range(30, 50, "valid")]),
        ("r3", b"A" * 40, "c", "train"),
        ("r4", b"A" * 9, "b", "train"),
    )
    assert store.labels[majority_class(store)] == "c"


def test_logistic_regression_tells_composition(species):
    test = held_out(species, 100, 1000, seed=0)
    predicted = logistic_regression(species, test, TWO_MERS, seed=0)
    assert (predicted == test.labels).mean() >= 0.9
    np.testing.assert_array_equal(predicted, logistic_regression(species, test, TWO_MERS, seed=0))


def test_logistic_regression_without_a_valid_split(tmp_path):
    store = store_of(
        tmp_path / "s",
        ("r1", b"AC" * 90, "a", "train"),
        ("r2", b"AG" * 90, "b", "train"),
        ("r3", b"AC" * 90, "a", "test"),
        ("r4", b"AG" * 90, "b", "test"),
    )
    test = held_out(store, 20, 100, 0)
    assert (logistic_regression(store, test, TWO_MERS, 0) == test.labels).all()


def test_one_label_is_nothing_to_tell_apart(tmp_path):
    store = store_of(tmp_path / "s", ("r1", b"AC" * 90, "a", "train"), ("r2", b"AC" * 90, "b", "test"))
    with pytest.raises(InputError, match="one label only"):
        logistic_regression(store, held_out(store, 20, 100, 0), TWO_MERS, 0)
