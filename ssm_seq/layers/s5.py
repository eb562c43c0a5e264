"""S5: one diagonal state space over all channels (Smith, Warrington & Linderman 2023, "Simplified State Space
Layers for Sequence Modeling")."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.layers.scan import scan
from ssm_seq.layers.time_invariant import TimeInvariantLayer, log_time_steps, wide
from ssm_seq.ssm import conjugate_half, nplr


class S5State(NamedTuple):
    """x: one of each conjugate pair of states, complex (batch, d_state / 2)."""

    x: Tensor


class S5(TimeInvariantLayer[S5State]):
    """x_k = Abar x_(k-1) + Bbar u_k and y_k = 2 Re(C x_k) for vectors u and y of d_model channels.

    Abar = exp(dt Lambda) is diagonal, Bbar = Lambda^-1 (Abar - I) B, with a time step for each state; all
    states come from a scan (section 3). Lambda starts as `blocks` copies of HiPPO-LegS without its low-rank
    part; with V its eigenvectors, B = V^* B_0 and C = C_0 V, B_0 and C_0 random (appendix B.1). The output is
    GLU like everywhere here; the paper's y sigmoid(W y) is a case of it.
    """

    def __init__(
        self, d_model: int, d_state: int = 64, dt_min: float = 1e-3, dt_max: float = 1e-1, blocks: int = 1
    ) -> None:
        super().__init__(d_model)
        if blocks < 1 or d_state % blocks or d_state // blocks % 2:
            raise ValueError(
                f"d_state={d_state}, blocks={blocks}: states come in conjugate pairs, expected blocks of the "
                "same even number of states"
            )
        size, pairs = d_state // blocks, d_state // 2
        legs = conjugate_half(nplr("legs", size))
        Lambda, V = legs.A.Lambda.repeat(blocks), legs.V  # V: (size, size / 2)
        self.log_dt = log_time_steps(pairs, dt_min, dt_max)
        self.log_A_real = nn.Parameter(torch.log(-Lambda.real).float())
        self.A_imag = nn.Parameter(Lambda.imag.float())
        B = torch.randn(blocks, size, d_model, dtype=torch.float64) / d_model**0.5
        C = torch.randn(d_model, blocks, size, dtype=torch.float64) / d_state**0.5
        # Real pairs: optimisers and `.double()` treat them like every other parameter.
        self.B = nn.Parameter(torch.view_as_real((V.mH @ B.to(V.dtype)).flatten(0, 1)).float())
        self.C = nn.Parameter(torch.view_as_real((C.to(V.dtype) @ V).flatten(1)).float())

    def ssm(self, u: Tensor, state: S5State) -> tuple[Tensor, S5State]:
        exponent, gain = self._discretise()
        x = scan(gain.to(state.x.dtype) * self._mixed_in(u), exponent, state.x)
        return self._mixed_out(x), S5State(x[:, -1].clone())  # a view would keep all of x

    def ssm_step(self, u: Tensor, state: S5State) -> tuple[Tensor, S5State]:
        exponent, gain = self._discretise()
        # Abar - 1, as in `diagonal_step`.
        change, gain = torch.expm1(exponent).to(state.x.dtype), gain.to(state.x.dtype)
        x = state.x + (change * state.x + gain * self._mixed_in(u))
        return self._mixed_out(x), S5State(x)

    def _discretise(self) -> tuple[Tensor, Tensor]:
        """dt Lambda, which is log Abar, and Lambda^-1 (Abar - I), complex128 (d_state / 2,)."""
        Lambda = torch.complex(-torch.exp(self.log_A_real.double()), self.A_imag.double())
        exponent = torch.exp(self.log_dt.double()) * Lambda
        return exponent, torch.expm1(exponent) / Lambda

    def _mixed_in(self, u: Tensor) -> Tensor:
        """B u: (..., d_model) -> complex (..., d_state / 2), as one real product."""
        rows = wide(self.B).movedim(-1, 0).flatten(0, 1)  # all real parts, then all imaginary ones
        return torch.complex(*F.linear(u, rows).chunk(2, dim=-1))

    def _mixed_out(self, x: Tensor) -> Tensor:
        """2 Re(C x): complex (..., d_state / 2) -> (..., d_model), as one real product."""
        pairs = 2 * torch.view_as_real(torch.view_as_complex(wide(self.C)).conj().resolve_conj())
        return F.linear(torch.view_as_real(x).flatten(-2), pairs.flatten(1))

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> S5State:
        dtype = torch.promote_types(dtype or self.D.dtype, torch.complex64)
        return S5State(torch.zeros(batch, *self.A_imag.shape, device=device or self.D.device, dtype=dtype))

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.log_dt, self.log_A_real, self.A_imag, self.B]
