"""What the layers with a linear time-invariant system share: everything but the system.

y = GLU(W GELU(SSM(u) + D u)), as in S4 and S4D: so layers differ, and can be compared, by their system alone.
"""

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.layers.contract import SequenceLayer, State, check_chunk


class TimeInvariantLayer(SequenceLayer[State]):
    """A linear system in every channel or over all of them, then what mixes the channels.

    The system runs in the parameters' precision, float32 at least, also under autocast.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.D = nn.Parameter(torch.randn(d_model))
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    @abstractmethod
    def ssm(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """The system over a chunk u (batch, length, d_model): y like u, without D u; the state after it."""

    @abstractmethod
    def ssm_step(self, u: Tensor, state: State) -> tuple[Tensor, State]:
        """The system over one position u (batch, d_model)."""

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_chunk(x, self.D.shape[0])
        with torch.autocast(x.device.type, enabled=False):
            u = x.to(wide(self.D).dtype)
            y, state = self.ssm(u, self.initial_state(len(x)) if state is None else state)
            y = F.gelu(y + self.D * u).to(self.D.dtype)
        return F.glu(self.out_proj(y), dim=-1), state

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        with torch.autocast(x_t.device.type, enabled=False):
            u = x_t.to(wide(self.D).dtype)
            y, state = self.ssm_step(u, state)
            y = F.gelu(y + self.D * u).to(self.D.dtype)
        return F.glu(self.out_proj(y), dim=-1), state


def wide(part: Tensor) -> Tensor:
    """In float32 at least: what adds up over a sequence needs the digits."""
    return part.to(torch.promote_types(part.dtype, torch.float32))


def diagonal_step(u: Tensor, exponent: Tensor, Bbar: Tensor, C: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One position of `ssm_seq.kernels.lti_scan`: u (batch, d_model), complex x (batch, d_model, pairs).

    Abar - 1 is rounded, not Abar: next to 1 what short time steps change would be lost, in every step again.
    """
    change, Bbar, C = (part.to(x.dtype) for part in (torch.expm1(exponent), Bbar, C))
    x = x + (change * x + Bbar * u[..., None])
    return 2 * (C * x).real.sum(-1), x


def log_time_steps(count: int, dt_min: float, dt_max: float) -> nn.Parameter:
    """Logarithms (count,) of time steps drawn log-uniformly from [dt_min, dt_max].

    Raises:
        ValueError: not 0 < dt_min <= dt_max.
    """
    if not 0 < dt_min <= dt_max < math.inf:
        raise ValueError(
            f"dt_min={dt_min}, dt_max={dt_max}: time steps go forward, expected 0 < dt_min <= dt_max"
        )
    return nn.Parameter(torch.empty(count).uniform_(math.log(dt_min), math.log(dt_max)))


def modes(Lambda: Tensor, d_model: int) -> tuple[nn.Parameter, nn.Parameter]:
    """log(-Re) and Im (d_model, N) of eigenvalues Lambda (N,): in this form they stay stable, whatever is
    learned."""
    real, imag = torch.log(-Lambda.real).float(), Lambda.imag.float()
    return nn.Parameter(real.repeat(d_model, 1)), nn.Parameter(imag.repeat(d_model, 1))


def complex_normal(*shape: int) -> nn.Parameter:
    """Complex numbers of unit variance as real pairs (*shape, 2): optimisers and `.double()` treat them like
    every other parameter."""
    return nn.Parameter(torch.randn(*shape, 2) * 0.5**0.5)
