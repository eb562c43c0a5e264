"""S4: a diagonal-plus-low-rank state space in each channel (Gu, Goel & Ré 2022, "Efficiently Modeling Long
Sequences with Structured State Spaces")."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssm_seq.layers.blocks import in_blocks
from ssm_seq.layers.time_invariant import TimeInvariantLayer, complex_normal, log_time_steps, modes
from ssm_seq.ssm import conjugate_half, nplr


class S4State(NamedTuple):
    """x: one of each conjugate pair of states, complex (batch, d_model, d_state / 2)."""

    x: Tensor


class _System(NamedTuple):
    """Abar = diag(Lambda) - p q^*, Bbar and C; one mode of each conjugate pair, (d_model, d_state / 2)."""

    Lambda: Tensor
    p: Tensor
    q: Tensor
    Bbar: Tensor
    C: Tensor


class S4(TimeInvariantLayer[S4State]):
    """x' = A x + B u and y = 2 Re <C, x> in each channel, from HiPPO-LegS, with the bilinear rule.

    A = Lambda - P P^* in each channel for itself. Re Lambda < 0 and Q = P keep A stable whatever is learned
    (Goel et al. 2022, "It's Raw!", section 4). Lambda, P and B start as LegS has them, C at random. Without
    `hippo_init` they are random, and the same in all channels likewise: normal P, B and Im Lambda, while
    Re Lambda is -1/2 as that of LegS.

    The paper convolves with a kernel as long as the sequence (`ssm_seq.ssm.kernel_dplr`) and has no state to
    carry on. Here the sequence goes in blocks, as matrix products, with the states between them: no
    transform, and one set of weights serves every length, chunks and single steps.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        hippo_init: bool = True,
    ) -> None:
        super().__init__(d_model)
        if d_state % 2:
            raise ValueError(f"d_state={d_state}: states come in conjugate pairs, expected an even number")
        if hippo_init:
            (Lambda, P, _), B, _ = conjugate_half(nplr("legs", d_state))
        else:
            P, B = torch.randn(2, d_state // 2, 1, dtype=torch.complex128)
            Lambda = torch.complex(torch.full((len(B),), -0.5), torch.randn(len(B)))
        self.log_A_real, self.A_imag = modes(Lambda, d_model)
        self.log_dt = log_time_steps(d_model, dt_min, dt_max)
        # Real pairs: optimisers and `.double()` treat them like every other parameter.
        self.P = nn.Parameter(torch.view_as_real(P[:, 0]).float().repeat(d_model, 1, 1))
        self.B = nn.Parameter(torch.view_as_real(B[:, 0]).float().repeat(d_model, 1, 1))
        self.C = complex_normal(d_model, d_state // 2)

    def ssm(self, u: Tensor, state: S4State) -> tuple[Tensor, S4State]:
        dtype = torch.promote_types(u.dtype, torch.float32)
        x = torch.cat([state.x.real, state.x.imag], dim=-1).to(dtype)
        y, x = in_blocks(u.to(dtype), *_real_form(self._discretise()), x)
        return y.to(u.dtype), S4State(torch.complex(*x.chunk(2, dim=-1)))

    def ssm_step(self, u: Tensor, state: S4State) -> tuple[Tensor, S4State]:
        dtype = torch.promote_types(u.dtype, torch.complex64)
        system, x = self._discretise(), state.x
        # Abar - 1, as in `diagonal_step`.
        change, p, q, Bbar, C = (part.to(dtype) for part in system._replace(Lambda=system.Lambda - 1))
        low_rank = p * (2 * (q.conj() * x).real.sum(-1, keepdim=True))
        x = x + (change * x - low_rank + Bbar * u[..., None])
        return (2 * (C * x).real.sum(-1)).to(u.dtype), S4State(x)

    def _discretise(self) -> _System:
        """The bilinear rule by Woodbury's identity, in float64: every later step would repeat what it loses.

        Abar = D (I + h Lambda) - 2h / k D P P^* D with h = dt / 2, D = (I - h Lambda)^-1, k = 1 + h P^* D P.
        Without the checks of `ssm_seq.ssm.bilinear`, which look at values: this A is stable.
        """
        Lambda = torch.complex(-torch.exp(self.log_A_real.double()), self.A_imag.double())
        P, B, C = (torch.view_as_complex(part.double()) for part in (self.P, self.B, self.C))
        h = torch.exp(self.log_dt.double())[:, None] / 2
        D = 1 / (1 - h * Lambda)
        DP = D * P
        p = 2 * h / (1 + h * (2 * (P.conj() * DP).real.sum(-1, keepdim=True))) * DP
        Bbar = 2 * h * D * B - h * p * (2 * (P.conj() * D * B).real.sum(-1, keepdim=True))
        return _System(D * (1 + h * Lambda), p, D.conj() * P, Bbar, C)

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> S4State:
        dtype = torch.promote_types(dtype or self.D.dtype, torch.complex64)
        return S4State(torch.zeros(batch, *self.A_imag.shape, device=device or self.D.device, dtype=dtype))

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.log_dt, self.log_A_real, self.A_imag, self.P, self.B]


def _real_form(system: _System) -> tuple[Tensor, Tensor, Tensor]:
    """Abar (d_model, N, N), Bbar and C (d_model, N) on the real and the imaginary parts of the states.

    The states of the other modes are the conjugates, so that q^* x over both is 2 (Re q Re x + Im q Im x).
    """
    p, q, B = (torch.cat([part.real, part.imag], dim=-1) for part in (system.p, system.q, system.Bbar))
    turning, damping = (torch.diag_embed(part) for part in (system.Lambda.imag, system.Lambda.real))
    rotation = torch.cat([torch.cat([damping, -turning], -1), torch.cat([turning, damping], -1)], -2)
    C = 2 * torch.cat([system.C.real, -system.C.imag], dim=-1)
    return rotation - 2 * p[..., :, None] * q[..., None, :], B, C
