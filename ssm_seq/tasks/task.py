"""What a task is: sequences of ids, and what a model is to say at their end."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

Device = torch.device | str


class Example(NamedTuple):
    """inputs: ids (sequences, positions) uint8, or a signal (sequences, positions, channels) float32.

    answers: a class for each sequence (sequences,) int64, or what a model is to predict at the last
    positions, ids (sequences, answered) int64 or real values (sequences, answered, outputs) float32.
    """

    inputs: Tensor
    answers: Tensor


class Task(ABC):
    """Batches on a device. Splits are streams of random numbers, or parts of a data set.

    vocab_size: ids are below it; of a signal, its channels.
    alphabet: what the ids mean (`ssm_seq.data.alphabet`).
    classes: their names where the answer is a class for each sequence, else None.
    outputs: real values in an answer, None where answers are ids or classes.
    """

    vocab_size: int
    alphabet: str
    classes: list[str] | None = None
    outputs: int | None = None

    @abstractmethod
    def draw(self, split: str, count: int, length: int, generator: torch.Generator) -> Example:
        """`count` random sequences of `split` and of size `length` (see the task), on the generator's device.

        Raises:
            InputError: no sequence has such a length, or the data are not there.
        """

    def simple_answers(self, inputs: Tensor) -> tuple[str, Tensor] | None:
        """What a simple rule answers, in the shape of the answers, and its name; None where there is none."""
        return None

    def test(self, count: int, size: int, length: int, seed: int, device: Device) -> Iterator[Example]:
        """At most `count` sequences of the test split in batches of `size`, the same for the same seed."""
        for number, start in enumerate(range(0, count, size)):
            generator = numbered_generator(seed, "test", number, device)
            yield self.draw("test", min(size, count - start), length, generator)


def numbered_generator(seed: int, split: str, number: int, device: Device) -> torch.Generator:
    """The generator of batch `number` of a split: its stream has nothing in common with those of others."""
    key = [seed, ("train", "valid", "test").index(split), number]
    state = int(np.random.SeedSequence(key).generate_state(1, np.uint64)[0] >> np.uint64(1))
    return torch.Generator(device).manual_seed(state)
