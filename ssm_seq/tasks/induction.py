"""Induction heads (Olsson et al. 2022; as in Gu & Dao 2023, "Mamba", section 4.1.2 and table 11)."""

import torch

from ssm_seq.data.alphabet import TOKENS
from ssm_seq.errors import InputError
from ssm_seq.tasks.task import Example, Task


class InductionHeads(Task):
    """What followed the special token when it came the first time?

    A sequence of `length` random tokens has the special one at a random position and again at its end; the
    answer is the token after the first of them. Ids: 0..symbols-1 the tokens, then the special one.

    Raises:
        InputError: no symbol, or more than ids of a byte leave.
    """

    alphabet = TOKENS

    def __init__(self, symbols: int) -> None:
        if not 1 <= symbols <= 255:
            raise InputError(f"task.symbols={symbols}: expected 1 to 255")
        self.symbols, self.special, self.vocab_size = symbols, symbols, symbols + 1

    def draw(self, split: str, count: int, length: int, generator: torch.Generator) -> Example:
        if length < 3:
            raise InputError(f"length {length}: an induction head needs 3 positions, two of them special")
        device = generator.device
        options = {"generator": generator, "device": device}
        inputs = torch.randint(self.symbols, (count, length), dtype=torch.uint8, **options)
        first = torch.randint(length - 2, (count, 1), **options)
        inputs.scatter_(1, first, self.special)
        inputs[:, -1] = self.special
        return Example(inputs, inputs.gather(1, first + 1).long())
