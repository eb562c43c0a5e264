"""The next byte from all bytes before it, and from what kind of sequence it is in."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.kernels import linear_cross_entropy
from ssm_seq.models.model import Model


class LanguageModel(Model):
    """Logits at position t are for the id at t + 1.

    classes: names of the kinds of sequences that the model tells apart. Each has a token, an id beyond the
        vocabulary, that stands in front of a sequence; without it the kind is unknown.

    The head has weights of its own: with 256 tokens at most, tying it to the embedding saves next to nothing.
    """

    kind = "language_model"

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        alphabet: str,
        sample_rate: int | None = None,
        classes: Sequence[str] = (),
    ) -> None:
        if config.bidirectional:
            raise InputError(
                "model.bidirectional=True: a language model must not see the byte that it predicts; "
                "only classifiers can read both ways"
            )
        super().__init__(config, vocab_size, alphabet, sample_rate, labels=len(classes))
        self.classes = list(classes)
        self.head = nn.Linear(config.d_model, vocab_size, bias=False)

    def token_of(self, label: str) -> int:
        """The id that stands in front of a sequence of this class.

        Raises:
            InputError: the model knows no such class; names those that it knows.
        """
        if not self.classes:
            raise InputError(f"label {label!r}: the model was trained without labels (task.labelled)")
        if label not in self.classes:
            raise InputError(
                f"label {label!r}: the model has no such class; known: {', '.join(self.classes)}"
            )
        return self.vocab_size + self.classes.index(label)

    def description(self) -> dict[str, Any]:
        return super().description() | ({"classes": self.classes} if self.classes else {})

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
