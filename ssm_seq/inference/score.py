"""One recurrent pass over a record of any length: likelihoods, entropies, classes, hidden vectors.

Memory does not grow with the record. A pass that was killed goes on from the state it saved last, to the same
figures.
"""

import math
import time
import warnings
from collections.abc import Callable, Collection, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from rich.progress import TransferSpeedColumn
from torch import Tensor

from ssm_seq.inference.progress import progress_bar
from ssm_seq.inference.score_chunk import choose_chunk, halved, no_memory
from ssm_seq.inference.score_fetch import ahead, to_device
from ssm_seq.inference.score_values import (
    EMBEDDING,
    LOG_LIKELIHOOD,
    ChunkReader,
    check_finite,
    check_length,
    check_read,
    check_weights,
)
from ssm_seq.inference.state import State
from ssm_seq.inference.stream import Ids, check_chunk, inference, resident_mib
from ssm_seq.models import Classifier, LanguageModel

Read = Callable[[int, int], Ids]
Sink = Callable[[int, dict[str, NDArray[np.float32]]], None]

_MANY = 16  # chunks; to record one takes as long as several of them
SAVE_EVERY = 30.0  # seconds between two saved states
_BITS, _CLASSES, _HIDDEN = (
    "bits",
    "classes",
    "hidden",
)  # sums over a piece, beside the values of its positions


@dataclass(frozen=True)
class Score:
    """What one pass over a record gave; `dataclasses.asdict` of it is the content of score.json.

    track: one point at the end of each chunk: {"position", "probabilities"} for everything read so far
        (classifier), or {"position", "bits_per_byte"} of that chunk (language model).
    memory: {"position", "resident_mib"} of this process at the same points.
    total_bits: of the whole record, None for a classifier; -total_bits * ln 2 is the log-likelihood.
    seconds: of all runs, where a pass was killed and went on. chunk: positions read at once, in the end.
    pooled: the mean over positions of the last hidden vectors (d_model), where it was asked for.
    """

    length: int
    classes: list[str] | None
    track: list[dict[str, Any]]
    memory: list[dict[str, Any]]
    total_bits: float | None
    seconds: float
    positions_per_second: float
    chunk: int
    pooled: list[float] | None = None


class Piece(NamedTuple):
    """A chunk's values, each (length,) or (length, columns) on the model's device, and the state after it.

    chunk: positions asked for at once; the last piece may have fewer.
    """

    start: int
    length: int
    chunk: int
    values: dict[str, Tensor]
    state: State


@dataclass
class _Progress:
    """What a saved state keeps of the pass so far."""

    chunk: int
    position: int = 0
    bits: float = 0.0
    seconds: float = 0.0
    track: list[dict[str, Any]] = field(default_factory=list)
    memory: list[dict[str, Any]] = field(default_factory=list)
    hidden: list[float] | None = None


def score_record(
    model: Classifier | LanguageModel,
    read: Read,
    length: int,
    chunk: int | None = None,
    wanted: Collection[str] = (),
    sink: Sink | None = None,
    saved: Path | None = None,
    pooled: bool = False,
    half: bool = False,
) -> Score:
    """Read `length` >= 1 positions in one recurrent pass, `chunk` at a time.

    On a GPU the host takes the values of a chunk while the next one is computed.

    Args:
        read: read(start, end) gives the ids of positions start..end-1, (end - start,) uint8;
            `functools.partial(store.ids, record)` for a record of a store.
        chunk: None chooses it by the free memory. One that does not fit is halved, with a warning.
        wanted, sink: sink(start, values) gets the wanted values of every position, float32 by name:
            LOG_LIKELIHOOD of the id there given all before it and ENTROPY of what was expected there, in nats
            (language model), PROBABILITY (n, classes) of each class for all up to there (classifier),
            EMBEDDING (n, d_model), the hidden vectors that the head reads.
        saved: a file for the state, written every SAVE_EVERY seconds. If it is there the pass goes on from it
            (in its chunks); sink then gets what comes after. The caller removes it.
        pooled: also give the mean of the hidden vectors.
        half: the layers run under bfloat16 autocast; the head and everything after it do not.

    The first position has no past: a language model codes it uniformly, with log2(vocab_size) bits.

    Raises:
        InputError: an empty record, or one that ends before `length`; a weight or a result that is not a
            finite number; a saved state of another model; a chunk below 1.
    """
    check_length(length)
    check_weights(model)
    progress, state = _begin(model, chunk, saved, half)
    classifies = isinstance(model, Classifier)
    names = {*wanted, *([EMBEDDING] if pooled else [])}
    start = beat = time.perf_counter()
    before = progress.seconds
    with inference(model), progress_bar(TransferSpeedColumn()) as bar:
        task = bar.add_task("positions", total=length, completed=progress.position)
        pieces = read_pieces(model, read, length, progress.chunk, state, progress.position, names, half)
        for piece, arrays in ahead(_chosen(model, piece, wanted, pooled) for piece in pieces):
            _take(progress, piece, arrays)
            if sink:
                sink(piece.start, {name: arrays[name] for name in wanted})
            bar.advance(task, piece.length)
            progress.seconds = before + time.perf_counter() - start
            if saved and time.perf_counter() - beat >= SAVE_EVERY:
                State(piece.state.parts, piece.state.logits, asdict(progress)).save(saved, model)
                beat = time.perf_counter()
    return Score(
        length=length,
        classes=model.classes if classifies else None,
        track=progress.track,
        memory=progress.memory,
        total_bits=None if classifies else progress.bits,
        seconds=progress.seconds,
        positions_per_second=length / progress.seconds,
        chunk=progress.chunk,
        pooled=None if progress.hidden is None else (np.array(progress.hidden) / length).tolist(),
    )


