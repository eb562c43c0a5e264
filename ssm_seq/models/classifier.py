"""The class of a sequence, known at every moment for everything seen so far."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ssm_seq.config import ModelConfig
from ssm_seq.models.model import Model


class ClassifierState(NamedTuple):
    """layers: the layers' states; total: sum of the hidden vectors so far, float64 (batch, d_model), in which
    millions of positions add up without drift; count: positions so far, int64 (batch,)."""

    layers: tuple
    total: Tensor
    count: Tensor


class Classifier(Model):
    """A linear head on the mean over positions of the last hidden layer; the mean runs on in the state."""

    kind = "classifier"

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        classes: list[str],
        alphabet: str,
        sample_rate: int | None = None,
    ) -> None:
        super().__init__(config, vocab_size, alphabet, sample_rate)
        self.classes = list(classes)
        self.head = nn.Linear(config.d_model, len(self.classes))

    def forward(self, ids: Tensor, state: ClassifierState | None = None) -> tuple[Tensor, ClassifierState]:
        """ids (batch, length) -> logits (batch, classes) for all positions up to the chunk's end, state."""
        hidden, layers = self.backbone(ids, None if state is None else state.layers)
        state = self.after(hidden, layers, state)
        return self.logits(state.total, state.count), state

    def after(self, hidden: Tensor, layers: tuple, state: ClassifierState | None) -> ClassifierState:
        """The state after a chunk with these hidden vectors (batch, length, d_model) and layers' states."""
        total, count = (
            hidden.sum(1, dtype=torch.float64),
            hidden.new_full((len(hidden),), hidden.shape[1], dtype=torch.int64),
        )
        if state is not None:
            total, count = total + state.total, count + state.count
        return ClassifierState(layers, total, count)

    def step(self, ids: Tensor, state: ClassifierState) -> tuple[Tensor, ClassifierState]:
        """ids (batch,) -> logits (batch, classes), state."""
        hidden, layers = self.backbone.step(ids, state.layers)
        total, count = state.total + hidden, state.count + 1
        return self.logits(total, count), ClassifierState(layers, total, count)

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> ClassifierState:
        """The state before the first position."""
        weight = self.head.weight
        total = weight.new_zeros(batch, weight.shape[1], device=device or weight.device, dtype=torch.float64)
        return ClassifierState(super().initial_state(batch, device), total, total[:, 0].long())

    def description(self) -> dict[str, Any]:
        return super().description() | {"classes": self.classes}

    def logits(self, total: Tensor, count: Tensor) -> Tensor:
        """Of sums of hidden vectors (..., d_model) over count (...) positions: (..., classes)."""
        logits = self.head((total / count[..., None]).to(self.head.weight.dtype))
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
