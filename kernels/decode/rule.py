"""How the next id is drawn from the logits."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rule:
    """What is left of the distribution, and how sharp it is.

    temperature: divides the logits; 0 takes the likeliest id (the lowest of equals).
    top_k: only so many of the likeliest ids; 0: all. Of equals the lower id comes first, here and below.
    top_p: of these the fewest likeliest ids that hold this share of their probability.
    min_p: of these the ones at least this share as likely as the likeliest.

    Raises:
        ValueError: a value out of its range.
    """

    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0

    def __post_init__(self) -> None:
        for name in ("temperature", "top_k"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name}={getattr(self, name)}: expected 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p={self.top_p}: expected more than 0 and at most 1")
        if not 0 <= self.min_p <= 1:
            raise ValueError(f"min_p={self.min_p}: expected 0 to 1")

    @property
    def truncates(self) -> bool:
        return self.top_k > 0 or self.top_p < 1 or self.min_p > 0

    def choose(self, logits: Tensor, draws: Tensor) -> Tensor:
        """One id (rows,) int64 for each row of logits (rows, vocab), by inverting its distribution.

        The definition of all other samplers here. draws: (rows,) float64 in [0, 1).
        """
        if self.temperature == 0:
            return (logits == logits.max(-1, keepdim=True).values).int().argmax(-1)
        wide = logits.double()
        weights = torch.exp((wide - wide.max(-1, keepdim=True).values) / self.temperature)
        if self.truncates:
            ordered, order = weights.sort(dim=-1, descending=True, stable=True)
            if self.top_k:
                ordered[:, self.top_k :] = 0
            before = ordered.cumsum(-1) - ordered
            kept = (before < self.top_p * ordered.sum(-1, keepdim=True)) & (ordered >= self.min_p)
            weights = torch.zeros_like(weights).scatter(-1, order, ordered * kept)
        cumulative = weights.cumsum(-1)
        place = (cumulative <= draws[:, None] * cumulative[:, -1:]).sum(-1)
        # A draw just below 1 may round up to the sum: the last id that can be drawn.
        ids = torch.arange(logits.shape[1], device=logits.device)
        return torch.minimum(place, torch.where(weights > 0, ids, 0).amax(-1))
