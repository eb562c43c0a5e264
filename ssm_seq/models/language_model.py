"""The next byte from all bytes before it."""

import torch
from torch import Tensor, nn

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.kernels import linear_cross_entropy
from ssm_seq.models.model import Model


class LanguageModel(Model):
    """Logits at position t are for the id at t + 1.

    The head has weights of its own: with 256 tokens at most, tying it to the embedding saves next to nothing.
    """

    kind = "language_model"

    def __init__(
        self, config: ModelConfig, vocab_size: int, alphabet: str, sample_rate: int | None = None
    ) -> None:
        if config.bidirectional:
            raise InputError(
                "model.bidirectional=True: a language model must not see the byte that it predicts; "
                "only classifiers can read both ways"
            )
        super().__init__(config, vocab_size, alphabet, sample_rate)
        self.head = nn.Linear(config.d_model, vocab_size, bias=False)

    def forward(self, ids: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """ids (batch, length) -> logits (batch, length, vocab_size), float32 even under autocast, state."""
        hidden, state = self.backbone(ids, state)
        return self.logits(hidden), state

    def answers(self, ids: Tensor, count: int, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """`forward`, with logits (batch, count, vocab_size) of the last `count` positions alone."""
        hidden, state = self.backbone(ids, state)
        return self.logits(hidden[:, -count:]), state

    def losses(self, ids: Tensor, targets: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """Cross entropy in nats of what follows each position, without the logits of all positions.

        ids (batch, length); targets (batch, length) int64, 0 loss where negative -> losses (batch, length),
        float32 (float64 of a float64 model), state.
        """
        hidden, state = self.backbone(ids, state)
        return linear_cross_entropy(hidden, self.head.weight, targets), state

    def step(self, ids: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """ids (batch,) -> logits (batch, vocab_size), state."""
        hidden, state = self.backbone.step(ids, state)
        return self.logits(hidden), state

    def logits(self, hidden: Tensor) -> Tensor:
        """Of hidden vectors (..., d_model): (..., vocab_size), float32 at least."""
        logits = self.head(hidden)
        return logits.to(torch.promote_types(logits.dtype, torch.float32))
