"""DSS, the softmax variant (Gupta, Gu & Berant 2022, "Diagonal State Spaces are as Effective as Structured
State Spaces")."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssm_seq.kernels import lti_scan
from ssm_seq.layers.time_invariant import (
    TimeInvariantLayer,
    complex_normal,
    diagonal_step,
    log_time_steps,
    modes,
)
from ssm_seq.ssm import conjugate_half, nplr


class DSSState(NamedTuple):
    """x: one of each conjugate pair of states, complex (batch, d_model, d_state / 2)."""

    x: Tensor


class DSS(TimeInvariantLayer[DSSState]):
    """K_k = Re sum over n of w_n / lambda_n softmax(dt lambda_n [0, 1, ..., L - 1])_k in each channel.

    Proposition 1 (b) of the paper. The softmax over L positions divides exp(dt lambda k) by
    (exp(dt lambda L) - 1) / (exp(dt lambda) - 1), so this is the diagonal system with Abar = exp(dt lambda),
    Bbar = (Abar - 1) / (lambda (Abar^L - 1)) and C = w: zero-order hold but for the last factor. L, the
    `horizon`, belongs to the layer, whatever the length of its input; the paper takes the length of the
    training sequences. With it the state has the same few numbers for any length. Also unlike the paper,
    Re lambda < 0: a mode that grows needs a sequence that ends.

    lambda starts as the eigenvalues of HiPPO-LegS without its low-rank part; y = 2 Re of one of each
    conjugate pair.

    horizon: positions, > 0; kept with the weights.
    """

    horizon: Tensor

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        horizon: float = 1024,
    ) -> None:
        super().__init__(d_model)
        if not horizon > 0:
            raise ValueError(f"horizon={horizon}: expected a positive number of positions")
        self.log_dt = log_time_steps(d_model, dt_min, dt_max)
        self.log_A_real, self.A_imag = modes(conjugate_half(nplr("legs", d_state)).A.Lambda, d_model)
        self.C = complex_normal(d_model, d_state // 2)
        self.register_buffer("horizon", torch.tensor(float(horizon)))

    def ssm(self, u: Tensor, state: DSSState) -> tuple[Tensor, DSSState]:
        y, x = lti_scan(u, *self._discretise(), initial_state=state.x)
        return y, DSSState(x)

    def ssm_step(self, u: Tensor, state: DSSState) -> tuple[Tensor, DSSState]:
        y, x = diagonal_step(u, *self._discretise(), state.x)
        return y, DSSState(x)

    def _discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        """log Abar, Bbar and C, complex128 (d_model, d_state / 2): rounded, they would drift from one another
        over a long sequence."""
        A = torch.complex(-torch.exp(self.log_A_real.double()), self.A_imag.double())
        exponent = torch.exp(self.log_dt.double())[:, None] * A
        Bbar = torch.expm1(exponent) / (A * torch.expm1(exponent * self.horizon))
        return exponent, Bbar, torch.view_as_complex(self.C.double())

    def scale_time_steps(self, rate: float) -> None:
        super().scale_time_steps(rate)
        self.horizon /= rate  # as long as before in time

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> DSSState:
        dtype = torch.promote_types(dtype or self.D.dtype, torch.complex64)
        x = torch.zeros(batch, *self.A_imag.shape, device=device or self.D.device, dtype=dtype)
        return DSSState(x)

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.log_dt, self.log_A_real, self.A_imag]
