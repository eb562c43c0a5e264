"""The small matrices that take a chunk of `size` positions at once, each channel for itself.

With the state x before a chunk and its inputs u_0 ... u_(size - 1),

    y_t   = sum over s <= t of lags[t - s] u_s + sum over n of Re(conj(out[n, t]) x_n)
    x'_n  = Abar_n^size x_n + sum over t of into[n, t] u_t

    lags[k] = 2 Re <C, Abar^k B> (+ D at k = 0)    into[n, t] = Abar_n^(size - 1 - t) B_n
                                                   out[n, t]  = 2 conj(C_n Abar_n^(t + 1))

They are made in float64, where the powers of Abar lose nothing to their phases, and rounded once.
Conjugates are physical: an operator that a compiled graph calls loses lazy ones.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


class Matrices:
    """lags: float32 (channels, size). into, out: complex64 (channels, pairs, size).

    powers: Abar^0 ... Abar^size, complex128 (channels, pairs, size + 1).
    """

    def __init__(self, exponent: Tensor, B: Tensor, C: Tensor, D: Tensor | None, size: int) -> None:
        self._B, self._C = B.to(torch.complex128), C.to(torch.complex128)
        self._steps = torch.arange(size + 1, device=exponent.device)
        self.powers = power(exponent[..., None], self._steps)
        into = self._B[..., None] * self.powers[..., :-1]  # backwards in time
        lags = 2 * torch.einsum("hn,hnt->ht", self._C, into).real
        if D is not None:
            lags[:, 0] += D
        out = 2 * (self._C[..., None] * self.powers[..., 1:]).conj_physical()
        self.lags, self.into = lags.float(), into.flip(-1).to(torch.complex64)
        self.out = out.to(torch.complex64)

    def gradients(self, dlags: Tensor, dinto: Tensor, dout: Tensor) -> tuple[Tensor, ...]:
        """Of exponent, B, C (complex128) and D, when those of the matrices are these."""
        powers = self.powers.conj_physical()
        # By B and C it is a sum over all powers, by the exponent one that counts how high each is.
        sums = torch.stack([torch.ones_like(self._steps), self._steps], dim=1).to(powers.dtype)
        lag, lag_counted = ((2 * dlags[:, None] * powers[..., :-1]) @ sums[:-1]).unbind(-1)
        into, into_counted = ((dinto.flip(-1) * powers[..., :-1]) @ sums[:-1]).unbind(-1)
        out, out_counted = ((2 * dout.conj_physical() * powers[..., 1:]) @ sums[1:]).unbind(-1)
        B, C = self._B.conj_physical(), self._C.conj_physical()
        dexponent = B * C * lag_counted + B * into_counted + C * out_counted
        return dexponent, into + C * lag, out + B * lag, dlags[:, 0]


def power(exponent: Tensor, steps: Tensor | int) -> Tensor:
    """Abar^steps, complex128."""
    exponent = exponent.to(torch.complex128)
    return torch.polar(torch.exp(exponent.real * steps), exponent.imag * steps)


def toeplitz(lags: Tensor) -> Tensor:
    """(channels, size, size) with lags[t - s] at [t, s], zero for t < s."""
    place = torch.arange(lags.shape[1], device=lags.device)
    distance = place[:, None] - place
    return lags[:, distance.clamp(min=0)].where(distance >= 0, 0.0)


def diagonal_sums(matrix: Tensor) -> Tensor:
    """(channels, size, size) -> (channels, size), the sums over all [s, s + lag]."""
    size = matrix.shape[1]
    # Rows of 2 size numbers read as rows of one more: the diagonals become columns.
    flat = F.pad(F.pad(matrix, (0, size)).flatten(1), (0, size))
    return flat.unflatten(1, (size, 2 * size + 1))[..., :size].sum(1)
