"""The Mamba block (Gu & Dao 2023, "Mamba: Linear-Time Sequence Modeling with Selective State Spaces")."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.kernels import causal_conv1d_step, mamba_mixer, prenorm_mamba_mixer, selective_step
from ssm_seq.kernels.mamba_mixer import definition
from ssm_seq.layers.contract import SequenceLayer
from ssm_seq.layers.time_invariant import log_time_steps
from ssm_seq.ssm.checks import check_size


class MambaState(NamedTuple):
    """conv: the last d_conv - 1 inputs of the convolution, (batch, d_conv - 1, d_inner).
    ssm: the state of the recurrence, (batch, d_inner, d_state)."""

    conv: Tensor
    ssm: Tensor


class Mamba(SequenceLayer[MambaState]):
    """Gate * selective SSM of a short convolution, between two projections.

    Figure 3 of the paper. Names, shapes and initial values of the parameters are those of the authors'
    `mamba_ssm.Mamba`.
    d_inner = expand * d_model; delta comes from a bottleneck of dt_rank = ceil(d_model / 16).
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 16,
        d_conv: int = 4,
        expand: int = 2,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
    ) -> None:
        super().__init__()
        check_size("d_state", d_state)
        self.d_state, self.dt_rank = d_state, math.ceil(d_model / 16)
        d_inner = expand * d_model
        self.in_proj = nn.Linear(d_model, 2 * d_inner, bias=False)
        self.conv1d = nn.Conv1d(d_inner, d_inner, d_conv, groups=d_inner)  # only holds the weights
        self.x_proj = nn.Linear(d_inner, self.dt_rank + 2 * d_state, bias=False)
        self.dt_proj = nn.Linear(self.dt_rank, d_inner)
        self.A_log = nn.Parameter(torch.log(torch.arange(1.0, d_state + 1)).repeat(d_inner, 1))
        self.D = nn.Parameter(torch.ones(d_inner))
        self.out_proj = nn.Linear(d_inner, d_model, bias=False)

        # Section 3.6 and appendix: softplus(bias) is log-uniform in [dt_min, dt_max].
        nn.init.uniform_(self.dt_proj.weight, -(self.dt_rank**-0.5), self.dt_rank**-0.5)
        with torch.no_grad():
            dt = torch.exp(log_time_steps(d_inner, dt_min, dt_max))
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))  # the inverse of softplus

    def forward(self, x: Tensor, state: MambaState | None = None) -> tuple[Tensor, MambaState]:
        # To make u, z and delta again for the backward pass saves memory, which a CPU has, and costs time.
        mixer = mamba_mixer if x.is_cuda else definition.mamba_mixer
        out, conv, ssm = mixer(x, *self._weights(), *(state or (None, None)))
        return out, MambaState(conv.to(ssm.dtype), ssm)

    def forward_normed(
        self, x: Tensor, residual: Tensor | None, norm: nn.RMSNorm, state: MambaState | None = None
    ) -> tuple[Tensor, Tensor, MambaState]:
        if not x.is_cuda:
            return super().forward_normed(x, residual, norm, state)
        out, summed, conv, ssm = prenorm_mamba_mixer(
            x, residual, norm.weight, norm.eps, *self._weights(), *(state or (None, None))
        )
        return out, summed, MambaState(conv.to(ssm.dtype), ssm)

    def _weights(self) -> tuple[Tensor, ...]:
        return (
            self.in_proj.weight,
            self.conv1d.weight[:, 0],
            self.conv1d.bias,
            self.x_proj.weight,
            self.dt_proj.weight,
            self.dt_proj.bias,
            -torch.exp(self.A_log),
            self.D,
            self.out_proj.weight,
        )

    def step(self, x_t: Tensor, state: MambaState) -> tuple[Tensor, MambaState]:
        conv, ssm = state.conv.clone(), state.ssm.clone()  # the kernels write the next state over them
        u, z = (F.linear(x_t, matrix) for matrix in self.in_proj.weight.chunk(2))
        u = causal_conv1d_step(conv, u, self.conv1d.weight[:, 0], self.conv1d.bias, "silu")
        delta, B, C = self.x_proj(u).split([self.dt_rank, self.d_state, self.d_state], dim=-1)
        delta = F.linear(delta, self.dt_proj.weight)
        A = -torch.exp(self.A_log)
        y = selective_step(ssm, u, delta, A, B, C, self.D, z, self.dt_proj.bias, True)
        return self.out_proj(y), MambaState(conv, ssm)

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> MambaState:
        d_inner, _, d_conv = self.conv1d.weight.shape
        device, dtype = device or self.D.device, dtype or self.D.dtype
        return MambaState(
            torch.zeros(batch, d_conv - 1, d_inner, device=device, dtype=dtype),
            torch.zeros(batch, d_inner, self.d_state, device=device, dtype=dtype),
        )

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.A_log, self.D, self.dt_proj.bias]
