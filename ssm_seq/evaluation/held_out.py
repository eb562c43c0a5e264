"""The windows that a model and its baselines are judged on: the same for the same split, length and seed."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssm_seq.data.store import Store
from ssm_seq.data.windows import Windows, WindowSampler, windows
from ssm_seq.errors import InputError

MOST_TRAINING_WINDOWS = 4000


class HeldOut(NamedTuple):
    """Chosen windows of a split. indices: (n,) int64 into `windows`."""

    windows: Windows
    indices: NDArray[np.int64]

    @property
    def ids(self) -> NDArray[np.uint8]:
        """Token ids, (n, length) uint8."""
        return self.windows.read(self.indices)

    @property
    def labels(self) -> NDArray[np.int64]:
        """Classes, (n,) int64 into the store's labels."""
        return self.windows.labels_of(self.indices)

    @property
    def records(self) -> NDArray[np.int64]:
        """The record number of each window, (n,) int64: the groups that a bootstrap resamples."""
        return self.windows.places(self.indices)[0]


def held_out(store: Store, length: int, max_windows: int, seed: int, split: str = "test") -> HeldOut:
    """At most `max_windows` of the windows that lie side by side in `split`, drawn without replacement.

    Raises:
        InputError: the store has no such split, or no window of that length in it.
    """
    chosen = windows(store, split, length)
    if not len(chosen):
        longest = max(end - start for r in store.records for start, end, name in r.ranges if name == split)
        raise InputError(
            f"{store.path}: the {split} split has no window of {length} positions; "
            f"its longest range has {longest}"
        )
    return HeldOut(chosen, chosen.sample(max_windows, seed))


def training_windows(store: Store, length: int, seed: int) -> HeldOut:
    """Windows at random places of the train split, every label equally often, to fit a baseline on.

    As many as cover the split about twice, but at least 50 a label and at most `MOST_TRAINING_WINDOWS`.

    Raises:
        InputError: the store has no train split, or no window of that length in it.
    """
    chosen = windows(store, "train", length, stride=1)
    enough = max(50 * len(store.labels), 2 * len(chosen) // length)
    sampler = WindowSampler(chosen, min(MOST_TRAINING_WINDOWS, enough), seed, balanced=True)
    return HeldOut(chosen, sampler.next())
