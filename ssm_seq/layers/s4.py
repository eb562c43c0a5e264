"""S4: a diagonal-plus-low-rank state space in each channel (Gu, Goel & Ré 2022, "Efficiently Modeling Long
Sequences with Structured State Spaces")."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.layers.contract import SequenceLayer
from ssm_seq.ssm import DPLR, bilinear, conjugate_half, dplr_chunk, nplr, with_conjugates
from ssm_seq.ssm.matrices import product

LONGEST = 1024  # positions convolved at once; the Cauchy products hold d_model x d_state x as many numbers


class S4State(NamedTuple):
    """x: one of each conjugate pair of states, complex (batch, d_model, d_state / 2)."""

    x: Tensor


class S4(SequenceLayer[S4State]):
    """y = GLU(W GELU(SSM(u) + D u)), the SSM from HiPPO-LegS with the bilinear rule.

    A = Lambda - P P^* in each channel for itself; Q = P keeps A stable whatever is learned (Goel et al. 2022,
    "It's Raw!", section 4). Lambda, P and B start as LegS has them, C at random. The kernel comes from the
    generating function (S4, algorithm 1); the parameter is C itself, so that one set of weights serves every
    length and single steps.
    """

    def __init__(self, d_model: int, d_state: int = 64, dt_min: float = 1e-3, dt_max: float = 1e-1) -> None:
        super().__init__()
        if d_state % 2:
            raise ValueError(f"d_state={d_state}: states come in conjugate pairs, expected an even number")
        legs = conjugate_half(nplr("legs", d_state))
        self.log_dt = nn.Parameter(torch.empty(d_model).uniform_(math.log(dt_min), math.log(dt_max)))
        self.log_A_real = nn.Parameter(torch.log(-legs.A.Lambda.real).float().repeat(d_model, 1))
        self.A_imag = nn.Parameter(legs.A.Lambda.imag.float().repeat(d_model, 1))
        # Real pairs: optimisers and `.double()` treat them like every other parameter.
        self.P = nn.Parameter(torch.view_as_real(legs.A.P[:, 0]).float().repeat(d_model, 1, 1))
        self.B = nn.Parameter(torch.view_as_real(legs.B[:, 0]).float().repeat(d_model, 1, 1))
        self.C = nn.Parameter(torch.randn(d_model, d_state // 2, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(d_model))
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def forward(self, x: Tensor, state: S4State | None = None) -> tuple[Tensor, S4State]:
        with torch.autocast(x.device.type, enabled=False):
            u = x.to(self.D.dtype).permute(2, 0, 1)  # (d_model, batch, length)
            A, B, C, dt = self._system()
            carried = None if state is None else with_conjugates(state.x.permute(1, 2, 0), dim=1)
            outputs = []
            for chunk in u.split(LONGEST, dim=-1):
                y, carried = dplr_chunk(A, B, C, dt, chunk, carried)
                outputs.append(y)
            y = F.gelu(torch.cat(outputs, dim=-1) + self.D[:, None, None] * u).permute(1, 2, 0)
            half = carried[:, : self.A_imag.shape[1]].permute(2, 0, 1)
        return F.glu(self.out_proj(y), dim=-1), S4State(half)

    def step(self, x_t: Tensor, state: S4State) -> tuple[Tensor, S4State]:
        with torch.autocast(x_t.device.type, enabled=False):
            u = x_t.to(self.D.dtype)
            A, B, C, dt = self._system()
            Abar, Bbar = bilinear(A, B, dt)
            x = with_conjugates(state.x, dim=-1)
            x = (product(Abar, x[..., None]) + Bbar * u[..., None, None])[..., 0]
            y = F.gelu((C[:, 0] * x).sum(-1).real + self.D * u)
        return F.glu(self.out_proj(y), dim=-1), S4State(x[..., : self.A_imag.shape[1]])

    def _system(self) -> tuple[DPLR, Tensor, Tensor, Tensor]:
        """The continuous system of d_model heads, both modes of each pair; the time steps (d_model,)."""
        Lambda = with_conjugates(torch.complex(-torch.exp(self.log_A_real), self.A_imag), dim=1)
        P, B, C = (with_conjugates(torch.view_as_complex(part), dim=1) for part in (self.P, self.B, self.C))
        P = P[..., None]
        return DPLR(Lambda, P, P), B[..., None], C[:, None], torch.exp(self.log_dt)

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> S4State:
        dtype = (dtype or self.D.dtype).to_complex()
        return S4State(torch.zeros(batch, *self.A_imag.shape, device=device or self.D.device, dtype=dtype))

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.log_dt, self.log_A_real, self.A_imag, self.P, self.B]
