"""S4D: a diagonal state space in each channel (Gu, Gupta, Goel & Ré 2022, "On the Parameterization and
Initialization of Diagonal State Space Models")."""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import FunctionCtx, once_differentiable

from ssm_seq.layers.contract import SequenceLayer
from ssm_seq.ssm import s4d_lin

LONGEST = 4096  # positions convolved at once; the transform's memory grows with them


class S4DState(NamedTuple):
    """x: one of each conjugate pair of states, complex (batch, d_model, d_state / 2)."""

    x: Tensor


class S4D(SequenceLayer[S4DState]):
    """y = GLU(W GELU(SSM(u) + D u)), the SSM with zero-order hold and the S4D-Lin initialisation.

    x_t = Abar x_(t-1) + Bbar u_t and SSM(u)_t = 2 Re <C, x_t>, each channel for itself; Abar = exp(dt A),
    Bbar = (Abar - 1) / A (B = 1 without loss: C absorbs it), A_n = -1/2 + i pi n (section 4.3).
    """

    def __init__(self, d_model: int, d_state: int = 64, dt_min: float = 1e-3, dt_max: float = 1e-1) -> None:
        super().__init__()
        if d_state % 2:
            raise ValueError(f"d_state={d_state}: states come in conjugate pairs, expected an even number")
        A, pairs = s4d_lin(d_state).to(torch.complex64), d_state // 2
        self.log_dt = nn.Parameter(torch.empty(d_model).uniform_(math.log(dt_min), math.log(dt_max)))
        self.log_A_real = nn.Parameter(torch.log(-A.real).repeat(d_model, 1))
        self.A_imag = nn.Parameter(A.imag.repeat(d_model, 1))
        # Real pairs: optimisers and `.double()` treat them like every other parameter.
        self.C = nn.Parameter(torch.randn(d_model, pairs, 2) * 0.5**0.5)
        self.D = nn.Parameter(torch.randn(d_model))
        self.out_proj = nn.Linear(d_model, 2 * d_model)

    def forward(self, x: Tensor, state: S4DState | None = None) -> tuple[Tensor, S4DState]:
        with torch.autocast(x.device.type, enabled=False):
            # (d_model, batch, length): the transform and the products run along contiguous memory.
            u = _Transpose.apply(x.to(self.D.dtype).flatten(0, 1)).unflatten(1, x.shape[:2])
            exponent, Bbar, C = self._discretise()
            carried = None if state is None else state.x.transpose(0, 1)
            outputs = []
            for chunk in u.split(LONGEST, dim=-1):
                y, carried = self._convolve(chunk, exponent, Bbar, C, carried)
                outputs.append(y)
            y = torch.cat(outputs, dim=-1) if len(outputs) > 1 else outputs[0]
            y = F.gelu(y + self.D[:, None, None] * u)
            y = _Transpose.apply(y.flatten(1)).unflatten(0, x.shape[:2])
        return F.glu(self.out_proj(y), dim=-1), S4DState(carried.transpose(0, 1))

    def step(self, x_t: Tensor, state: S4DState) -> tuple[Tensor, S4DState]:
        with torch.autocast(x_t.device.type, enabled=False):
            u = x_t.to(self.D.dtype)
            exponent, Bbar, C = self._discretise()
            x = torch.exp(exponent) * state.x + Bbar * u[..., None]
            y = F.gelu(2 * (C * x).real.sum(-1) + self.D * u)
        return F.glu(self.out_proj(y), dim=-1), S4DState(x)

    def _discretise(self) -> tuple[Tensor, Tensor, Tensor]:
        """dt A, Bbar and C, complex (d_model, d_state / 2); Abar is the exponential of the first."""
        A = torch.complex(-torch.exp(self.log_A_real), self.A_imag)
        exponent = torch.exp(self.log_dt)[:, None] * A
        return exponent, torch.expm1(exponent) / A, torch.view_as_complex(self.C)

    @staticmethod
    def _convolve(
        u: Tensor, exponent: Tensor, Bbar: Tensor, C: Tensor, state: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The SSM on u (d_model, batch, length) after `state` (d_model, batch, pairs): y like u, final state.

        The powers Abar^l of the Vandermonde matrix (section 3.3) are never stored: with l = i * width + j
        each is the product of one of sqrt(length) large and one of sqrt(length) small powers, which turns
        the sums against them into two matrix products.
        """
        length = u.shape[-1]
        width = math.isqrt(length - 1) + 1
        count = -(-length // width)
        positions = torch.arange(max(width, count), device=u.device, dtype=u.dtype)
        small = torch.exp(exponent[:, None] * positions[:width, None])  # (d_model, width, pairs)
        large = torch.exp(exponent[:, None] * (positions[:count, None] * width))  # (d_model, count, pairs)

        # Rows to expand in powers of Abar: the convolution's kernel and what each incoming state still says.
        rows = (C * Bbar)[:, None]
        if state is not None:
            rows = torch.cat([rows, C[:, None] * torch.exp(exponent)[:, None] * state], dim=1)
        factors = torch.view_as_real(rows[:, :, None] * large[:, None]).flatten(-2).flatten(1, 2)
        powers = torch.view_as_real(small.conj().resolve_conj()).flatten(-2)
        expanded = 2 * (factors @ powers.mT).unflatten(1, (-1, count)).flatten(2)[..., :length]
        kernel = expanded[:, :1]

        y = _Convolution.apply(u, kernel)
        if state is not None:
            y = y + expanded[:, 1:]

        # Sum of Abar^(length - 1 - t) Bbar u_t, the same powers backwards.
        blocks = F.pad(u, (count * width - length, 0)).unflatten(-1, (count, width))
        ends = blocks.flatten(1, 2) @ torch.view_as_real(small.flip(1)).flatten(-2)
        ends = torch.view_as_complex(ends.unflatten(-1, (-1, 2))).unflatten(1, (-1, count))
        final = Bbar[:, None] * (ends * large.flip(1)[:, None]).sum(2)
        if state is not None:
            final = final + torch.exp(exponent * length)[:, None] * state
        return y, final

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> S4DState:
        dtype = (dtype or self.D.dtype).to_complex()
        return S4DState(
            torch.zeros(batch, *self.log_A_real.shape, device=device or self.D.device, dtype=dtype)
        )

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.log_dt, self.log_A_real, self.A_imag]


class _Transpose(torch.autograd.Function):
    """The transpose of a matrix, contiguous, as is its gradient: mixed layouts slow down all that follows."""

    @staticmethod
    def forward(ctx: FunctionCtx, x: Tensor) -> Tensor:
        return x.t().contiguous()

    @staticmethod
    def backward(ctx: FunctionCtx, gradient: Tensor) -> Tensor:
        return gradient.t().contiguous()


class _Convolution(torch.autograd.Function):
    """Causal convolution of u (d_model, batch, length) with kernel (d_model, 1, length) by FFT.

    The gradients are convolutions by real transforms too; PyTorch's own would take complex ones of twice the
    work and keep padded copies.
    """

    @staticmethod
    def forward(ctx: FunctionCtx, u: Tensor, kernel: Tensor) -> Tensor:
        ctx.size = size = 2 ** (2 * u.shape[-1] - 1).bit_length()  # room for all lags: nothing wraps around
        ctx.save_for_backward(u, kernel)
        return torch.fft.irfft(torch.fft.rfft(u, n=size) * torch.fft.rfft(kernel, n=size), n=size)[
            ..., : u.shape[-1]
        ]

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, Tensor]:
        u, kernel = (torch.fft.rfft(tensor, n=ctx.size) for tensor in ctx.saved_tensors)
        length = gradient.shape[-1]
        gradient = torch.fft.rfft(gradient, n=ctx.size)
        du = torch.fft.irfft(gradient * kernel.conj(), n=ctx.size)[..., :length]
        shared = torch.linalg.vecdot(u, gradient, dim=1)[:, None]  # sum over the batch of conj(u) gradient
        return du, torch.fft.irfft(shared, n=ctx.size)[..., :length]
