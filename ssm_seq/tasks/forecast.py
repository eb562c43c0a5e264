"""What comes next in a series that somebody measured."""

import csv
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssm_seq.data.alphabet import SIGNAL
from ssm_seq.errors import InputError
from ssm_seq.tasks.task import Device, Example, Task, numbered_generator

SHARES = {"train": (0.0, 0.7), "valid": (0.7, 0.8), "test": (0.8, 1.0)}


class Forecast(Task):
    """From `length` values of a series, the `horizon` values that follow, said all at once after the last.

    The series is a column of a CSV file with a header, one row for each time; gaps are filled linearly. In
    time its first 70 % are for training, 10 % for validation, 20 % for the test; no sequence crosses a cut.
    Values are relative to the last known one, in units of what a random walk with the training part's steps
    goes in `horizon` steps. So a relative error of 1 is that of "nothing changes".

    Raises:
        InputError: a horizon below 1; with the first batch, what is wrong with the file.
    """

    alphabet = SIGNAL
    vocab_size = 1  # channels

    def __init__(self, file: Path | str, column: str, horizon: int) -> None:
        if horizon < 1:
            raise InputError(f"task.horizon={horizon}: expected 1 or more")
        self.file, self.column, self.horizon = Path(file), column, horizon
        self.outputs = horizon

    def draw(self, split: str, count: int, length: int, generator: torch.Generator) -> Example:
        windows = self._windows(split, length, generator.device)
        chosen = torch.randint(len(windows), (count,), generator=generator, device=generator.device)
        return self._example(windows[chosen], length)

    def test(self, count: int, size: int, length: int, seed: int, device: Device) -> Iterator[Example]:
        """At most `count` of the test part's sequences, drawn without repetition, in the order of time."""
        windows = self._windows("test", length, torch.device(device))
        order = torch.randperm(len(windows), generator=numbered_generator(seed, "test", 0, "cpu"))
        chosen = order[:count].sort().values.to(windows.device)
        for part in chosen.split(size):
            yield self._example(windows[part], length)

    def simple_answers(self, inputs: Tensor) -> tuple[str, Tensor]:
        """The last `horizon` values again, moved by what the series has changed since."""
        if inputs.shape[1] <= self.horizon:
            return "nothing changes", torch.zeros_like(inputs[:, :1]).expand(-1, 1, self.horizon)
        season = inputs[:, -self.horizon :, 0] - inputs[:, -self.horizon - 1, :]
        return "the last season again, with its drift", season[:, None]

    def _example(self, windows: Tensor, length: int) -> Example:
        """windows: (sequences, length + horizon)."""
        relative = (windows - windows[:, length - 1, None]) / self._unit
        return Example(relative[:, :length, None].float(), relative[:, None, length:].float())

    def _windows(self, split: str, length: int, device: torch.device) -> Tensor:
        """All of a split, (sequences, length + horizon) float64, without copies."""
        low, high = (int(share * len(self._values)) for share in SHARES[split])
        if high - low < length + self.horizon:
            raise InputError(
                f"length {length}: with task.horizon={self.horizon} more than the {high - low} values that "
                f"the {split} part of {self.file} has"
            )
        return torch.from_numpy(self._values[low:high]).to(device).unfold(0, length + self.horizon, 1)

    @cached_property
    def _unit(self) -> float:
        steps = np.diff(self._values[: int(SHARES["train"][1] * len(self._values))])
        return float(steps.std()) * self.horizon**0.5 or 1.0

    @cached_property
    def _values(self) -> NDArray[np.float64]:
        try:
            with self.file.open(newline="") as file:
                rows = list(csv.DictReader(file))
        except OSError as error:
            raise InputError(
                f"{self.file}: the series can't be read ({error.strerror}; task.series)"
            ) from None
        if not rows or self.column not in rows[0]:
            known = ", ".join(rows[0]) if rows else "none"
            raise InputError(
                f"{self.file}: there is no column {self.column!r} (task.column); it has: {known}"
            )
        try:
            values = np.array([float(row[self.column] or "nan") for row in rows])
        except ValueError as error:
            raise InputError(f"{self.file}: column {self.column!r}: {error}") from None
        known = np.isfinite(values)
        if not known.any():
            raise InputError(f"{self.file}: column {self.column!r} has no value")
        return np.interp(np.arange(len(values)), np.flatnonzero(known), values[known])
