"""The part that all models share: embedding -> [RMSNorm -> layer -> + residual] x n -> RMSNorm.

Each sum is taken by the norm that reads it. Between blocks there are thus two addends: what the last layer
gave, and the residual. Under autocast both have its dtype where there is a backward pass.
"""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.kernels import rms_norm
from ssm_seq.layers import (
    CNN,
    DSS,
    EMA,
    GRU,
    H3,
    LSSL,
    LSTM,
    S4,
    S4D,
    S5,
    Bidirectional,
    Gated,
    Mamba,
    SequenceLayer,
    Transformer,
)
from ssm_seq.layers.s4d import INITS

IN_PAIRS = ("s4", "s4d", "s5", "dss", "h3")  # layers whose states are complex: one of each conjugate pair


def check(config: ModelConfig) -> None:
    """Raises InputError for sizes that no model can have."""
    for name in ("d_model", "n_layers", "d_state", "expand", "d_conv", "blocks", "heads"):
        if getattr(config, name) < 1:
            raise InputError(f"model.{name}={getattr(config, name)}: expected a positive whole number")
    if config.layer in IN_PAIRS and config.d_state % 2:
        raise InputError(
            f"model.d_state={config.d_state}: {config.layer}'s states come in pairs, expected an even number"
        )
    if config.layer == "s5" and config.d_state % (2 * config.blocks):
        raise InputError(
            f"model.d_state={config.d_state}, model.blocks={config.blocks}: expected blocks of the same even "
            "number of states"
        )
    if config.layer != "s5" and config.blocks != 1:
        raise InputError(f"model.blocks={config.blocks}: only s5 starts from blocks, not {config.layer}")
    if config.layer not in ("s4", "lssl") and not config.hippo:
        raise InputError(f"model.hippo=False: only s4 and lssl start from random systems, not {config.layer}")
    if config.init not in INITS:
        raise InputError(f"model.init={config.init}: expected {', '.join(INITS)}")
    if config.layer != "s4d" and config.init != "lin":
        raise InputError(f"model.init={config.init}: only s4d chooses among these, not {config.layer}")
    if config.layer == "transformer" and config.d_model % (2 * config.heads):
        raise InputError(
            f"model.d_model={config.d_model}, model.heads={config.heads}: expected heads of one even size"
        )
    if config.gated and config.layer in ("mamba", "h3"):
        raise InputError(f"model.gated=True: {config.layer} has gates of its own")
    if not 0 < config.dt_min <= config.dt_max:
        raise InputError(
            f"model.dt_min={config.dt_min}, model.dt_max={config.dt_max}: expected 0 < dt_min <= dt_max"
        )
    if not 0 <= config.dropout < 1:
        raise InputError(f"model.dropout={config.dropout}: expected a probability below 1")


