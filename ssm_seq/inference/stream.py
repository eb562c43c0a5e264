"""Sequences of any length in constant memory: read in chunks, the state carried from one to the next.

`score_record` reads one long record, `classify_windows` and `bits_of_windows` read batches of windows of any
length; all of them go through `carry`.
"""

import math
import resource
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssm_seq.errors import InputError
from ssm_seq.inference.progress import progress_bar
from ssm_seq.models import Classifier, LanguageModel

Ids = NDArray[np.uint8]


@dataclass(frozen=True)
class Score:
    """What one pass over a record gave; `dataclasses.asdict` of it is the content of score.json.

    track: one point at the end of each chunk: {"position", "probabilities"} for everything read so far
        (classifier), or {"position", "bits_per_byte"} of that chunk (language model).
    memory: {"position", "resident_mib"} of this process at the same points.
    total_bits: of the whole record, None for a classifier; -total_bits * ln 2 is the log-likelihood.
    """

    length: int
    classes: list[str] | None
    track: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    total_bits: float | None
    seconds: float
    positions_per_second: float


def score_record(
    model: Classifier | LanguageModel, read: Callable[[int, int], Ids], length: int, chunk: int
) -> Score:
    """Read `length` >= 1 positions in one recurrent pass, `chunk` at a time.

    Args:
        read: read(start, end) gives the ids of positions start..end-1, (end - start,) uint8;
            `functools.partial(store.ids, record)` for a record of a store.

    The first position has no past: a language model codes it uniformly, with log2(vocab_size) bits.
    """
    _check_chunk(chunk)
    classifies = isinstance(model, Classifier)
    track, memory, total_bits = [], [], 0.0
    pieces = (read(start, min(start + chunk, length))[None] for start in range(0, length, chunk))
    start, position = time.perf_counter(), 0
    with inference(model), progress_bar() as bar:
        task = bar.add_task("positions", total=length)
        for ids, result in _probabilities(model, pieces) if classifies else _bits(model, pieces):
            position += ids.shape[1]
            if classifies:
                track.append({"position": position, "probabilities": result[0].tolist()})
            else:
                bits = result.double().sum().item()
                track.append({"position": position, "bits_per_byte": bits / ids.shape[1]})
                total_bits += bits
            memory.append({"position": position, "resident_mib": resident_mib()})
            bar.advance(task, ids.shape[1])
    seconds = time.perf_counter() - start
    return Score(
        length=length,
        classes=model.classes if classifies else None,
        track=track,
        memory=memory,
        total_bits=None if classifies else total_bits,
        seconds=seconds,
        positions_per_second=length / seconds,
    )


def classify_windows(model: Classifier, batches: Iterable[Ids], chunk: int) -> NDArray[np.float32]:
    """Class probabilities (windows, classes) of batches of windows (n, length), read `chunk` at a time."""
    _check_chunk(chunk)
    rows = []
    with inference(model):
        for batch in batches:
            *_, (_, probabilities) = _probabilities(model, _cut(batch, chunk))
            rows.append(probabilities.cpu())
    return torch.cat(rows).numpy()


def bits_of_windows(model: LanguageModel, batches: Iterable[Ids], chunk: int) -> NDArray[np.float32]:
    """Bits of every position (windows, length) of batches of windows (n, length), each from its window alone.

    The first position of a window is coded uniformly, with log2(vocab_size) bits.
    """
    _check_chunk(chunk)
    with inference(model):
        rows = [
            torch.cat([bits.cpu() for _, bits in _bits(model, _cut(batch, chunk))], dim=1)
            for batch in batches
        ]
    return torch.cat(rows).numpy()


@contextmanager
def inference(model: torch.nn.Module) -> Iterator[None]:
    """No gradients and no dropout inside the block; the model's training mode comes back after it."""
    training = model.training
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        model.train(training)


def carry(model: Classifier | LanguageModel, chunks: Iterable[Ids]) -> Iterator[tuple[Tensor, Tensor, tuple]]:
    """For consecutive chunks of ids (n, length): the ids on the model's device as int64, logits and state."""
    device = next(model.parameters()).device
    state = None
    for chunk in chunks:
        ids = torch.tensor(np.ascontiguousarray(chunk), device=device).long()
        logits, state = model(ids, state)
        yield ids, logits, state


def _probabilities(model: Classifier, chunks: Iterable[Ids]) -> Iterator[tuple[Tensor, Tensor]]:
    """With each chunk the probabilities (n, classes) for everything up to its end."""
    for ids, logits, _ in carry(model, chunks):
        yield ids, logits.softmax(-1)


def _bits(model: LanguageModel, chunks: Iterable[Ids]) -> Iterator[tuple[Tensor, Tensor]]:
    """With each chunk the bits (n, length) that its ids cost, given all before them."""
    before = None
    for ids, logits, _ in carry(model, chunks):
        if before is None:
            before = torch.zeros_like(logits[:, :1])  # all ids equally likely
        predicted = torch.cat([before, logits[:, :-1]], dim=1)
        before = logits[:, -1:]
        nats = F.cross_entropy(predicted.flatten(0, 1), ids.flatten(), reduction="none")
        yield ids, nats.view(ids.shape) / math.log(2)


def _cut(batch: Ids, chunk: int) -> Iterator[Ids]:
    return (batch[:, start : start + chunk] for start in range(0, batch.shape[1], chunk))


def _check_chunk(chunk: int) -> None:
    if chunk < 1:
        raise InputError(f"chunk={chunk}: expected a positive number of positions")


def resident_mib() -> float:
    """Memory of this process that is resident now, in MiB (its peak where /proc is missing)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
