"""Copying and selective copying (Gu & Dao 2023, "Mamba", section 3.1 and 4.1.1; Arjovsky et al. 2016)."""

import torch

from ssm_seq.data.alphabet import TOKENS
from ssm_seq.errors import InputError
from ssm_seq.tasks.task import Example, Task


class Copying(Task):
    """Remember `memorise` random tokens through noise, and say them in their order when asked.

    A sequence of size `length` is that many positions of noise with the tokens among them, then `memorise`
    markers, one for each answer. The tokens stand first (copying: the delay never changes, which a fixed
    convolution can learn), or scattered at random (selective copying: the ids themselves say where they are).
    Ids: 0..symbols-1 the tokens, then the noise, then the marker.

    Raises:
        InputError: fewer than one token, or more symbols than ids of a byte leave.
    """

    alphabet = TOKENS

    def __init__(self, symbols: int, memorise: int, scattered: bool) -> None:
        if not 1 <= symbols <= 254 or memorise < 1:
            raise InputError(
                f"task.symbols={symbols}, task.memorise={memorise}: expected 1 to 254 symbols, and a token"
            )
        self.symbols, self.memorise, self.scattered = symbols, memorise, scattered
        self.noise, self.marker = symbols, symbols + 1
        self.vocab_size = symbols + 2

    def draw(self, split: str, count: int, length: int, generator: torch.Generator) -> Example:
        if length < self.memorise:
            raise InputError(
                f"length {length}: {self.memorise} tokens to copy (task.memorise) need as many positions"
            )
        device = generator.device
        tokens = torch.randint(self.symbols, (count, self.memorise), generator=generator, device=device)
        if self.scattered:
            order = torch.rand(count, length, generator=generator, device=device)
            places = order.topk(self.memorise, sorted=False).indices.sort().values
        else:
            places = torch.arange(self.memorise, device=device).expand(count, -1)
        inputs = torch.full((count, length + self.memorise), self.noise, dtype=torch.uint8, device=device)
        inputs[:, length:] = self.marker
        inputs.scatter_(1, places, tokens.to(torch.uint8))
        return Example(inputs, tokens)
