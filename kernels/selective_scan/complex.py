"""The selective scan with a complex A, in plain PyTorch on any device: chunk after chunk, each in log depth.

The states of one chunk are in memory while it is worked on. The backward pass recomputes them from the state
at the chunk's start and walks back with the adjoint recurrence. Gradients of complex tensors are those of
their conjugates, as everywhere in PyTorch. A reset is a decay of zero: infinities and NaN do not stop at it.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

CHUNK = 128


def kept_dtype(u: Tensor) -> torch.dtype:
    return torch.promote_types(u.dtype, torch.complex64)


def kept_shape(u: Tensor, A: Tensor) -> tuple[int, ...]:
    """Shape of the states that the forward pass keeps for the backward pass."""
    batch, length, _ = u.shape
    return -(-length // CHUNK), batch, A.shape[0], A.shape[1]


def forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the kept states (empty unless `keep`)."""
    walk = _Walk(u, delta, A, B, C, D, delta_bias, delta_softplus, resets, reverse)
    A = walk.A
    x = A.new_zeros(len(u), *A.shape) if initial_state is None else initial_state.to(A.dtype)
    y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
    kept = A.new_empty(kept_shape(u, A) if keep else (0, 0, 0, 0))
    for k, part in enumerate(walk.parts()):
        if keep:
            kept[k] = x
        states, out = walk.states(part, x)[-2:]
        if z is not None:
            out = out * F.silu(walk.read(z, part).to(out.dtype))
        walk.write(y, part, out)
        x = states[:, -1]
    return y, x.clone(), kept


def backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    resets: Tensor | None,
    reverse: bool,
    kept: Tensor,
    again: bool,
) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state; y once more if `again`."""
    walk = _Walk(u, delta, A, B, C, D, delta_bias, delta_softplus, resets, reverse)
    A, D = walk.A, walk.D
    real = D.dtype
    du, ddelta = (torch.empty(u.shape, dtype=real, device=u.device) for _ in range(2))
    dz, y = (torch.empty_like(du) if wanted else du.new_empty(0) for wanted in (z is not None, again))
    dA, dD, dbias = torch.zeros_like(A), torch.zeros_like(D), torch.zeros_like(D)
    dB, dC = (A.new_zeros(M.shape) for M in (B, C))
    carried = A.new_zeros(len(u), *A.shape) if dfinal is None else dfinal.to(A.dtype)
    for k, part in reversed(list(enumerate(walk.parts()))):
        raw, step, value, decay, B_part, C_part, states, out = walk.states(part, kept[k])
        before = torch.cat([kept[k][:, None], states[:, :-1]], dim=1)
        grad = walk.read(dy, part).to(real)
        if z is not None:
            gate = walk.read(z, part).to(real)
            open_ = torch.sigmoid(gate)
            walk.write(dz, part, grad * out * open_ * (1 + gate * (1 - open_)))
            grad, out = grad * gate * open_, out * gate * open_
        if again:
            walk.write(y, part, out)
        # The adjoint of x_t = decay_t x_(t-1) + ...: g_t = conj(decay_(t+1)) g_(t+1) + what y_t sends.
        sent = 2 * grad[..., None] * C_part.conj()
        g = _recurrence(decay[:, 1:].conj().flip(1), sent.flip(1), carried).flip(1)
        carried = decay[:, 0].conj() * g[:, 0]
        dexponent = g * (decay * before).conj()
        dscaled = (g * B_part.conj()).real.sum(-1)
        dstep = (dexponent * A.conj()).real.sum(-1) + dscaled * value
        if delta_softplus:
            dstep = dstep * torch.sigmoid(raw)
        walk.write(du, part, dscaled * step + grad * D)
        walk.write(ddelta, part, dstep)
        walk.collect(dB, part, g * (step * value)[..., None])
        walk.collect(dC, part, 2 * grad[..., None] * states.conj())
        dA += (dexponent * step[..., None]).sum((0, 1))
        dD += (grad * value).sum((0, 1))
        dbias += dstep.sum((0, 1))
    return du, ddelta, dA, dB, dC, dD, dz, dbias, carried, y.to(u.dtype)


class _Walk:
    """The inputs in chunks, each in walking order."""

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
        resets: Tensor | None,
        reverse: bool,
    ) -> None:
        self.real = torch.promote_types(u.dtype, torch.float32)
        self.u, self.delta, self.B, self.C, self.resets = u, delta, B, C, resets
        self.A = A.to(kept_dtype(u))
        self.length, self.channels = u.shape[1:]
        zeros = u.new_zeros(self.channels, dtype=self.real)
        self.D, self.bias = (zeros if v is None else v.to(self.real) for v in (D, delta_bias))
        self.softplus, self.reverse = delta_softplus, reverse

    def parts(self) -> Iterator[slice]:
        for walked in range(0, self.length, CHUNK):
            end = min(walked + CHUNK, self.length)
            yield slice(self.length - end, self.length - walked) if self.reverse else slice(walked, end)

    def read(self, sequence: Tensor, part: slice) -> Tensor:
        return sequence[:, part].flip(1) if self.reverse else sequence[:, part]

    def write(self, sequence: Tensor, part: slice, values: Tensor) -> None:
        sequence[:, part] = values.flip(1) if self.reverse else values

    def matrix(self, matrix: Tensor, part: slice) -> Tensor:
        """B or C of the part; broadcasts to (batch, steps, channels, d_state)."""
        if matrix.dim() == 4:
            matrix = self.read(matrix, part).repeat_interleave(self.channels // matrix.shape[2], dim=2)
        return matrix.to(torch.promote_types(matrix.dtype, self.real))

    def collect(self, gradient: Tensor, part: slice, values: Tensor) -> None:
        """Add to B's or C's gradient, in its own form, the part's (batch, steps, channels, d_state)."""
        if gradient.dim() == 2:
            gradient += values.sum((0, 1))
        else:
            self.write(gradient, part, values.unflatten(2, (gradient.shape[2], -1)).sum(3))

    def states(self, part: slice, x: Tensor) -> tuple[Tensor, ...]:
        """delta with its bias, step, u, decay, B, C, the states from x on, and y before its gate."""
        raw = self.read(self.delta, part).to(self.real) + self.bias
        step = F.softplus(raw) if self.softplus else raw
        value = self.read(self.u, part).to(self.real)
        decay = torch.exp(step[..., None] * self.A)
        if self.resets is not None:
            decay = decay.masked_fill(self.read(self.resets, part)[..., None, None], 0)
        B, C = self.matrix(self.B, part), self.matrix(self.C, part)
        states = _recurrence(decay[:, 1:], (step * value)[..., None] * B, decay[:, 0] * x)
        out = 2 * (C * states).sum(-1).real + self.D * value
        return raw, step, value, decay, B, C, states, out


def _recurrence(decay: Tensor, added: Tensor, first: Tensor) -> Tensor:
    """x_0 = added_0 + first, x_t = decay_t x_(t-1) + added_t along axis 1. `decay` begins at t = 1.

    By doubling (Hillis & Steele 1986): after each round position t holds the sum over twice as many steps
    that end there, and their decay.
    """
    x = torch.cat([added[:, :1] + first[:, None], added[:, 1:]], dim=1)
    decay = torch.cat([torch.zeros_like(added[:, :1], dtype=decay.dtype), decay], dim=1)
    reach = 1
    while reach < x.shape[1]:
        x = torch.cat([x[:, :reach], x[:, reach:] + decay[:, reach:] * x[:, :-reach]], dim=1)
        decay = torch.cat([decay[:, :reach], decay[:, reach:] * decay[:, :-reach]], dim=1)
        reach *= 2
    return x
