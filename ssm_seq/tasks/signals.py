"""What a memory of a signal is good for: its past value, its sum, all of it.

Gu et al. 2020, "HiPPO"; the delay is that of Gu et al. 2023, "How to Train Your HiPPO", section 4.
"""

import math

import torch
from torch import Tensor

from ssm_seq.data.alphabet import SIGNAL
from ssm_seq.errors import InputError
from ssm_seq.tasks.task import Example, Task


class Signals(Task):
    """Band-limited white noise u (sequences, length, 1) of unit power, and something linear of its past.

    band: the highest frequency, in cycles a position. What is asked, at unit power or about it:
    delay: u(t - lag), from position `lag` on.
    integration: the sum of u(0..t), times 2 pi band / sqrt(3), at every position.
    reconstruction: at the last position alone, u at `samples` places from the first to the last.

    Raises:
        InputError: a band, a lag or a number of samples that can't be.
    """

    alphabet = SIGNAL
    vocab_size = 1  # channels

    def __init__(self, asked: str, band: float, lag: int, samples: int) -> None:
        if not 0 < band <= 0.5 or lag < 1 or samples < 1:
            raise InputError(
                f"task.band={band:g}, task.lag={lag}, task.samples={samples}: expected a band of at most 0.5 "
                "cycles a position, and a lag and samples of 1 or more"
            )
        self.asked, self.band, self.lag, self.samples = asked, band, lag, samples
        self.outputs = samples if asked == "reconstruction" else 1

    def draw(self, split: str, count: int, length: int, generator: torch.Generator) -> Example:
        least = {"delay": self.lag + 1, "integration": 1, "reconstruction": self.samples}[self.asked]
        if length < least or self.band * length < 1:
            raise InputError(
                f"length {length}: expected {least} positions or more for {self.asked}, and a whole cycle of "
                f"the fastest wave (task.band={self.band:g})"
            )
        signal = noise(count, length, self.band, generator)
        match self.asked:
            case "delay":
                answers = signal[:, : length - self.lag]
            case "integration":
                answers = signal.cumsum(1) * (2 * math.pi * self.band / math.sqrt(3))
            case _:
                places = torch.linspace(0, length - 1, self.samples, device=signal.device).round().long()
                answers = signal[:, places].mT
        return Example(signal, answers)


def noise(count: int, length: int, band: float, generator: torch.Generator) -> Tensor:
    """White noise up to `band` cycles a position, of unit power in the mean: (count, length, 1) float32."""
    waves = int(band * length)
    options = {"generator": generator, "device": generator.device}
    spectrum = torch.zeros(count, length // 2 + 1, dtype=torch.complex64, device=generator.device)
    spectrum[:, 1 : waves + 1] = torch.randn(count, waves, dtype=torch.complex64, **options)
    return (torch.fft.irfft(spectrum, n=length) * (length / math.sqrt(2 * waves)))[..., None]