def sequence_layer(config: ModelConfig) -> SequenceLayer:
    """The layer that `config.layer` names, in what is put around it; InputError if there is none."""
    if config.bidirectional:
        one_way = replace(config, bidirectional=False)
        return Bidirectional(config.d_model, sequence_layer(one_way), sequence_layer(one_way))
    if config.gated:
        inner = replace(config, gated=False, d_model=config.expand * config.d_model)
        return Gated(config.d_model, sequence_layer(inner), inner.d_model)
    sizes, time_steps = (config.d_model, config.d_state), (config.dt_min, config.dt_max)
    match config.layer:
        case "mamba":
            return Mamba(*sizes, config.d_conv, config.expand, *time_steps)
        case "h3":
            return H3(*sizes, config.d_conv, *time_steps)
        case "s4":
            return S4(*sizes, *time_steps, hippo_init=config.hippo)
        case "s4d":
            return S4D(*sizes, *time_steps, init=config.init)
        case "s5":
            return S5(*sizes, *time_steps, blocks=config.blocks)
        case "dss":
            return DSS(*sizes, *time_steps)
        case "lssl":
            return LSSL(*sizes, *time_steps, hippo_init=config.hippo)
        case "ema":
            return EMA(*sizes)
        case "transformer":
            return Transformer(config.d_model, config.heads, config.expand)
        case "lstm":
            return LSTM(config.d_model, config.expand)
        case "gru":
            return GRU(config.d_model, config.expand)
        case "cnn":
            return CNN(config.d_model, config.d_conv)
    raise InputError(
        f"model.layer={config.layer}: there is no such layer; known: mamba, h3, s4, s4d, s5, dss, lssl, ema, "
        "transformer, lstm, gru, cnn"
    )


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
    real: in place of ids the input is real vectors of `vocab_size` channels.
    labels: how many ids there are beyond the vocabulary, for what stands in front of a sequence.

    Raises:
        InputError: a layer or a size that doesn't exist.
    """

    def __init__(
        self,
        config: ModelConfig,
        vocab_size: int,
        ordered: bool = False,
        real: bool = False,
        labels: int = 0,
    ) -> None:
        super().__init__()
        check(config)
        self.embedding = (nn.Linear if real else nn.Embedding)(vocab_size + labels, config.d_model)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.n_layers))
        self.norm = nn.RMSNorm(config.d_model, eps=1e-5)  # only holds the weight
        if not real:
            nn.init.normal_(self.embedding.weight, std=0.02)
        if ordered:
            with torch.no_grad():
                self.embedding.weight[:vocab_size].copy_(smooth_vectors(vocab_size, config.d_model))
        # The residual sum starts with the same size in stacks of every depth (as in GPT-2 and mamba_ssm).
        with torch.no_grad():
            for block in self.blocks:
                block.layer.out_proj.weight /= math.sqrt(config.n_layers)

    def forward(self, ids: Tensor, state: tuple | None) -> tuple[Tensor, tuple]:
        """ids (batch, length) of any integer type, or a signal (batch, length, channels)
        -> (batch, length, d_model), state."""
        x, residual, states = self._embedded(ids), None, []
        for i, block in enumerate(self.blocks):
            x, residual, after = block(x, residual, None if state is None else state[i])
            states.append(after)
        return self._normed(x, residual), tuple(states)

    def step(self, ids: Tensor, state: tuple) -> tuple[Tensor, tuple]:
        """ids (batch,) -> (batch, d_model), state."""
        x_t, residual, states = self._embedded(ids), None, []
        for block, before in zip(self.blocks, state, strict=True):
            x_t, residual, after = block.step(x_t, residual, before)
            states.append(after)
        return self._normed(x_t, residual), tuple(states)

    def _normed(self, x: Tensor, residual: Tensor) -> Tensor:
        # In the dtype of the sums: where those are float32 the head's input is not rounded once more.
        return rms_norm(x.to(residual.dtype), self.norm.weight, self.norm.eps, residual)[0]

    def _embedded(self, ids: Tensor) -> Tensor:
        ids = ids if ids.is_floating_point() else ids.long()
        x, device = self.embedding(ids), ids.device.type
        if torch.is_grad_enabled() and torch.is_autocast_enabled(device) and x.dtype != torch.float64:
            # autocast itself leaves embeddings in float32, and with them every later sum. Those are what the
            # norms save for the backward pass: at millions of positions much of the memory, here halved.
            # Without that pass the sums stay in float32, and the results a quarter closer to float32's.
            x = x.to(torch.get_autocast_dtype(device))
        return x


def smooth_vectors(count: int, size: int) -> Tensor:
    """(count, size) float32 vectors of `count` levels: cosines of rising frequency and falling amplitude, so
    that near levels have near vectors, and no two the same."""
    angles = torch.linspace(0, math.pi, count)
    frequencies = torch.arange(1, size + 1)
    return 0.3 * torch.cos(angles[:, None] * frequencies) / frequencies.sqrt()
