"""A reference that is read once, and edits of it that are scored without reading it again.

The state of a recurrent model is all that it knows of the past. With the states of the reference kept at
checkpoints, an edited sequence is read from the last checkpoint before the edit. It is left where its
state has come back to the reference's: from there on both cost the same.
"""

import math
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby, pairwise

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssm_seq.inference.replay import Replay, can_be_recorded
from ssm_seq.inference.score_chunk import choose_chunk
from ssm_seq.inference.score_fetch import ahead
from ssm_seq.inference.state import State, concatenate, filled, tensors_of
from ssm_seq.inference.stream import Ids, inference
from ssm_seq.layers import map_state
from ssm_seq.models import LanguageModel

SPACING = 1024
"""Positions between two checkpoints, unless there would be more than `MOST_CHECKPOINTS`."""
MOST_CHECKPOINTS = 1024
FLOOR = 0.1
"""Nats. The tolerance is relative to the score's size, or to this where the score is smaller."""

_SIDE_BY_SIDE = (
    16  # edits on a GPU: a model of 8 x 256 is busy with their blocks; more only wait for the slowest
)
_AT_ONCE = 4  # batches of edits under way, so that first blocks, of any length, find others of their length
_BLOCKS = 4  # behind the edit, that the estimate of the rest looks at
_PARTS = 16  # of a block, whose changes count as independent
_SAFETY = 4.0


@dataclass(frozen=True)
class Edit:
    """The reference's positions start..end-1 become `ids` (uint8): a substitution, an insertion
    (start = end), a deletion (no ids) or any mixture."""

    start: int
    end: int
    ids: Ids


@dataclass(frozen=True)
class EditScore:
    """nats: log-likelihood of the edited sequence minus that of the reference.
    computed: positions that the model read for it.
    bound: estimate of the largest error in nats; 0 where nothing was left out."""

    nats: float
    computed: int
    bound: float


