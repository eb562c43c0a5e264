"""Real values from a real signal, at every position from all before it."""

from typing import Any

from torch import Tensor, nn

from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import SIGNAL
from ssm_seq.models.model import Model


class Regressor(Model):
    """A linear head on every position; the input's `channels` come through a linear map, not an embedding."""

    kind = "regressor"

    def __init__(self, config: ModelConfig, channels: int, outputs: int) -> None:
        super().__init__(config, channels, SIGNAL, None)
        self.outputs = outputs
        self.head = nn.Linear(config.d_model, outputs)

    def forward(self, ids: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """A signal (batch, length, channels) -> (batch, length, outputs), state."""
        hidden, state = self.backbone(ids, state)
        return self.head(hidden), state

    def answers(self, ids: Tensor, count: int, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """`forward`, with outputs (batch, count, outputs) at the last `count` positions alone."""
        hidden, state = self.backbone(ids, state)
        return self.head(hidden[:, -count:]), state

    def step(self, ids: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """One position (batch, channels) -> (batch, outputs), state."""
        hidden, state = self.backbone.step(ids, state)
        return self.head(hidden), state

    def description(self) -> dict[str, Any]:
        return super().description() | {"outputs": self.outputs}