def read_pieces(
    model: Classifier | LanguageModel,
    read: Read,
    length: int,
    chunk: int,
    state: State | None = None,
    start: int = 0,
    wanted: Collection[str] = (),
    half: bool = False,
) -> Iterator[Piece]:
    """Positions start..length-1 of a record after `state`, a chunk at a time; see `score_record`.

    Language models always give LOG_LIKELIHOOD. A chunk that does not fit memory is halved, with a warning.
    On a GPU the values may still be on their way.
    """
    device = next(model.parameters()).device
    # What is recorded takes its memory once more, so only chunks that leave most of it free are.
    many = (length - start) // chunk >= _MANY and chunk <= choose_chunk(model, half=half)
    values_of = ChunkReader(model, wanted, half, many)
    while start < length:
        end = min(start + chunk, length)
        ids = read(start, end)
        check_read(start + len(ids), end, length)
        try:
            values, after = values_of(to_device(ids, device)[None], state)
            values = {name: value[0] for name, value in values.items()}
        except (MemoryError, RuntimeError) as error:
            if not no_memory(error):
                raise
            after = None
        if after is None:
            smaller = halved(min(chunk, end - start))
            warnings.warn(
                f"{min(chunk, end - start)} positions at once don't fit memory; going on with {smaller}",
                stacklevel=2,
            )
            chunk = smaller
            continue
        state = after
        yield Piece(start, end - start, chunk, values, state)
        start = end


def _begin(
    model: Classifier | LanguageModel, chunk: int | None, saved: Path | None, half: bool
) -> tuple[_Progress, State | None]:
    if saved and saved.exists():
        state = State.load(saved, model)
        return _Progress(**state.notes), state
    if chunk is not None:
        check_chunk(chunk)
    return _Progress(choose_chunk(model, half=half) if chunk is None else chunk), None


def _chosen(
    model: Classifier | LanguageModel, piece: Piece, wanted: Collection[str], pooled: bool
) -> tuple[Piece, dict[str, Tensor]]:
    """The piece without its values, and what the host gets of them: the wanted ones in float32, and sums."""
    values = piece.values
    chosen = {name: values[name].float() for name in wanted}
    if isinstance(model, Classifier):
        parts = piece.state.parts
        chosen[_CLASSES] = model.logits(parts.total, parts.count).softmax(-1)[0]
    else:
        chosen[_BITS] = -values[LOG_LIKELIHOOD].sum(dtype=torch.float64) / math.log(2)
    if pooled:
        chosen[_HIDDEN] = values[EMBEDDING].sum(0, dtype=torch.float64)
    values.clear()
    return piece, chosen


def _take(progress: _Progress, piece: Piece, arrays: dict[str, NDArray]) -> None:
    """Add a chunk to what the pass knows so far."""
    end = progress.position = piece.start + piece.length
    progress.chunk = piece.chunk
    if _CLASSES in arrays:
        result = arrays[_CLASSES].tolist()
        check_finite(result, piece.start, end)
        progress.track.append({"position": end, "probabilities": result})
    else:
        bits = arrays[_BITS].item()
        check_finite([bits], piece.start, end)
        progress.track.append({"position": end, "bits_per_byte": bits / piece.length})
        progress.bits += bits
    progress.memory.append({"position": end, "resident_mib": resident_mib()})
    if _HIDDEN in arrays:
        hidden = arrays[_HIDDEN]
        progress.hidden = (hidden if progress.hidden is None else hidden + progress.hidden).tolist()
