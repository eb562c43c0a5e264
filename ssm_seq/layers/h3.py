"""H3: a shift and a diagonal state space between gates (Fu, Dao, Saab, Thomas, Rudra & Ré 2023, "Hungry
Hungry Hippos: Towards Language Modeling with State Space Models")."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssm_seq.kernels import causal_conv1d, causal_conv1d_step, lti_scan
from ssm_seq.layers.contract import SequenceLayer, check_chunk
from ssm_seq.layers.time_invariant import complex_normal, diagonal_step, log_time_steps, modes, wide
from ssm_seq.ssm import s4d_lin
from ssm_seq.ssm.checks import check_size


class H3State(NamedTuple):
    """shift: the last d_conv - 1 keys, (batch, d_conv - 1, d_model).
    x: one of each conjugate pair of states, complex (batch, d_model, d_state / 2)."""

    shift: Tensor
    x: Tensor


class H3(SequenceLayer[H3State]):
    """O(q * SSM_diag(SSM_shift(k) * v)), q, k and v linear in the input (section 3.2; heads of one channel).

    The shift matrix moves the state by one place, so its state is the last inputs and its output a short
    convolution with C: it remembers what came just before. The diagonal system (zero-order hold, S4D-Lin to
    start from) holds over the sequence what the product kept; q compares with it. Both SSMs have a term D u.
    """

    def __init__(
        self, d_model: int, d_state: int = 64, d_conv: int = 4, dt_min: float = 1e-3, dt_max: float = 1e-1
    ) -> None:
        super().__init__()
        check_size("d_conv", d_conv)
        self.in_proj = nn.Linear(d_model, 3 * d_model)
        # Only holds the weights.
        self.conv1d = nn.Conv1d(d_model, d_model, d_conv, groups=d_model, bias=False)
        self.log_dt = log_time_steps(d_model, dt_min, dt_max)
        self.log_A_real, self.A_imag = modes(s4d_lin(d_state), d_model)
        self.C = complex_normal(d_model, d_state // 2)
        self.D = nn.Parameter(torch.randn(d_model))
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, state: H3State | None = None) -> tuple[Tensor, H3State]:
        check_chunk(x, self.D.shape[0])
        state = self.initial_state(len(x)) if state is None else state
        q, k, v = self.in_proj(x).chunk(3, dim=-1)
        with torch.autocast(x.device.type, enabled=False):
            q, k, v = (part.to(wide(self.D).dtype) for part in (q, k, v))
            k, shift = causal_conv1d(k, wide(self.conv1d.weight[:, 0]), initial_state=state.shift)
            y, diagonal = lti_scan(k * v, *self._system(), wide(self.D), state.x)
            y = (q * y).to(self.D.dtype)
        return self.out_proj(y), H3State(shift, diagonal)

    def step(self, x_t: Tensor, state: H3State) -> tuple[Tensor, H3State]:
        q, k, v = self.in_proj(x_t).chunk(3, dim=-1)
        with torch.autocast(x_t.device.type, enabled=False):
            q, k, v = (part.to(wide(self.D).dtype) for part in (q, k, v))
            shift = state.shift.clone()  # the kernel writes the next state over it
            kv = causal_conv1d_step(shift, k.contiguous(), wide(self.conv1d.weight[:, 0])) * v
            y, diagonal = diagonal_step(kv, *self._system(), state.x)
            y = (q * (y + self.D * kv)).to(self.D.dtype)
        return self.out_proj(y), H3State(shift, diagonal)

    def _system(self) -> tuple[Tensor, Tensor, Tensor]:
        """dt A, Bbar and C of the diagonal system, complex128 (d_model, d_state / 2)."""
        A = torch.complex(-torch.exp(self.log_A_real.double()), self.A_imag.double())
        exponent = torch.exp(self.log_dt.double())[:, None] * A
        return exponent, torch.expm1(exponent) / A, torch.view_as_complex(self.C.double())

    def scale_time_steps(self, rate: float) -> None:
        raise ValueError("H3: its short convolution weighs single samples, it is tied to their rate")

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> H3State:
        d_model, _, d_conv = self.conv1d.weight.shape
        device, dtype = device or self.D.device, torch.promote_types(dtype or self.D.dtype, torch.float32)
        complex_dtype = torch.promote_types(dtype, torch.complex64)
        return H3State(
            torch.zeros(batch, d_conv - 1, d_model, device=device, dtype=dtype),
            torch.zeros(batch, *self.A_imag.shape, device=device, dtype=complex_dtype),
        )

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.log_dt, self.log_A_real, self.A_imag]
