"""Windows of a store: which there are in a split, reading them as ids, and drawing them for training.

One class serves training and evaluation. Without a stride, windows lie side by side: fixed and deterministic,
for validation and test. With `stride=1` every position where a window fits starts one: drawn by the sampler,
they are the random windows of training. Only ranges are kept, never a list of all windows.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_seq.data.alphabet import Dna
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError

Indices = NDArray[np.int64]


def windows(
    store: Store, split: str, length: int, stride: int | None = None, both_strands: bool = False
) -> "Windows":
    """The windows of `length` positions in one split, `stride` apart (`length` where none is given).

    With `both_strands` (DNA) there are twice as many: the second half are the first, reverse-complemented.

    Raises:
        InputError: the store has no such split, or `both_strands` for sound.
    """
    if split not in store.split_names:
        known = ", ".join(store.split_names) or "none"
        raise InputError(f"{store.path}: there is no {split!r} split in this store; it has: {known}")
    if both_strands and not isinstance(store.alphabet, Dna):
        raise InputError(f"{store.path}: a store of sound has no reverse complement")
    stride = stride or length
    spans = [
        (number, start, (end - start - length) // stride + 1)
        for number, record in enumerate(store.records)
        for start, end, name in record.ranges
        if name == split and end - start >= length
    ]
    return Windows(store, length, stride, both_strands, np.array(spans, np.int64).reshape(-1, 3))


class Windows:
    """Windows numbered 0..len-1 in the order of records and positions; made by `windows`.

    No window crosses the end of a range, so none belongs to two splits; too short a range has none.
    spans: (ranges, 3) int64: record number, start in the record, number of windows from there.
    """

    def __init__(self, store: Store, length: int, stride: int, both_strands: bool, spans: Indices) -> None:
        self.store, self.length, self.stride, self.both_strands = store, length, stride, both_strands
        self._record, self._start, counts = spans.T
        self._first = np.concatenate(([0], np.cumsum(counts)))
        classes = {label: number for number, label in enumerate(store.labels)}
        self._label = np.array([classes.get(store.records[i].label, -1) for i in self._record], np.int64)

    def __len__(self) -> int:
        return self.strand_size * (2 if self.both_strands else 1)

    @property
    def strand_size(self) -> int:
        """How many windows there are on one strand."""
        return int(self._first[-1])

    @property
    def range_classes(self) -> Indices:
        """Class, first window and windows of each range on the forward strand, (ranges, 3) int64."""
        return np.stack([self._label, self._first[:-1], np.diff(self._first)], axis=1)

    def sample(self, maximum: int, seed: int) -> Indices:
        """At most `maximum` different windows, (n,) int64 in ascending order; the same for the same seed."""
        if maximum >= len(self):
            return np.arange(len(self))
        return np.sort(np.random.default_rng(seed).choice(len(self), maximum, replace=False))

    def places(self, indices: Indices) -> tuple[Indices, Indices]:
        """Record number and start in the record (on the forward strand) of windows, (n,) int64 each."""
        span, offset = self._locate(indices)
        return self._record[span], self._start[span] + offset

    def labels_of(self, indices: Indices) -> Indices:
        """The class of windows, (n,) int64 into `store.labels`, -1 where a record has no label."""
        return self._label[self._locate(indices)[0]]

    @property
    def record(self) -> Indices:
        """The record number of every window, (len,) int64. With stride 1, ask `places` for a few."""
        return self.places(np.arange(len(self)))[0]

    @property
    def start(self) -> Indices:
        """Where in its record every window starts, (len,) int64. With stride 1, ask `places` for a few."""
        return self.places(np.arange(len(self)))[1]

    @property
    def labels(self) -> Indices:
        """The class of every window, (len,) int64. With stride 1, ask `labels_of` for a few."""
        return self.labels_of(np.arange(len(self)))

    def read(self, indices: Indices) -> NDArray[np.uint8]:
        """Token ids of windows, (n, length) uint8."""
        ids = self.store.alphabet.encode(self._bytes(indices))
        if self.both_strands:
            back = self._is_reversed(indices)
            ids[back] = self.store.alphabet.complement(ids[back])[:, ::-1]
        return ids

    def weights(self, indices: Indices, soft_mask_weight: float) -> NDArray[np.float32]:
        """Each position's weight in a loss, (n, length) float32: 1, or `soft_mask_weight` if soft-masked."""
        masked = self.store.alphabet.soft_masked(self._bytes(indices))
        if self.both_strands:
            back = self._is_reversed(indices)
            masked[back] = masked[back][:, ::-1]
        return np.where(masked, np.float32(soft_mask_weight), np.float32(1))

    def _locate(self, indices: Indices) -> tuple[Indices, Indices]:
        forward = np.asarray(indices) % max(self.strand_size, 1)
        span = np.searchsorted(self._first, forward, side="right") - 1
        return span, (forward - self._first[span]) * self.stride

    def _is_reversed(self, indices: Indices) -> NDArray[np.bool_]:
        return np.asarray(indices) >= self.strand_size

    def _bytes(self, indices: Indices) -> NDArray[np.uint8]:
        out = np.empty((len(indices), self.length), np.uint8)
        for row, record, start in zip(out, *self.places(indices), strict=True):
            begin = self.store.records[record].start + start
            row[:] = self.store.data[begin : begin + self.length]
        return out


class WindowSampler:
    """Draws batches of windows with replacement, for ever; its state is small, plain and exact.

    Every window is equally likely, or with `balanced` every label is, and then every window of that label.

    Raises:
        InputError: there is no window to draw.
    """

    def __init__(self, windows: Windows, batch_size: int, seed: int, balanced: bool = False) -> None:
        if not len(windows):
            raise InputError(f"{windows.store.path}: nothing in the split is {windows.length} positions long")
        self.windows, self.batch_size = windows, batch_size
        self._random = np.random.default_rng(seed)
        label, first, counts = windows.range_classes.T
        if not balanced:
            label = np.zeros_like(label)
        # Ranges sorted by label: the windows of one label have neighbouring ranks.
        order = np.argsort(label, kind="stable")
        self._first = first[order]
        self._rank = np.concatenate(([0], np.cumsum(counts[order])))
        starts = np.flatnonzero(np.diff(label[order], prepend=label[order][0] - 1))
        self._low, self._high = self._rank[starts], np.append(self._rank[starts[1:]], self._rank[-1])

    def next(self) -> Indices:
        """The next batch, (batch_size,) int64 window numbers."""
        group = self._random.integers(len(self._low), size=self.batch_size)
        rank = self._random.integers(self._low[group], self._high[group])
        span = np.searchsorted(self._rank, rank, side="right") - 1
        indices = self._first[span] + rank - self._rank[span]
        if self.windows.both_strands:
            indices += self.windows.strand_size * self._random.integers(2, size=self.batch_size)
        return indices

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on with the very next batch: plain numbers and strings."""
        return self._random.bit_generator.state

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a state of a sampler over the same windows."""
        self._random.bit_generator.state = state
