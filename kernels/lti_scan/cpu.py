"""The scan by the matrices of `matrices.py` in PyTorch's matrix products, for any device and precision.

Channels come first inside, so that each channel's chunks are the rows of one product. The states before all
chunks of one segment are in memory while it is worked on; the backward pass makes them again from the
segment's first.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ssm_seq.kernels.lti_scan.matrices import diagonal_sums, power, toeplitz

CHUNK = 64  # positions that one row of the products takes
SEGMENT = 64  # chunks worked on at once


def kept_shape(u: Tensor, exponent: Tensor) -> tuple[int, ...]:
    """Shape of the states that the forward pass keeps for the backward pass: before each segment."""
    batch, length, channels = u.shape
    return -(-length // (CHUNK * SEGMENT)), channels, batch, exponent.shape[1]


def forward(
    u: Tensor, exponent: Tensor, lags: Tensor, into: Tensor, out: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state and the kept states."""
    walk = _Walk(u, exponent, lags, into, out)
    x = walk.channels_first(initial_state)
    rows, y = walk.rows(u), torch.empty_like(walk.rows(u))
    kept = x.new_empty(kept_shape(u, exponent))
    for k, part in enumerate(walk.segments()):
        kept[k] = x
        values = rows[:, :, part].flatten(1, 2)
        states, x = walk.states(values, x, k == len(kept) - 1)
        y[:, :, part] = torch.baddbmm(values @ walk.within, _real(states), walk.out).unflatten(
            1, (len(u), -1)
        )
    return walk.back(y, u.dtype), x.transpose(0, 1).contiguous(), kept


def backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    exponent: Tensor,
    lags: Tensor,
    into: Tensor,
    out: Tensor,
    kept: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of u, exponent, lags, into, out and the initial state.

    That of the exponent is what it does between chunks; within them the matrices carry it.
    """
    walk = _Walk(u, exponent, lags, into, out)
    batch, T, tail = len(u), walk.size, walk.tail
    carry = walk.channels_first(dfinal)
    rows, sent = walk.rows(u), walk.rows(dy)
    du = torch.empty_like(rows)
    dwithin, dinto, dout = (torch.zeros_like(matrix) for matrix in (walk.within, walk.into, walk.out))
    dexponent = torch.zeros_like(walk.decay[:, 0])
    for k, part in reversed(list(enumerate(walk.segments()))):
        values, gradient = rows[:, :, part].flatten(1, 2), sent[:, :, part].flatten(1, 2)
        states, _ = walk.states(values, kept[k], last=False)
        local = _complex(gradient @ walk.out.mT).unflatten(1, (batch, -1))
        entering, leaving = carry, None
        if k == len(kept) - 1 and tail < T:
            # The last chunk ends early: what comes back from the final state meets its own powers.
            leaving, entering = carry, torch.zeros_like(carry)
            local[:, :, -1] += walk.last.conj() * leaving
            final = walk.last * states.unflatten(1, (batch, -1))[:, :, -1]
            dexponent += tail * (leaving * final.conj()).sum(1)
        adjoints, carry = _scan(local.flip(2), walk.decay.conj(), entering)
        adjoints = adjoints.flip(2).flatten(1, 2)
        dexponent += T * (adjoints * (walk.decay * states).conj()).sum(1)
        flat = _real(adjoints)
        d = torch.baddbmm(gradient @ walk.within.mT, flat, walk.into.mT).unflatten(1, (batch, -1))
        dwithin.baddbmm_(values.mT, gradient)
        dinto.baddbmm_(values.mT, flat)
        dout.baddbmm_(_real(states).mT, gradient)
        if leaving is not None:
            flat, end = _real(leaving), rows[:, :, -1, :tail]
            d[:, :, -1, :tail] += flat @ walk.into[:, T - tail :].mT
            dinto[:, T - tail :].baddbmm_(end.mT, flat)
        du[:, :, part] = d
    dlags = diagonal_sums(dwithin)
    dinto = torch.view_as_complex(dinto.unflatten(2, (-1, 2)).transpose(1, 2).contiguous())
    dout = torch.view_as_complex(dout.unflatten(1, (-1, 2)).transpose(2, 3).contiguous())
    return walk.back(du, u.dtype), dexponent, dlags, dinto, dout, carry.transpose(0, 1).contiguous()


class _Walk:
    """The matrices for rows of chunks, real numbers in pairs; which chunks make up the segments."""

    def __init__(self, u: Tensor, exponent: Tensor, lags: Tensor, into: Tensor, out: Tensor) -> None:
        self.shape, self.size, self.dtype = u.shape, lags.shape[1], lags.dtype
        self.chunks = -(-u.shape[1] // self.size)
        self.tail = u.shape[1] - (self.chunks - 1) * self.size  # positions of the last chunk
        self.within = toeplitz(lags)
        self.into = torch.view_as_real(into).transpose(1, 2).flatten(2)  # (channels, size, 2 pairs)
        self.out = torch.view_as_real(out).transpose(2, 3).flatten(1, 2)  # (channels, 2 pairs, size)
        self.decay, self.last = (
            power(exponent, steps)[:, None].to(into.dtype) for steps in (self.size, self.tail)
        )

    def segments(self) -> Iterator[slice]:
        for first in range(0, self.chunks, SEGMENT):
            yield slice(first, min(first + SEGMENT, self.chunks))

    def rows(self, u: Tensor) -> Tensor:
        """(channels, batch, chunks, size) of a sequence, filled up with zeros."""
        batch, length, channels = u.shape
        missing = self.chunks * self.size - length
        rows = u.new_zeros((channels, batch, length + missing), dtype=self.dtype)
        rows[..., :length] = u.permute(2, 0, 1)
        return rows.unflatten(2, (-1, self.size))

    def back(self, rows: Tensor, dtype: torch.dtype) -> Tensor:
        """The sequence of `rows`."""
        return rows.flatten(2)[..., : self.shape[1]].permute(1, 2, 0).to(dtype).contiguous()

    def channels_first(self, state: Tensor | None) -> Tensor:
        """(channels, batch, pairs) of a state, zeros if None."""
        if state is None:
            shape = (self.shape[2], self.shape[0], self.decay.shape[2])
            return torch.zeros(shape, dtype=self.decay.dtype, device=self.decay.device)
        return state.transpose(0, 1).to(self.decay.dtype)

    def states(self, values: Tensor, x: Tensor, last: bool) -> tuple[Tensor, Tensor]:
        """The states before the chunks of one segment, (channels, batch * chunks, pairs), and after them.

        x: before the first. last: the segment is the last one, whose last chunk may end early.
        """
        ends = _complex(values @ self.into).unflatten(1, (self.shape[0], -1))
        states, after = _scan(ends, self.decay, x)
        if last and self.tail < self.size:
            end = values.unflatten(1, ends.shape[1:3])[:, :, -1, : self.tail]
            after = self.last * states[:, :, -1] + _complex(end @ self.into[:, self.size - self.tail :])
        return states.flatten(1, 2), after


def _scan(ends: Tensor, decay: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """x before each of the steps x = decay x + ends[:, :, step], and after the last."""
    states = torch.empty_like(ends)
    for step in range(ends.shape[2]):
        states[:, :, step] = x
        x = torch.addcmul(ends[:, :, step], decay, x)
    return states, x


def _real(x: Tensor) -> Tensor:
    return torch.view_as_real(x).flatten(-2)


def _complex(x: Tensor) -> Tensor:
    return torch.view_as_complex(x.unflatten(-1, (-1, 2)))
