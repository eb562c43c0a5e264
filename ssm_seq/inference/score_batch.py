"""Many short records side by side, those of similar lengths in one batch.

They are padded at their ends. The models read from left to right, so nothing before a record's end depends
on what stands behind it.
"""

import math
import time
import warnings
from collections import deque
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import TransferSpeedColumn
from torch import Tensor

from ssm_seq.errors import InputError
from ssm_seq.inference.progress import progress_bar
from ssm_seq.inference.score import Read, Score
from ssm_seq.inference.score_chunk import BUDGET, halved, no_memory
from ssm_seq.inference.score_fetch import ahead, to_device
from ssm_seq.inference.score_values import (
    EMBEDDING,
    LOG_LIKELIHOOD,
    PROBABILITY,
    check_finite,
    check_length,
    check_read,
    check_weights,
    values_of,
)
from ssm_seq.inference.state import state_bytes
from ssm_seq.inference.stream import inference, resident_mib
from ssm_seq.models import Classifier, LanguageModel

_SUM, _HIDDEN = "sum", "hidden"


class Row(NamedTuple):
    """One record: `read(start, end)` as in `score_record`."""

    number: int
    name: str
    read: Read
    length: int


RowSink = Callable[[Row, dict[str, NDArray[np.float32]]], None]


def fits_a_batch(model: Classifier | LanguageModel, length: int, positions: int) -> bool:
    """Whether records of this length are read side by side: two of them make a batch of `positions`."""
    return 2 * length <= positions and not model.config.bidirectional


def score_rows(
    model: Classifier | LanguageModel,
    rows: Sequence[Row],
    positions: int,
    wanted: Collection[str] = (),
    sink: RowSink | None = None,
    pooled: bool = False,
    half: bool = False,
) -> Iterator[tuple[Row, Score]]:
    """Records of at most `positions` each, in batches of at most so many; the shortest records come first.

    The scores are those of `score_record`; a batch's time is divided among its records by length.
    wanted, pooled, half: as there. sink gets each record's values as a whole, before its score is given.

    Raises:
        InputError: as `score_record`; it names the record.
    """
    check_weights(model)
    waiting, device = deque(batches(model, rows, positions)), next(model.parameters()).device
    names = {*wanted, *([EMBEDDING] if pooled else [])}
    names |= {PROBABILITY} if isinstance(model, Classifier) else set()

    def computed() -> Iterator[tuple[list[Row], dict[str, Tensor]]]:
        while waiting:
            batch = waiting.popleft()
            ids, lengths = _padded(batch)
            try:
                values, _ = values_of(model, to_device(ids, device), None, names, half)
                found = {name: values[name].float() for name in wanted}
                found |= _sums(values, torch.tensor(lengths, device=device), pooled)
            except (MemoryError, RuntimeError) as error:
                if not no_memory(error):
                    raise
                found = None
            if found is None:
                # Halving the positions is halving the rows; a single one cannot be cut here.
                halved(len(batch))
                middle = len(batch) // 2
                warnings.warn(
                    f"{len(batch)} records at once don't fit memory; going on with {middle}", stacklevel=2
                )
                waiting.extendleft((batch[middle:], batch[:middle]))
            else:
                yield batch, found

    with inference(model), progress_bar(TransferSpeedColumn()) as bar:
        task = bar.add_task("positions", total=sum(row.length for row in rows))
        begun = time.perf_counter()
        for batch, arrays in ahead(computed()):
            seconds, begun = time.perf_counter() - begun, time.perf_counter()
            speed = sum(row.length for row in batch) / seconds
            for place, row in enumerate(batch):
                of_row = {name: array[place] for name, array in arrays.items()}
                with named(row):
                    score = _score(model, row, of_row, positions, speed)
                if sink:
                    sink(row, {name: of_row[name][: row.length] for name in wanted})
                yield row, score
                bar.advance(task, row.length)


def batches(model: Classifier | LanguageModel, rows: Sequence[Row], positions: int) -> Iterator[list[Row]]:
    """The rows by length, in batches whose padded size is at most `positions` (or one row)."""
    most = max(BUDGET // 4 // state_bytes(model, 1), 1)  # rows have states, however short they are
    batch: list[Row] = []
    for row in sorted(rows, key=lambda row: row.length):
        if batch and ((len(batch) + 1) * row.length > positions or len(batch) == most):
            yield batch
            batch = []
        batch.append(row)
    if batch:
        yield batch


def _padded(batch: list[Row]) -> tuple[NDArray[np.uint8], list[int]]:
    lengths = [row.length for row in batch]
    ids = np.zeros((len(batch), max(lengths)), np.uint8)
    for place, row in enumerate(batch):
        with named(row):
            check_length(row.length)
            part = row.read(0, row.length)
            check_read(len(part), row.length, row.length)
        ids[place, : row.length] = part
    return ids, lengths


def _sums(values: dict[str, Tensor], lengths: Tensor, pooled: bool) -> dict[str, Tensor]:
    """Of each row: the last probabilities or the sum of log-likelihoods, and the sum of hidden vectors."""
    longest = max(values.values(), key=torch.Tensor.dim).shape[1]
    inside = torch.arange(longest, device=lengths.device) < lengths[:, None]
    if PROBABILITY in values:
        found = {_SUM: values[PROBABILITY][torch.arange(len(lengths), device=lengths.device), lengths - 1]}
    else:
        likelihoods = values[LOG_LIKELIHOOD]
        found = {_SUM: torch.where(inside, likelihoods, 0).sum(1, dtype=torch.float64)}
    if pooled:
        found[_HIDDEN] = torch.where(inside[..., None], values[EMBEDDING], 0).sum(1, dtype=torch.float64)
    return found


def _score(
    model: Classifier | LanguageModel, row: Row, arrays: dict[str, NDArray], positions: int, speed: float
) -> Score:
    """What `score_record` gives for a record of one chunk."""
    length, bits, classes = row.length, None, None
    if isinstance(model, Classifier):
        classes, result = model.classes, arrays[_SUM].tolist()
        check_finite(result, 0, length)
        point = {"position": length, "probabilities": result}
    else:
        bits = -arrays[_SUM].item() / math.log(2)
        check_finite([bits], 0, length)
        point = {"position": length, "bits_per_byte": bits / length}
    return Score(
        length=length,
        classes=classes,
        track=[point],
        memory=[{"position": length, "resident_mib": resident_mib()}],
        total_bits=bits,
        seconds=length / speed,
        positions_per_second=speed,
        chunk=positions,
        pooled=(arrays[_HIDDEN] / length).tolist() if _HIDDEN in arrays else None,
    )


@contextmanager
def named(row: Row) -> Iterator[None]:
    """Bad input inside the block is said with the record's name."""
    try:
        yield
    except InputError as error:
        raise InputError(f"record {row.name!r}: {error}") from None
