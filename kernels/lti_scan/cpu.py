"""The time-invariant scan on the CPU: the recurrence itself, compiled by Numba.

An item of work is one vector of channels (64 in float32) of one sequence. Time goes in intervals; within one,
mode after mode walks through it with its coefficients and its state in registers. The backward pass starts
from the states before the intervals and walks through each twice, forth for the states and back for their
adjoints. The number of threads changes no bit of the results.

Rounding Abar to float32 would put every mode a little off its frequency, which a state that lives for
thousands of steps feels. So at the end of an interval the state gets what Abar^INTERVAL of the rounded Abar
left out: drift times the state at its beginning.
"""

import numpy as np
import torch
from torch import Tensor

from ssm_seq.kernels.cpu.arrays import as_array, compute_dtype, whole_vectors
from ssm_seq.kernels.cpu.lanes import BYTES, compiled, load, splat, store, width
from ssm_seq.kernels.cpu.threads import run
from ssm_seq.kernels.lti_scan.matrices import power

INTERVAL = 32


@compiled
def _forward(first, last, u, system, D, start, y, final, kept):
    _, length, channels = u.shape
    pairs = system.shape[1]
    lanes = width(u)
    blocks = channels // lanes
    x = np.empty((pairs, 2, lanes), u.dtype)
    out = np.empty((INTERVAL, lanes), u.dtype)
    for item in range(first, last):
        b, c = item // blocks, item % blocks * lanes
        skip = load(D, (c,))
        for n in range(pairs):
            store(x, (n, 0, 0), load(start, (b, n, 0, c)))
            store(x, (n, 1, 0), load(start, (b, n, 1, c)))
        for begin in range(0, length, INTERVAL):
            count = min(INTERVAL, length - begin)
            for i in range(count):
                store(out, (i, 0), skip * load(u, (b, begin + i, c)))
            for n in range(pairs):
                a_re, a_im = load(system, (0, n, c)), load(system, (1, n, c))
                b_re, b_im = load(system, (2, n, c)), load(system, (3, n, c))
                c_re, c_im = load(system, (4, n, c)), load(system, (5, n, c))
                x_re, x_im = load(x, (n, 0, 0)), load(x, (n, 1, 0))
                if kept.size > 0:
                    store(kept, (b, begin // INTERVAL, n, 0, c), x_re)
                    store(kept, (b, begin // INTERVAL, n, 1, c), x_im)
                for i in range(count):
                    value = load(u, (b, begin + i, c))
                    next_re = a_re * x_re - a_im * x_im + b_re * value
                    x_im = a_re * x_im + a_im * x_re + b_im * value
                    x_re = next_re
                    store(out, (i, 0), load(out, (i, 0)) + c_re * x_re + c_im * x_im)
                if count == INTERVAL:
                    d_re, d_im = load(system, (6, n, c)), load(system, (7, n, c))
                    e_re, e_im = load(x, (n, 0, 0)), load(x, (n, 1, 0))
                    x_re = x_re + d_re * e_re - d_im * e_im
                    x_im = x_im + d_re * e_im + d_im * e_re
                store(x, (n, 0, 0), x_re)
                store(x, (n, 1, 0), x_im)
            for i in range(count):
                store(y, (b, begin + i, c), load(out, (i, 0)))
        for n in range(pairs):
            store(final, (b, n, 0, c), load(x, (n, 0, 0)))
            store(final, (b, n, 1, c), load(x, (n, 1, 0)))


@compiled
def _backward(first, last, u, system, D, kept, dy, dfinal, du, sums, dD, dstart):
    """sums: of the adjoint times the conjugate state before, the adjoint times u, and the state times dy,
    real and imaginary parts, one slice a sequence, for the caller to add up; they come as zeros."""
    _, length, channels = u.shape
    pairs = system.shape[1]
    lanes = width(u)
    blocks = channels // lanes
    nothing = splat(u.dtype.type(0))
    x = np.empty((INTERVAL + 1, 2, lanes), u.dtype)
    g = np.empty((pairs, 2, lanes), u.dtype)
    out = np.empty((INTERVAL, lanes), u.dtype)
    for item in range(first, last):
        b, c = item // blocks, item % blocks * lanes
        skip, dD_sum = load(D, (c,)), nothing
        for n in range(pairs):
            store(g, (n, 0, 0), load(dfinal, (b, n, 0, c)))
            store(g, (n, 1, 0), load(dfinal, (b, n, 1, c)))
        for begin in range((length - 1) // INTERVAL * INTERVAL, -1, -INTERVAL):
            count = min(INTERVAL, length - begin)
            dD_part = nothing
            for i in range(count):
                grad = load(dy, (b, begin + i, c))
                store(out, (i, 0), skip * grad)
                dD_part = dD_part + grad * load(u, (b, begin + i, c))
            dD_sum = dD_sum + dD_part
            for n in range(pairs):
                a_re, a_im = load(system, (0, n, c)), load(system, (1, n, c))
                b_re, b_im = load(system, (2, n, c)), load(system, (3, n, c))
                c_re, c_im = load(system, (4, n, c)), load(system, (5, n, c))
                x_re = load(kept, (b, begin // INTERVAL, n, 0, c))
                x_im = load(kept, (b, begin // INTERVAL, n, 1, c))
                store(x, (0, 0, 0), x_re)
                store(x, (0, 1, 0), x_im)
                for i in range(count):
                    value = load(u, (b, begin + i, c))
                    next_re = a_re * x_re - a_im * x_im + b_re * value
                    x_im = a_re * x_im + a_im * x_re + b_im * value
                    x_re = next_re
                    store(x, (i + 1, 0, 0), x_re)
                    store(x, (i + 1, 1, 0), x_im)
                g_re, g_im = load(g, (n, 0, 0)), load(g, (n, 1, 0))
                p_re, p_im, q_re, q_im, r_re, r_im = nothing, nothing, nothing, nothing, nothing, nothing
                for i in range(count - 1, -1, -1):
                    grad, value = load(dy, (b, begin + i, c)), load(u, (b, begin + i, c))
                    r_re = r_re + grad * load(x, (i + 1, 0, 0))
                    r_im = r_im + grad * load(x, (i + 1, 1, 0))
                    g_re = g_re + c_re * grad
                    g_im = g_im + c_im * grad
                    store(out, (i, 0), load(out, (i, 0)) + b_re * g_re + b_im * g_im)
                    q_re = q_re + g_re * value
                    q_im = q_im + g_im * value
                    x_re, x_im = load(x, (i, 0, 0)), load(x, (i, 1, 0))
                    p_re = p_re + g_re * x_re + g_im * x_im
                    p_im = p_im + g_im * x_re - g_re * x_im
                    next_re = a_re * g_re + a_im * g_im
                    g_im = a_re * g_im - a_im * g_re
                    g_re = next_re
                if count == INTERVAL:
                    d_re, d_im = load(system, (6, n, c)), load(system, (7, n, c))
                    e_re, e_im = load(g, (n, 0, 0)), load(g, (n, 1, 0))
                    g_re = g_re + d_re * e_re + d_im * e_im
                    g_im = g_im + d_re * e_im - d_im * e_re
                store(g, (n, 0, 0), g_re)
                store(g, (n, 1, 0), g_im)
                store(sums, (b, 0, n, c), load(sums, (b, 0, n, c)) + p_re)
                store(sums, (b, 1, n, c), load(sums, (b, 1, n, c)) + p_im)
                store(sums, (b, 2, n, c), load(sums, (b, 2, n, c)) + q_re)
                store(sums, (b, 3, n, c), load(sums, (b, 3, n, c)) + q_im)
                store(sums, (b, 4, n, c), load(sums, (b, 4, n, c)) + r_re)
                store(sums, (b, 5, n, c), load(sums, (b, 5, n, c)) + r_im)
            for i in range(count):
                store(du, (b, begin + i, c), load(out, (i, 0)))
        store(dD, (b, c), dD_sum)
        for n in range(pairs):
            store(dstart, (b, n, 0, c), load(g, (n, 0, 0)))
            store(dstart, (b, n, 1, c), load(g, (n, 1, 0)))


def kept(u: Tensor, exponent: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of the states that the forward pass keeps for the backward pass."""
    (batch, length, channels), dtype = u.shape, compute_dtype(u)
    intervals = -(-length // INTERVAL)
    return (batch, intervals, exponent.shape[1], 2, whole_vectors(channels, dtype)), dtype


def forward(
    u: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the kept states (empty unless `keep`)."""
    inputs = _Arrays(u, exponent, B, C, D)
    y, final = inputs.empty(*u.shape[:2]), inputs.empty(len(u), exponent.shape[1], 2)
    shape, dtype = kept(u, exponent)
    states = torch.empty(shape if keep else (0,) * len(shape), dtype=dtype)
    outputs = (y.numpy(), final.numpy(), states.numpy())
    run(_forward, inputs.items, *inputs.arrays, inputs.state(initial_state), *outputs)
    return inputs.gather(y).to(u.dtype), inputs.gather_state(final), states


def backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    kept: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of u, exponent, B, C, D and the initial state, in the compute dtype."""
    inputs = _Arrays(u, exponent, B, C, D)
    batch, pairs = len(u), exponent.shape[1]
    du, dD, dstart = inputs.empty(*u.shape[:2]), inputs.empty(batch), inputs.empty(batch, pairs, 2)
    sums = inputs.empty(batch, 6, pairs).zero_()
    given = (kept.numpy(), inputs.spread(dy), inputs.state(dfinal))
    run(_backward, inputs.items, *inputs.arrays, *given, *(t.numpy() for t in (du, sums, dD, dstart)))
    total = inputs.gather(sums.sum(0)).unflatten(0, (3, 2)).permute(0, 3, 2, 1).contiguous()
    across, dB, dC = torch.view_as_complex(total)
    dexponent = inputs.Abar.conj_physical() * across
    return (
        inputs.gather(du),
        dexponent,
        dB,
        2 * dC.conj_physical(),
        inputs.gather(dD.sum(0)),
        inputs.gather_state(dstart),
    )


class _Arrays:
    """The inputs that both passes share, as the kernels take them: channels filled up to whole vectors."""

    def __init__(self, u: Tensor, exponent: Tensor, B: Tensor, C: Tensor, D: Tensor | None) -> None:
        self.dtype, self.channels = compute_dtype(u), u.shape[2]
        self.full = whole_vectors(self.channels, self.dtype)
        self.items = len(u) * self.full * self.dtype.itemsize // BYTES
        self.Abar = power(exponent, 1).to(torch.promote_types(self.dtype, torch.complex64))
        drift = power(exponent, INTERVAL) - self.Abar.to(torch.complex128) ** INTERVAL
        parts = [part for z in (self.Abar, B, C, drift) for part in (z.real, z.imag)]
        parts[4:6] = 2 * C.real, -2 * C.imag  # of 2 Re(C x), and of its gradient by x
        system = torch.stack([part.t().to(self.dtype) for part in parts])
        skip = torch.zeros(self.channels) if D is None else D
        self.arrays = (self.spread(u), self.spread(system), self.spread(skip))

    def spread(self, tensor: Tensor) -> np.ndarray:
        return as_array(tensor, self.dtype, self.full)

    def state(self, state: Tensor | None) -> np.ndarray:
        """(batch, pairs, 2, channels) of a complex state, zeros if None."""
        if state is None:
            batch, pairs = self.arrays[0].shape[0], self.arrays[1].shape[1]
            return np.zeros((batch, pairs, 2, self.full), self.arrays[0].dtype)
        return self.spread(torch.view_as_real(state).permute(0, 2, 3, 1))

    def empty(self, *shape: int) -> Tensor:
        return torch.empty((*shape, self.full), dtype=self.dtype)

    def gather(self, tensor: Tensor) -> Tensor:
        return tensor[..., : self.channels].contiguous()

    def gather_state(self, state: Tensor) -> Tensor:
        return torch.view_as_complex(self.gather(state).permute(0, 3, 1, 2).contiguous())