class Prefix:
    """The states of a language model at checkpoints along a reference, and what each position costs.

    Args:
        ids: (length,) uint8, the reference. It is the whole sequence: its first position has no past and is
            coded uniformly.
        spacing: positions between checkpoints (None: `default_spacing`). A small one makes edits cheap, a
            large one saves memory: length / spacing states are kept on the model's device.
        batch: edits that are read side by side (None: 1 on a CPU, which has no more to give, else 16), and
            parts of the reference. On a GPU the last bits depend on the shape: with one shape for all blocks
            an edited sequence comes back to the reference's states and costs to the last bit, and rounding
            is not taken for a change.
        replays: what is recorded on a GPU, to be shared with others of the model while that stays as it is.

    `computed`: positions that the model read for the reference.

    Raises:
        ValueError: no positions, or a spacing below 1.
    """

    def __init__(
        self,
        model: LanguageModel,
        ids: Ids,
        spacing: int | None = None,
        batch: int | None = None,
        replays: dict[tuple[int, int], Replay] | None = None,
    ) -> None:
        if ids.ndim != 1 or not len(ids):
            raise ValueError(f"ids: expected shape (length >= 1,), found {ids.shape}")
        if spacing is not None and spacing < 1:
            raise ValueError(f"spacing={spacing}: expected a positive number of positions")
        self.length, self.spacing = len(ids), spacing or default_spacing(len(ids))
        self._model, self._device = model, next(model.parameters()).device
        self._ids = torch.tensor(ids, device=self._device)
        self._batch = batch or (1 if self._device.type == "cpu" else _SIDE_BY_SIDE)
        self._replays = {} if replays is None else replays
        # Checkpoint number c is row c // steps of the states before step c % steps.
        self._steps = -(-self.length // (self.spacing * self._batch))
        self._states: list[tuple] = []
        with inference(model):
            starts = range(0, self.length, self._steps * self.spacing)
            self.computed = self.length + starts[-1]
            costs: list[list[NDArray[np.float64]]] = [[] for _ in starts]
            for rows, found in ahead(self._reference(starts)):
                for row, nats in zip(rows, found["nats"], strict=True):
                    costs[row].append(nats)
        self._costs = np.concatenate([[math.log(model.vocab_size)], *(part for row in costs for part in row)])

    def _reference(self, starts: Sequence[int]) -> Iterator[tuple[Sequence[int], dict[str, Tensor]]]:
        """Reads the parts of the reference side by side, and keeps the states before their blocks; gives the
        numbers of parts with the nats of a block of each."""
        state = self._states_at(starts)
        for step in range(self._steps):
            self._states.append(state)
            firsts = [start + step * self.spacing for start in starts]
            firsts = [first for first in firsts if first < self.length]
            stops = [first + self.spacing for first in firsts if first + self.spacing < self.length]
            if len(stops) < len(firsts):  # the reference's last block
                row = len(stops)
                nats, _ = self._read([self._ids[firsts[row] :]], [self.length], _rows(state, row, row + 1))
                yield [row], {"nats": nats}
            if stops:
                pieces = [self._ids[stop - self.spacing : stop] for stop in stops]
                nats, state = self._read(pieces, stops, _rows(state, 0, len(stops)))
                yield range(len(stops)), {"nats": nats}

    def _states_at(self, starts: Sequence[int]) -> tuple:
        """States of one reading of the reference, as a batch."""
        state, states, chunk = self._model.initial_state(1), [], choose_chunk(self._model)
        for start, end in pairwise(starts):
            states.append(State(state))
            for first in range(start, end, chunk):
                _, state = self._model.backbone(self._ids[None, first : min(first + chunk, end)], state)
        return concatenate([*states, State(state)]).parts

    @property
    def nats(self) -> float:
        """Log-likelihood of the reference."""
        return -float(self._costs.sum())

    def score(self, edits: Sequence[Edit], tolerance: float = 1e-3) -> list[EditScore]:
        """Score each edit by itself, as if the whole edited sequence were read.

        Args:
            tolerance: an edit is left where the estimate of the rest is below tolerance * max(|score|,
                `FLOOR`). With 0 it is left only where its state is the reference's to the last bit: the
                score is then that of the whole sequence read in these blocks.

        The estimate looks at the last four blocks behind the edit: by how much their positions cost more or
        less than in the reference, and how fast this fades from block to block. It takes the rest for a sum
        of independent changes that fade on like that, and four standard deviations of it. It is no proof:
        a model that reads from a tiny difference of states much later defies it.

        Raises:
            ValueError: a negative tolerance, an edit outside the reference or that leaves nothing of it.
        """
        if tolerance < 0:
            raise ValueError(f"tolerance={tolerance}: expected 0 or more")
        runs = [self._start(edit) for edit in edits]
        waiting, reading = deque(sorted(runs, key=self._shape)), []
        with inference(self._model):
            while waiting or reading:
                while len(reading) <= self._batch and waiting:
                    for _ in range(min(_AT_ONCE * self._batch - len(reading), len(waiting))):
                        reading.append(waiting.popleft())
                self._read_on(reading, tolerance)
                reading = [run for run in reading if run.bound is None]
        return [EditScore(run.nats, run.computed, run.bound) for run in runs]

    def _start(self, edit: Edit) -> "_Run":
        """Where to begin, and the first block: to the checkpoint behind the edit."""
        start, end = edit.start, edit.end
        if not 0 <= start <= end <= self.length:
            raise ValueError(f"edit {start}..{end}: expected 0 <= start <= end <= {self.length}")
        if end - start - len(edit.ids) == self.length:
            raise ValueError(f"edit {start}..{end}: nothing is left of the sequence")
        # The cost of an id is known from the position before it: one position at least before the edit.
        checkpoint = max(start - 1, 0) // self.spacing
        first, stop = checkpoint * self.spacing, min((end // self.spacing + 1) * self.spacing, self.length)
        changed = torch.tensor(np.asarray(edit.ids), device=self._device, dtype=self._ids.dtype)
        piece = torch.cat([self._ids[first:start], changed, self._ids[end:stop]])
        row, step = divmod(checkpoint, self._steps)
        return _Run(self._states[step], row, piece, first, stop)

    def _read_on(self, runs: list["_Run"], tolerance: float) -> None:
        """Read one block of every run. On a GPU the next batch is under way while one is judged."""
        for (some, state), found in ahead(self._batches(runs)):
            for row, run in enumerate(some):
                run.state, run.row = state, row
            self._judge(some, found["nats"], tolerance)

    def _batches(self, runs: list["_Run"]) -> Iterator[tuple[tuple[list["_Run"], tuple], dict[str, Tensor]]]:
        """Some runs of one length side by side, the states behind their blocks, and the nats."""
        for _, group in groupby(sorted(runs, key=self._shape), self._shape):
            alike = list(group)
            for first in range(0, len(alike), self._batch):
                some = alike[first : first + self._batch]
                pieces, stops = [run.piece for run in some], [run.stop for run in some]
                nats, state = self._read(pieces, stops, _joined(some, self._device))
                yield (some, state), {"nats": nats}

    def _shape(self, run: "_Run") -> tuple[int, bool]:
        """Runs with the same one are read side by side."""
        return len(run.piece), run.stop == self.length

    def _read(self, pieces: list[Tensor], stops: list[int], state: tuple) -> tuple[Tensor, tuple]:
        """Read pieces of one length, the reference's position `stop` coming next; all end it or none does.

        Returns:
            (pieces, n) float64: nats of every id that follows one of the piece, n = length, or length - 1 at
            the reference's end; and the states.
        """
        ids = torch.stack(pieces).long()
        if stops[0] < self.length:
            following = self._ids[stops].long()[:, None]
        else:
            following = ids.new_full((len(pieces), 1), -1)
        targets = torch.cat([ids[:, 1:], following], dim=1)
        losses = self._whole_blocks if ids.shape[1] == self.spacing else self._model.losses
        nats, state = losses(ids, targets, state)
        return (nats if stops[0] < self.length else nats[:, :-1]).double(), state

    def _whole_blocks(self, ids: Tensor, targets: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """`losses` of blocks of `spacing`, always with the same number of rows; recorded if possible."""
        rows = len(ids)
        chosen = torch.arange(self._batch, device=ids.device).clamp(max=rows - 1)  # the last one again
        # What is recorded outlives this reference and must not hold it.
        model, form = self._model, map_state(lambda _: torch.empty(0), state)

        def losses(ids: Tensor, targets: Tensor, *tensors: Tensor) -> list[Tensor]:
            nats, after = model.losses(ids, targets, filled(form, tensors))
            return [nats, *tensors_of(after)]

        inputs = [tensor.index_select(0, chosen) for tensor in (ids, targets, *tensors_of(state))]
        shape = self._batch, self.spacing
        if can_be_recorded(model) and shape not in self._replays:
            self._replays[shape] = Replay(losses, *inputs)
        nats, *after = (tensor[:rows] for tensor in self._replays.get(shape, losses)(*inputs))
        return nats, filled(state, after)

    def _judge(self, runs: list["_Run"], nats: NDArray[np.float64], tolerance: float) -> None:
        """Add a block's costs; then each run is over, or it has its next block."""
        expected = [self._costs[run.first + 1 : run.stop + 1] for run in runs]
        behind = [row for row, run in enumerate(runs) if run.behind_edit and run.stop < self.length]
        changes = dict(zip(behind, _changes([expected[row] for row in behind], nats[behind]), strict=True))
        for row, (run, cost) in enumerate(zip(runs, nats.sum(1), strict=True)):
            run.nats += float(expected[row].sum() - cost)
            run.computed += len(run.piece)
            if run.stop == self.length:
                run.bound = 0.0
                continue
            if change := changes.get(row):
                # Equal states give equal costs, which are here already; the states may be on a GPU.
                if not change.size and self._back(run):
                    run.bound = 0.0
                elif tolerance:
                    run.changes.append(change)
                    rest = _rest(run.changes)
                    if rest <= tolerance * max(abs(run.nats), FLOOR):
                        run.bound = rest
            stop = min(run.stop + self.spacing, self.length)
            run.first, run.stop, run.behind_edit = run.stop, stop, True
            run.piece = self._ids[run.first : stop]

    def _back(self, run: "_Run") -> bool:
        """Whether all states are those of the reference."""
        row, step = divmod(run.stop // self.spacing, self._steps)
        return _equal(_rows(run.state, run.row, run.row + 1), _rows(self._states[step], row, row + 1))


@dataclass(frozen=True)
class _Change:
    """A block's changes of costs: the sum of their sizes, and that of the squares of parts that count as
    independent (or the square of their sum, where that is more)."""

    size: float
    square: float


def _changes(expected: list[NDArray[np.float64]], nats: NDArray[np.float64]) -> list[_Change]:
    """Of blocks (rows, positions), by how much they cost less than expected."""
    if not expected:
        return []
    changes = np.stack(expected) - nats
    edges = np.unique(np.linspace(0, changes.shape[1], _PARTS, endpoint=False, dtype=np.int64))
    parts = np.add.reduceat(changes, edges, axis=1)
    squares = np.maximum(np.square(parts).sum(1), parts.sum(1) ** 2)
    return [_Change(*pair) for pair in zip(np.abs(changes).sum(1).tolist(), squares.tolist(), strict=True)]


@dataclass
class _Run:
    """One edit on its way: row `row` of `state`, then `piece` is read, which stands for the reference's
    first..stop-1.

    behind_edit: the piece is the reference's. changes: by how much its positions cost less than there, for
    the last blocks.
    """

    state: tuple
    row: int
    piece: Tensor
    first: int
    stop: int
    behind_edit: bool = False
    changes: deque[_Change] = field(default_factory=lambda: deque(maxlen=_BLOCKS))
    nats: float = 0.0
    computed: int = 0
    bound: float | None = None


def _joined(runs: Sequence[_Run], device: torch.device) -> tuple:
    """The states of runs as one batch; rows of one state that follow one another are taken at once."""
    parts = []
    for _, group in groupby(runs, lambda run: id(run.state)):
        some = list(group)
        whole, rows = State(some[0].state), [run.row for run in some]
        kept = rows == list(range(whole.batch))
        parts.append(whole if kept else whole.select(torch.tensor(rows, device=device)))
    return parts[0].parts if len(parts) == 1 else concatenate(parts).parts


def _rest(changes: Sequence[_Change]) -> float:
    """Estimate of |sum of all later changes| from those of the last blocks; infinite for too few blocks."""
    if len(changes) < _BLOCKS:
        return math.inf
    first, last = changes[0].size, changes[-1].size
    decay = (last / first) ** (1 / (_BLOCKS - 1)) if first else 0.0
    if decay >= 1:
        return math.inf
    mean = sum(block.square for block in changes) / _BLOCKS
    return _SAFETY * math.sqrt(mean) * decay / math.sqrt(1 - decay**2)


def default_spacing(length: int) -> int:
    """`SPACING`, doubled until there are at most `MOST_CHECKPOINTS`."""
    spacing = SPACING
    while spacing * MOST_CHECKPOINTS < length:
        spacing *= 2
    return spacing


def _rows(state: tuple, start: int, end: int) -> tuple:
    return map_state(lambda tensor: tensor[start:end], state)


def _equal(one: tuple, other: tuple) -> bool:
    return all(torch.equal(*pair) for pair in zip(tensors_of(one), tensors_of(other), strict=True))
