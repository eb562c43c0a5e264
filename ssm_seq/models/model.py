"""What language models and classifiers have in common: a backbone, a state, a folder on disk."""

import copy
import json
from abc import ABC, abstractmethod
from dataclasses import asdict
from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor, nn

from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import LINEAR, MU_LAW, SIGNAL
from ssm_seq.errors import InputError
from ssm_seq.files import whole_directory
from ssm_seq.models.backbone import Backbone

WEIGHTS, DESCRIPTION = "model.safetensors", "config.json"


class Model(nn.Module, ABC):
    """A model of token sequences with everything needed to use it alone.

    alphabet: name of the alphabet of the ids; sample_rate: Hz, None where it has no meaning (DNA).
    vocab_size: how many ids there are; for the alphabet `signal`, how many real channels.
    labels: how many more ids there are, for the kinds of sequences.
    """

    kind: ClassVar[str]

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        alphabet: str,
        sample_rate: int | None,
        labels: int = 0,
    ) -> None:
        super().__init__()
        self.config, self.vocab_size, self.alphabet, self.sample_rate = (
            config,
            vocab_size,
            alphabet,
            sample_rate,
        )
        ordered, real = alphabet in (LINEAR.name, MU_LAW.name), alphabet == SIGNAL
        self.backbone = Backbone(config, vocab_size, ordered, real, labels)

    @abstractmethod
    def forward(self, ids: Tensor, state: tuple | None = None) -> tuple[Tensor, tuple]:
        """Map a chunk of ids (batch, length >= 1), any integer type, that follows `state`."""

    @abstractmethod
    def step(self, ids: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """Map one position, ids (batch,)."""

    def initial_state(self, batch: int, device: torch.device | str | None = None) -> tuple:
        """The state before the first position: one state per layer."""
        return tuple(block.layer.initial_state(batch, device) for block in self.backbone.blocks)

    def ssm_parameters(self) -> list[nn.Parameter]:
        """The layers' parameters with a learning rate of their own and no weight decay."""
        return [parameter for block in self.backbone.blocks for parameter in block.layer.ssm_parameters()]

    def resampled(self, rate: float) -> Self:
        """This model for input at another sampling rate: a copy with every time step times `rate`.

        rate: the new time step divided by the old, 2 for a signal of which every second sample is kept.

        Raises:
            ValueError: rate <= 0, or layers that are tied to the rate of their training (Mamba, H3).
        """
        model = copy.deepcopy(self)
        for block in model.backbone.blocks:
            block.layer = block.layer.resampled(rate)
        if self.sample_rate is not None:
            model.sample_rate = round(self.sample_rate / rate)
        return model

    def description(self) -> dict[str, Any]:
        """All of config.json: the arguments that make this model again."""
        return {
            "kind": self.kind,
            "model": asdict(self.config),
            "vocab_size": self.vocab_size,
            "alphabet": self.alphabet,
            "sample_rate": self.sample_rate,
        }

    def save(self, directory: Path | str) -> None:
        """Write model.safetensors and config.json into a folder that appears whole or not at all.

        Raises:
            InputError: the folder cannot be written.
        """
        tensors = {name: tensor.contiguous() for name, tensor in self.state_dict().items()}
        with whole_directory(directory, DESCRIPTION) as partial:
            try:
                save_file(tensors, partial / WEIGHTS)
                (partial / DESCRIPTION).write_text(json.dumps(self.description(), indent=2) + "\n")
            except (SafetensorError, OSError) as error:  # what the system says, a full disk for one
                raise InputError(f"{directory}: the model cannot be written ({error})") from None
