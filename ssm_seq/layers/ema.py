"""The multi-dimensional damped exponential moving average of MEGA, the smallest state space (Ma, Zhou, Kong,
He, Gui, Neubig, May & Zettlemoyer 2022, "Mega: Moving Average Equipped Gated Attention", section 3.1)."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ssm_seq.kernels import lti_scan
from ssm_seq.layers.time_invariant import TimeInvariantLayer, wide
from ssm_seq.ssm.checks import check_size


class EMAState(NamedTuple):
    """h: (batch, d_model, d_state), real."""

    h: Tensor


class EMA(TimeInvariantLayer[EMAState]):
    """h_t = alpha * beta u_t + (1 - alpha * delta) h_(t-1) and y_t = <eta, h_t> in each channel, all real.

    alpha and delta in (0, 1) weigh the newest input and damp the past; beta expands a channel to d_state
    averages, eta takes them back. With d_state = 1 and delta = beta = eta = 1 it is the moving average of
    `ssm_seq.ssm.ema`. Initial values, and a factor d_state^-1/2 on eta, are those of the authors' code.
    """

    def __init__(self, d_model: int, d_state: int = 16) -> None:
        super().__init__(d_model)
        check_size("d_state", d_state)
        self.alpha = nn.Parameter(0.2 * torch.randn(d_model, d_state))  # logits, as delta
        self.delta = nn.Parameter(0.2 * torch.randn(d_model, d_state))
        signs = 1.0 - 2.0 * (torch.arange(d_state) % 2)
        self.beta = nn.Parameter(signs + 0.02 * torch.randn(d_model, d_state))
        self.eta = nn.Parameter(torch.randn(d_model, d_state))

    def ssm(self, u: Tensor, state: EMAState) -> tuple[Tensor, EMAState]:
        log_Abar, Bbar, C = self._system()
        # The kernel adds the conjugate of every mode.
        system = (torch.complex(part, torch.zeros_like(part)) for part in (log_Abar, Bbar, C / 2))
        y, h = lti_scan(u, *system, initial_state=torch.complex(state.h, torch.zeros_like(state.h)))
        return y, EMAState(h.real)

    def ssm_step(self, u: Tensor, state: EMAState) -> tuple[Tensor, EMAState]:
        log_Abar, Bbar, C = self._system()
        # Abar - 1, as in `diagonal_step`.
        h = state.h + (torch.expm1(log_Abar) * state.h + Bbar * u[..., None])
        return (C * h).sum(-1), EMAState(h)

    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """log(1 - alpha delta), alpha beta and the scaled eta, real (d_model, d_state)."""
        alpha, beta, eta = wide(self.alpha), wide(self.beta), wide(self.eta)
        return self._log_Abar(), torch.sigmoid(alpha) * beta, eta * eta.shape[1] ** -0.5

    def _log_Abar(self) -> Tensor:
        """log(1 - alpha delta) from logits: 1 - alpha delta = (1 - alpha) + alpha (1 - delta), a sum that
        keeps its digits."""
        alpha, delta, log = wide(self.alpha), wide(self.delta), F.logsigmoid
        return torch.logaddexp(log(-alpha), log(alpha) + log(-delta))

    def scale_time_steps(self, rate: float) -> None:
        """Abar^rate, and Bbar times (1 - Abar^rate) / (1 - Abar): the system behind it by zero-order hold
        (`ssm_seq.ssm.transfer`). Of the many alpha, delta with that product the equal ones are taken."""
        log_Abar, Bbar, _ = self._system()
        Bbar = Bbar * torch.expm1(rate * log_Abar) / torch.expm1(log_Abar)
        root = torch.sqrt(-torch.expm1(rate * log_Abar))
        # log(root / (1 - root)), where 1 - root = Abar^rate / (1 + root)
        logits = torch.log(root) + torch.log1p(root) - rate * log_Abar
        self.alpha.copy_(logits)
        self.delta.copy_(logits)
        self.beta.copy_(Bbar / torch.sigmoid(logits))

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> EMAState:
        device, dtype = device or self.D.device, torch.promote_types(dtype or self.D.dtype, torch.float32)
        return EMAState(torch.zeros(batch, *self.alpha.shape, device=device, dtype=dtype))

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.alpha, self.delta, self.beta]
