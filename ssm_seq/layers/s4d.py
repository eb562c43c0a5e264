"""S4D: a diagonal state space in each channel (Gu, Gupta, Goel & Ré 2022, "On the Parameterization and
Initialization of Diagonal State Space Models")."""

from collections.abc import Callable
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.kernels import lti_scan
from ssm_seq.layers.contract import SequenceLayer
from ssm_seq.layers.time_invariant import diagonal_step, log_time_steps
from ssm_seq.ssm import s4d_inv, s4d_legs, s4d_lin, s4d_real

DiagonalInit = Literal["lin", "inv", "legs", "real"]
# One of each pair of eigenvalues, (d_state / 2,) complex128.
INITS: dict[str, Callable[[int], Tensor]] = {
    "lin": s4d_lin,
    "inv": s4d_inv,
    "legs": lambda d_state: s4d_legs(d_state)[0],
    "real": lambda d_state: s4d_real(d_state // 2).to(torch.complex128),
}


class S4DState(NamedTuple):
    """x: one of each conjugate pair of states, complex (batch, d_model, d_state / 2)."""

    x: Tensor


class S4D(SequenceLayer[S4DState]):
    """y = GLU(W GELU(SSM(u) + D u)), the SSM with zero-order hold.

    x_t = Abar x_(t-1) + Bbar u_t and SSM(u)_t = 2 Re <C, x_t>, each channel for itself; Abar = exp(dt A),
    Bbar = (Abar - 1) / A (B = 1 without loss: C absorbs it).

    init: the A to start from (section 4): `lin`, A_n = -1/2 + i pi n; `inv`; `legs`, the eigenvalues of
        HiPPO-LegS without its low-rank part; `real`, -(n + 1) without frequencies.

    Raises:
        ValueError: an odd d_state, not 0 < dt_min <= dt_max, or no such init.
    """

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        init: DiagonalInit = "lin",
    ) -> None:
        super().__init__()
        if d_state % 2:
            raise ValueError(f"d_state={d_state}: states come in conjugate pairs, expected an even number")
        if init not in INITS:
            raise ValueError(f"init={init!r}: there is no such initialisation; known: {', '.join(INITS)}")
        A, pairs = INITS[init](d_state).to(torch.complex64), d_state // 2
        self.log_dt = log_time_steps(d_model, dt_min, dt_max)
        self.log_A_real = nn.Parameter(torch.log(-A.real).repeat(d_model, 1))
        self.A_imag = nn.Parameter(A.imag.repeat(d_model, 1))
        # Real pairs: optimisers and `.double()` treat them like every other parameter.
        self.C = nn.Parameter(torch.randn(d_model, pairs, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(d_model))
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def forward(self, x: Tensor, state: S4DState | None = None) -> tuple[Tensor, S4DState]:
        # Under autocast the projection rounds anyway: y may come as x does.
        u = x if torch.is_autocast_enabled(x.device.type) else x.to(self.D.dtype)
        y, carried = lti_scan(u, *self._discretise(), self.D, None if state is None else state.x)
        return F.glu(self.out_proj(F.gelu(y)), dim=-1), S4DState(carried)

    def step(self, x_t: Tensor, state: S4DState) -> tuple[Tensor, S4DState]:
        with torch.autocast(x_t.device.type, enabled=False):
            u = x_t.to(state.x.real.dtype)
            y, x = diagonal_step(u, *self._discretise(), state.x)
            y = F.gelu(y + self.D * u).to(self.D.dtype)
        return F.glu(self.out_proj(y), dim=-1), S4DState(x)

    def discrete(self) -> tuple[Tensor, Tensor, Tensor]:
        """Abar, Bbar and C of single steps, complex (d_model, d_state / 2)."""
        exponent, Bbar, C = self._discretise()
        return torch.exp(exponent), Bbar, C

    def _discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        """dt A, Bbar and C, complex (d_model, d_state / 2); Abar is the exponential of the first."""
        dtype = torch.promote_types(self.D.dtype, torch.float32)
        log_dt, log_A_real, A_imag, C = (
            part.to(dtype) for part in (self.log_dt, self.log_A_real, self.A_imag, self.C)
        )
        A = torch.complex(-torch.exp(log_A_real), A_imag)
        exponent = torch.exp(log_dt)[:, None] * A
        return exponent, torch.expm1(exponent) / A, torch.view_as_complex(C)

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> S4DState:
        dtype = torch.promote_types(dtype or self.D.dtype, torch.float32).to_complex()
        return S4DState(
            torch.zeros(batch, *self.log_A_real.shape, device=device or self.D.device, dtype=dtype)
        )

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.log_dt, self.log_A_real, self.A_imag]
