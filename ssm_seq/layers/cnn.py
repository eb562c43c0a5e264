"""Dilated causal convolutions, to compare with (van den Oord et al. 2016, "WaveNet")."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.layers.contract import SequenceLayer, check_chunk


class CNNState(NamedTuple):
    """past: the last inputs of all convolutions side by side, (batch, (width - 1) (2^depth - 1), d_model)."""

    past: Tensor


class CNN(SequenceLayer[CNNState]):
    """x <- x + GELU(convolution(x)), `depth` times with dilations 1, 2, 4, ...; then a projection.

    An output sees (width - 1) (2^depth - 1) + 1 positions and nothing before them.
    """

    def __init__(self, d_model: int, width: int = 4, depth: int = 8) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(
            nn.Conv1d(d_model, d_model, width, dilation=2**i) for i in range(depth)
        )
        self.past = [(width - 1) * 2**i for i in range(depth)]
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, state: CNNState | None = None) -> tuple[Tensor, CNNState]:
        check_chunk(x, self.out_proj.out_features)
        state = state or self.initial_state(len(x), x.device)
        after = []
        y = x
        for convolution, past in zip(self.convolutions, state.past.split(self.past, dim=1), strict=True):
            joined = torch.cat([past.to(y.dtype), y], dim=1)
            after.append(joined[:, joined.shape[1] - past.shape[1] :])
            y = y + F.gelu(convolution(joined.transpose(1, 2)).transpose(1, 2))
        return self.out_proj(y), CNNState(torch.cat(after, dim=1).to(state.past.dtype))

    def step(self, x_t: Tensor, state: CNNState) -> tuple[Tensor, CNNState]:
        y, state = self(x_t[:, None], state)
        return y[:, 0], state

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> CNNState:
        weight = self.out_proj.weight
        size = (batch, sum(self.past), weight.shape[0])
        return CNNState(torch.zeros(size, device=device or weight.device, dtype=dtype or weight.dtype))

    def ssm_parameters(self) -> list[nn.Parameter]:
        return []
