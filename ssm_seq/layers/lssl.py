"""LSSL: a dense state space in each channel (Gu, Johnson, Goel, Saab, Dao, Rudra & Ré 2021, "Combining
Recurrent, Convolutional, and Continuous-time Models with Linear State-Space Layers")."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssm_seq.layers.blocks import in_blocks
from ssm_seq.layers.time_invariant import TimeInvariantLayer, log_time_steps, wide
from ssm_seq.ssm import hippo
from ssm_seq.ssm.checks import check_size


class LSSLState(NamedTuple):
    """x: (batch, d_model, d_state), real."""

    x: Tensor


class LSSL(TimeInvariantLayer[LSSLState]):
    """x' = A x + B u and y = C x in each channel, discretised by the bilinear rule, A dense.

    A and B are the same in all channels, or `per_channel`; the time steps and C are each channel's own
    (section 3). A = K - K^T - W W^T: every A whose symmetric part has no positive eigenvalue can be written
    so, HiPPO-LegS among them, and none of them grows, whatever is learned. (The paper keeps its learned A
    tridiagonal up to scaling, for speed in theory; it does not keep it stable.)

    The convolution's kernel comes from the Krylov matrix [Bbar, Abar Bbar, Abar^2 Bbar, ...] up to the length
    of a block; between blocks, and in steps, the state is multiplied by a dense matrix.

    hippo_init: A and B of HiPPO-LegS; otherwise random ones of the same form.
    """

    recordable = False  # torch's solver of many systems waits for the GPU

    def __init__(
        self,
        d_model: int,
        d_state: int = 64,
        dt_min: float = 1e-3,
        dt_max: float = 1e-1,
        per_channel: bool = False,
        hippo_init: bool = True,
    ) -> None:
        super().__init__(d_model)
        check_size("d_state", d_state)
        if hippo_init:
            A, B = hippo("legs", d_state)
            W, K = torch.linalg.cholesky(-(A + A.mT) / 2), torch.tril(A - A.mT, -1) / 2
        else:
            W, K = torch.randn(2, d_state, d_state, dtype=torch.float64) / d_state**0.5
            B = torch.randn(d_state, 1, dtype=torch.float64)
        count = d_model if per_channel else 1
        self.W, self.K, self.B = (nn.Parameter(part.float().repeat(count, 1, 1)) for part in (W, K, B))
        self.C = nn.Parameter(torch.randn(d_model, d_state))
        self.log_dt = log_time_steps(d_model, dt_min, dt_max)

    def ssm(self, u: Tensor, state: LSSLState) -> tuple[Tensor, LSSLState]:
        y, x = in_blocks(u, *self._discretise(), self.C.double(), state.x)
        return y, LSSLState(x)

    def ssm_step(self, u: Tensor, state: LSSLState) -> tuple[Tensor, LSSLState]:
        Abar, Bbar = self._discretise()
        # Abar - 1, as in `diagonal_step`.
        change = (Abar - torch.eye(Abar.shape[-1], dtype=Abar.dtype, device=Abar.device)).to(u.dtype)
        x = state.x + ((change @ state.x[..., None])[..., 0] + Bbar.to(u.dtype) * u[..., None])
        return (wide(self.C) * x).sum(-1), LSSLState(x)

    def _discretise(self) -> tuple[Tensor, Tensor]:
        """(I - dt/2 A)^-1 (I + dt/2 A) and (I - dt/2 A)^-1 dt B, (d_model, N, N) and (d_model, N).

        In float64: HiPPO matrices are skewed, and what the inverse loses every later step would repeat.
        Without the checks of `ssm_seq.ssm.bilinear`, which find eigenvalues: this A is stable.
        """
        W, K, B, dt = (part.double() for part in (self.W, self.K, self.B, self.log_dt))
        A, dt = K - K.mT - W @ W.mT, torch.exp(dt)[:, None, None]
        identity = torch.eye(A.shape[-1], dtype=A.dtype, device=A.device)
        both = torch.cat([identity + dt / 2 * A, dt * B.expand(len(dt), -1, -1)], dim=-1)
        # The symmetric part of the left side is I and more: no error is possible, and none is waited for.
        both, _ = torch.linalg.solve_ex(identity - dt / 2 * A, both)
        return both[..., :-1], both[..., -1]

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> LSSLState:
        device, dtype = device or self.D.device, torch.promote_types(dtype or self.D.dtype, torch.float32)
        return LSSLState(torch.zeros(batch, *self.C.shape, device=device, dtype=dtype))

    def ssm_parameters(self) -> list[nn.Parameter]:
        return [self.log_dt, self.W, self.K, self.B]
