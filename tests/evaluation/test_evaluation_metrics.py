"""Metrics against numbers worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.evaluation.metrics import accuracy, bits_per_byte, bootstrap_ratio, by_context, confusion


def test_confusion_has_truth_in_rows_and_absent_classes():
    truth, predicted = np.array([0, 0, 0, 1, 3]), np.array([0, 1, 1, 1, 0])
    assert confusion(truth, predicted, 4).tolist() == [[1, 2, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0], [1, 0, 0, 0]]


def test_accuracy_by_hand():
    truth, predicted = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 1])
    share = accuracy(truth, predicted, np.arange(4))
    assert share.value == 0.75
    # Class 1 is always right and keeps its half; class 0 is right in none, one or both of its two draws.
    assert (share.low, share.high) == (0.5, 1.0)


def test_the_majority_class_has_no_sampling_error():
    truth = np.repeat([0, 1, 2], [50, 30, 20])
    share = accuracy(truth, np.zeros(100, int), np.arange(100) // 5)
    assert share == pytest.approx((0.5, 0.5, 0.5))


def test_interval_of_independent_items_is_that_of_the_binomial():
    right = np.arange(400) < 320
    share = bootstrap_ratio(right, np.ones(400), np.arange(400), resamples=4000)
    deviation = np.sqrt(0.8 * 0.2 / 400)
    assert share.value == 0.8
    assert share.low == pytest.approx(0.8 - 1.96 * deviation, abs=0.004)
    assert share.high == pytest.approx(0.8 + 1.96 * deviation, abs=0.004)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    random = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = bootstrap_ratio(
            random.random(150) < 0.7, np.ones(150), np.arange(150), resamples=300, seed=trial
        )[1:]
        covered += low <= 0.7 <= high
    assert 0.90 <= covered / 300 <= 0.99


def test_windows_of_one_record_do_not_count_as_independent():
    """20 records of 20 windows, each record right or wrong as a whole: as unsure as 20 windows, not 400."""
    record = np.repeat(np.arange(20), 20)
    right = record < 14
    by_record = bootstrap_ratio(right, np.ones(400), record, resamples=2000)
    by_window = bootstrap_ratio(right, np.ones(400), np.arange(400), resamples=2000)
    assert (by_record.high - by_record.low) / (by_window.high - by_window.low) == pytest.approx(
        20**0.5, rel=0.15
    )


def test_a_class_with_one_record_draws_its_windows():
    truth = np.repeat([0, 1], 100)
    predicted = np.where(np.arange(200) % 10 == 0, 1 - truth, truth)
    one_record_each = accuracy(truth, predicted, truth, resamples=2000)
    each_for_itself = accuracy(truth, predicted, np.arange(200), resamples=2000)
    assert one_record_each == each_for_itself
    assert one_record_each.low < 0.9 < one_record_each.high


def test_bits_are_averaged_over_positions_not_over_windows():
    bits = np.array([[1.0, 1.0, 1.0, 9.0], [4.0, 9.0, 9.0, 9.0]])
    known = np.array([[1, 1, 1, 0], [1, 0, 0, 0]], bool)
    mean = bits_per_byte(bits, known, np.arange(2))
    assert mean.value == 7 / 4
    assert (mean.low, mean.high) == (1.0, 4.0)


def test_a_window_of_unknown_letters_alone_does_not_count():
    bits, known = np.full((3, 2), 2.0), np.array([[1, 1], [0, 0], [1, 0]], bool)
    assert bits_per_byte(bits, known, np.arange(3)) == (2.0, 2.0, 2.0)
    with pytest.raises(ValueError, match="nothing to average"):
        bits_per_byte(bits, np.zeros((3, 2), bool), np.arange(3))


def test_by_context_doubles():
    bits = np.array([[8.0, 4.0, 2.0, 1.0, 1.0, 1.0, 1.0, 7.0]])
    known = np.ones(bits.shape, bool)
    known[0, 2] = False
    assert by_context(bits, known) == [
        {"position": 1, "bits_per_byte": 8.0},
        {"position": 2, "bits_per_byte": 4.0},
        {"position": 4, "bits_per_byte": 1.0},
        {"position": 8, "bits_per_byte": 7.0},
    ]


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2)), min_size=1, max_size=40),
    st.integers(0, 9),
)
def test_intervals_are_ordered_repeatable_and_hold_between_the_extremes(items, seed):
    right, record, label = (np.array(column) for column in zip(*items, strict=True))
    drawn = [bootstrap_ratio(right, np.ones(len(right)), record, label, 50, seed) for _ in range(2)]
    assert drawn[0] == drawn[1]
    assert 0 <= drawn[0].low <= drawn[0].high <= 1 + 1e-12
    assert drawn[0].value == pytest.approx(right.mean())
