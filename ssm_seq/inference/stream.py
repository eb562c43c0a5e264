"""Sequences of any length in constant memory: read in chunks, the state carried from one to the next.

`classify_windows` and `bits_of_windows` read batches of windows of any length through `carry`; score.py reads
one long record.
"""

import math
import resource
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssm_seq.errors import InputError
from ssm_seq.models import Classifier, LanguageModel

Ids = NDArray[np.uint8]


def classify_windows(model: Classifier, batches: Iterable[Ids], chunk: int) -> NDArray[np.float32]:
    """Class probabilities (windows, classes) of batches of windows (n, length), read `chunk` at a time."""
    check_chunk(chunk)
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
    check_chunk(chunk)
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


def check_chunk(chunk: int) -> None:
    """Raises InputError for a chunk of no positions."""
    if chunk < 1:
        raise InputError(f"chunk={chunk}: expected a positive number of positions")


def resident_mib() -> float:
    """Memory of this process that is resident now, in MiB (its peak where /proc is missing)."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * resource.getpagesize() / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**10
