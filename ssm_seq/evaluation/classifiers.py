"""Classifiers that any model has to beat: the majority class, and logistic regression on simple features."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from ssm_seq.data.store import Store
from ssm_seq.data.windows import windows
from ssm_seq.errors import InputError
from ssm_seq.evaluation.held_out import HeldOut, held_out, training_windows

Features = Callable[[NDArray[np.uint8]], NDArray[np.float32]]

_PENALTIES = [0.001, 0.01, 0.1, 1.0]  # scikit-learn's C: the smaller, the stronger
_USUAL = 0.1
_POSITIONS_AT_ONCE = 1 << 22


def majority_class(store: Store) -> int:
    """The class (into `store.labels`) with the most positions in train; the first such in a tie."""
    positions = np.zeros(len(store.labels), np.int64)
    for record in store.records:
        if record.label is not None:
            number = store.labels.index(record.label)
            positions[number] += sum(end - start for start, end, split in record.ranges if split == "train")
    return int(positions.argmax())


def logistic_regression(store: Store, test: HeldOut, features: Features, seed: int) -> NDArray[np.int64]:
    """Classes (n,) of the test windows by a logistic regression fitted on train windows of the same length.

    features: ids (n, length) -> (n, m); standardised with the train windows' mean and deviation. Train
    windows are drawn with every class equally often. The L2 penalty is the one of four that makes the
    labels of the valid split likeliest, `_USUAL` without that split.

    Raises:
        InputError: train has no windows of that length, or of one class only.
    """
    length = test.windows.length
    train = training_windows(store, length, seed)
    if len(set(train.labels)) < 2:
        raise InputError(
            f"{store.path}: train has windows of {length} positions of one label only, expected two"
        )
    x = _in_pieces(train, features)
    has_valid = "valid" in store.split_names and len(windows(store, "valid", length))
    fits = [
        make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=2000)).fit(x, train.labels)
        for c in (_PENALTIES if has_valid else [_USUAL])
    ]
    if has_valid:
        valid = held_out(store, length, len(train.indices), seed, split="valid")
        x = _in_pieces(valid, features)
        fits.sort(key=lambda fit: _log_loss(fit, x, valid.labels))
    return fits[0].predict(_in_pieces(test, features))


def _log_loss(fit: Pipeline, x: NDArray[np.float32], labels: NDArray[np.int64]) -> float:
    """Mean -ln of the probability of the labels; of next to none for a label that train doesn't have."""
    likelihood = np.where(labels[:, None] == fit.classes_, fit.predict_proba(x), 0).sum(1)
    return float(-np.log(np.maximum(likelihood, 1e-12)).mean())


def _in_pieces(chosen: HeldOut, features: Features) -> NDArray[np.float32]:
    """Features of all windows, some at a time, so that memory doesn't grow with windows times length."""
    size = max(1, _POSITIONS_AT_ONCE // chosen.windows.length)
    starts = range(0, len(chosen.indices), size)
    return np.concatenate([features(chosen.windows.read(chosen.indices[i : i + size])) for i in starts])
