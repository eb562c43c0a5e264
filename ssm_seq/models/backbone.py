"""The part that all models share: embedding -> [RMSNorm -> layer -> + residual] x n -> RMSNorm.

Each sum is taken by the norm that reads it. Between blocks there are thus two addends: what the last layer
gave, and the residual. Under autocast both have its dtype.
"""

import math

import torch
from torch import Tensor, nn

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.kernels import rms_norm
from ssm_seq.layers import S4, S4D, Mamba, SequenceLayer


def check(config: ModelConfig) -> None:
    """Raises InputError for sizes that no model can have."""
    for name in ("d_model", "n_layers", "d_state", "expand", "d_conv"):
        if getattr(config, name) < 1:
            raise InputError(f"model.{name}={getattr(config, name)}: expected a positive whole number")
    if config.layer in ("s4", "s4d") and config.d_state % 2:
        raise InputError(
            f"model.d_state={config.d_state}: {config.layer}'s states come in pairs, expected an even number"
        )
    if not 0 < config.dt_min <= config.dt_max:
        raise InputError(
            f"model.dt_min={config.dt_min}, model.dt_max={config.dt_max}: expected 0 < dt_min <= dt_max"
        )
    if not 0 <= config.dropout < 1:
        raise InputError(f"model.dropout={config.dropout}: expected a probability below 1")


def sequence_layer(config: ModelConfig) -> SequenceLayer:
    """The layer that `config.layer` names; InputError if there is none of this name."""
    match config.layer:
        case "mamba":
            return Mamba(
                config.d_model, config.d_state, config.d_conv, config.expand, config.dt_min, config.dt_max
            )
        case "s4":
            return S4(config.d_model, config.d_state, config.dt_min, config.dt_max)
        case "s4d":
            return S4D(config.d_model, config.d_state, config.dt_min, config.dt_max)
    raise InputError(f"model.layer={config.layer}: there is no such layer; known: mamba, s4, s4d")


class Block(nn.Module):
    """dropout(layer(norm(x + residual))) and x + residual, which the next norm adds."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)  # only holds the weight
        self.layer = sequence_layer(config)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Tensor, residual: Tensor | None, state: tuple | None
    ) -> tuple[Tensor, Tensor, tuple]:
        y, summed, state = self.layer.forward_normed(x, residual, self.norm, state)
        return self.dropout(y), summed, state

    def step(self, x_t: Tensor, residual: Tensor | None, state: tuple) -> tuple[Tensor, Tensor, tuple]:
        normed, summed = rms_norm(x_t, self.norm.weight, self.norm.eps, residual)
        y_t, state = self.layer.step(normed, state)
        return self.dropout(y_t), summed, state


class Backbone(nn.Module):
    """Token ids to hidden vectors. Its state is the tuple of its layers' states.

    ordered: neighbouring ids mean neighbouring things (levels of a waveform), so their vectors start alike.

    Raises:
        InputError: a layer or a size that doesn't exist.
    """

    def __init__(self, config: ModelConfig, vocab_size: int, ordered: bool = False) -> None:
        super().__init__()
        check(config)
        self.embedding = nn.Embedding(vocab_size, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)  # only holds the weight
        nn.init.normal_(self.embedding.weight, std=0.02)
        if ordered:
            with torch.no_grad():
                self.embedding.weight.copy_(smooth_vectors(vocab_size, config.d_model))
        # The residual sum starts with the same size in stacks of every depth (as in GPT-2 and mamba_ssm).
        with torch.no_grad():
            for block in self.blocks:
                block.layer.out_proj.weight /= math.sqrt(config.n_layers)

    def forward(self, ids: Tensor, state: tuple | None) -> tuple[Tensor, tuple]:
        """ids (batch, length) of any integer type -> (batch, length, d_model), state."""
        x, residual, states = self._embedded(ids), None, []
        for i, block in enumerate(self.blocks):
            x, residual, after = block(x, residual, None if state is None else state[i])
            states.append(after)
        return rms_norm(x, self.norm.weight, self.norm.eps, residual)[0], tuple(states)

    def step(self, ids: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """ids (batch,) -> (batch, d_model), state."""
        x_t, residual, states = self._embedded(ids), None, []
        for block, before in zip(self.blocks, state, strict=True):
            x_t, residual, after = block.step(x_t, residual, before)
            states.append(after)
        return rms_norm(x_t, self.norm.weight, self.norm.eps, residual)[0], tuple(states)

    def _embedded(self, ids: Tensor) -> Tensor:
        x, device = self.embedding(ids.long()), ids.device.type
        if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
            # autocast itself leaves embeddings in float32, and with them every later sum. Those are what the
            # norms save for the backward pass: at millions of positions much of the memory, here halved.
            x = x.to(torch.get_autocast_dtype(device))
        return x


def smooth_vectors(count: int, size: int) -> Tensor:
    """(count, size) float32 vectors of `count` levels: cosines of rising frequency and falling amplitude, so
    that near levels have near vectors, and no two the same."""
    angles = torch.linspace(0, math.pi, count)
    frequencies = torch.arange(1, size + 1)
    return 0.3 * torch.cos(angles[:, None] * frequencies) / frequencies.sqrt()
