"""A gate beside any sequence layer: the gated linear unit of Dauphin et al. 2017 with a state space on one
branch (Mehta, Gupta, Cutkosky & Neyshabur 2022, "Long Range Language Modeling via Gated State Spaces")."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.layers.contract import SequenceLayer, State


class Gated(SequenceLayer[State]):
    """W_o(layer(W_u x) * silu(W_z x)); its state is the layer's.

    layer: a sequence layer of any width, which is the width of the gate.
    """

    def __init__(self, d_model: int, layer: SequenceLayer[State], d_inner: int) -> None:
        super().__init__()
        self.in_proj, self.gate_proj = nn.Linear(d_model, d_inner), nn.Linear(d_model, d_inner)
        self.layer = layer
        self.out_proj = nn.Linear(d_inner, d_model)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        y, state = self.layer(self.in_proj(x), state)
        return self.out_proj(y * F.silu(self.gate_proj(x))), state

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self.layer.step(self.in_proj(x_t), state)
        return self.out_proj(y * F.silu(self.gate_proj(x_t))), state

    def scale_time_steps(self, rate: float) -> None:
        self.layer.scale_time_steps(rate)

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        return self.layer.initial_state(batch, device, dtype)

    def ssm_parameters(self) -> list[nn.Parameter]:
        return self.layer.ssm_parameters()
