"""Sampling from a language model, one position after another in recurrent mode.

An item's ids depend on the model, the prompt, the rule, the seed and the item's number: not on how many items
there are, and not on where a run is cut in two by a saved state.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from ssm_seq.errors import InputError
from ssm_seq.inference.draws import uniform
from ssm_seq.inference.engine import Engine, engine
from ssm_seq.inference.progress import progress_bar
from ssm_seq.inference.prompt import check_ids, read_prompt
from ssm_seq.inference.state import State, concatenate
from ssm_seq.inference.stream import Ids, inference
from ssm_seq.kernels.decode import Rule
from ssm_seq.models import LanguageModel

STEPS = 512  # in one call of an engine; behind a stop they are in vain
_STEPS_ON_GPU = 2048  # without stops: a call's own time is then a few hundredths of theirs
_DRAWN = "drawn"  # a state's note: how many ids each row has drawn so far


@dataclass(frozen=True)
class Generated:
    """ids: (items, length) uint8 (int64 with more than 256 ids), without the prompt, 0 behind an item's end.
    lengths: (items,), to where each item went. state: after each item's last id, with notes for `generate` to
    go on from it. seconds: for all steps, the prompt excluded."""

    ids: Ids
    lengths: NDArray[np.int64]
    state: State
    seconds: float

    @property
    def steps_per_second(self) -> float:
        return float(self.lengths.max()) / self.seconds


def generate(
    model: LanguageModel,
    prompt: Ids | State,
    length: int,
    rule: Rule | None = None,
    seed: int = 0,
    count: int = 1,
    stop: Sequence[Sequence[int]] = (),
    run_by: Engine | None = None,
    label: str | None = None,
) -> Generated:
    """Continue each prompt `count` times, by `length` positions at most.

    Args:
        prompt: (positions,) or (batch, positions) ids; or a state with logits, of this function, of
            `read_prompt` or loaded. Without positions and label the first id is drawn uniformly.
        rule: how ids are drawn; `Rule()` if None.
        seed: 0 to 2^64 - 1. Item i draws from a random stream made of (seed, i), whatever the others are;
            items are prompts times count, the continuations of one prompt beside each other.
        stop: sequences of ids; an item ends behind the first that it generates.
        run_by: the model's engine, made for this call if None; prompts are read in its precision.
        label: of a model that was trained with labels, the one of what it makes; a state has read its own.

    Raises:
        InputError: a value out of its range, an id or a label that the model does not have, a label beside a
            state, a state without logits or of a model of another form, logits that are not finite.
    """
    if length < 1 or count < 1:
        name, value = ("length", length) if length < 1 else ("count", count)
        raise InputError(f"generate.{name}={value}: expected a positive whole number")
    if not 0 <= seed < 2**64:
        raise InputError(f"generate.seed={seed}: expected 0 to 2^64 - 1")
    for sequence in stop:
        if not len(sequence):
            raise InputError("generate.stop: expected sequences of at least one id")
        check_ids(np.asarray(sequence), model, "generate.stop")
    if isinstance(prompt, State):
        if label is not None:
            raise InputError("a state has read its label, if any: give a label or a state")
        if not prompt.fits(model):
            raise InputError("the state is none of this model: its tensors have other shapes or dtypes")
    with inference(model), progress_bar() as bar:
        run_by = run_by or engine(model)
        state = prompt if isinstance(prompt, State) else read_prompt(model, prompt, label, run_by.dtype)
        if state.logits is None:
            raise InputError(
                "the state has no logits to draw the next id from; it was not made to go on from"
            )
        # A fork of a run goes on in its items' streams too: no random number is used twice.
        drawn = np.repeat(state.notes.get(_DRAWN, [0] * state.batch), count)
        if count > 1:
            state = state.select(np.repeat(np.arange(state.batch), count).tolist())
        task = bar.add_task("steps", total=length)
        start = time.perf_counter()
        stops = [np.asarray(sequence) for sequence in stop]
        walk = _Walk(run_by, state, drawn, rule or Rule(), seed, stops, length)
        steps = _STEPS_ON_GPU if state.logits.is_cuda and not stop else STEPS
        for first in range(0, length, steps):
            if len(walk.going):
                walk.on(first, min(steps, length - first))
            bar.advance(task, steps)
        state = walk.end()
        seconds = time.perf_counter() - start
    ids = walk.ids.astype(np.uint8) if model.vocab_size <= 256 else walk.ids
    return Generated(ids, walk.lengths, state, seconds)


class _Walk:
    """Items on their way. ids (items, length), lengths (items,); going: the items that have not ended.

    drawn: how many ids each item has drawn before the first id here.
    """

    def __init__(
        self,
        run_by: Engine,
        state: State,
        drawn: NDArray[np.int64],
        rule: Rule,
        seed: int,
        stop: list[NDArray],
        length: int,
    ) -> None:
        self.ids = np.zeros((state.batch, length), np.int64)
        self.lengths, self.going = np.full(state.batch, length), np.arange(state.batch)
        self._engine, self._rule, self._seed, self._stop = run_by, rule, seed, stop
        self._device = state.logits.device
        self._drawn, self._state, self._ended = drawn, State(state.parts, state.logits), {}

    def on(self, first: int, steps: int) -> None:
        """All items that have not ended, from their `first` id by so many steps, or to their ends."""
        items = torch.tensor(self.going, device=self._device)[:, None]
        places = torch.tensor(self._drawn[self.going] + first, device=self._device)[:, None]
        draws = uniform(self._seed, items, places + torch.arange(steps, device=self._device))
        ids, after = self._engine.run(self._state, draws, self._rule)
        if not after.logits.isfinite().all():
            raise InputError("the model's logits are not finite: its numbers overflow")
        self.ids[self.going, first : first + steps] = ids.cpu().numpy()
        if not self._stop:
            self._state = after
            return
        left = []
        for row, item in enumerate(self.going.tolist()):
            end = self._end_of(self.ids[item, : first + steps], first)
            if end is None:
                left.append(row)
                continue
            self.ids[item, end:], self.lengths[item] = 0, end
            # The same steps give the same bits: the state there is computed once more, no further than it.
            before = self._state.select([row])
            _, self._ended[item] = self._engine.run(before, draws[[row], : end - first], self._rule)
        self._state, self.going = after.select(torch.tensor(left, dtype=torch.int64)), self.going[left]

    def end(self) -> State:
        """The states of all items, each after its last id."""
        notes = {_DRAWN: (self._drawn + self.lengths).tolist()}
        if not self._ended:
            return replace(self._state, notes=notes)
        rows = {item: self._state.select([row]) for row, item in enumerate(self.going.tolist())} | self._ended
        return replace(concatenate([rows[item] for item in range(len(rows))]), notes=notes)

    def _end_of(self, ids: NDArray[np.int64], known: int) -> int | None:
        """Behind the first sequence to stop at, that ends behind `known`."""
        ends = []
        for sequence in self._stop:
            start = max(known - len(sequence) + 1, 0)
            if len(ids) - start >= len(sequence):
                windows = np.lib.stride_tricks.sliding_window_view(ids[start:], len(sequence))
                found = np.flatnonzero((windows == sequence).all(1))
                ends += (start + len(sequence) + found[:1]).tolist()
        return min(ends, default=None)
