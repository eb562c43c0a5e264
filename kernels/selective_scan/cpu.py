"""The selective scan on the CPU, compiled by Numba.

An item of work is one vector of channels (64 in float32) of one sequence: it walks through time with its
states in the first-level cache. The backward pass needs the states at every `INTERVAL`th step only: it
recomputes an interval's states and decays into a buffer, then walks back over it. The number of threads
changes no bit of the results.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ssm_seq.kernels.cpu.arrays import as_array, compute_dtype, or_zeros, whole_vectors
from ssm_seq.kernels.cpu.lanes import (
    BYTES,
    compiled,
    exp2,
    load,
    sigmoid,
    softplus,
    splat,
    store,
    total,
    width,
)
from ssm_seq.kernels.cpu.threads import run

INTERVAL = 32
_LOG2_E = 1 / math.log(2)


@compiled
def _forward(first, last, u, delta, A2, B, C, D, z, bias, use_softplus, start, y, final, kept):
    _, length, channels = u.shape
    d_state = A2.shape[0]
    lanes = width(u)
    blocks = channels // lanes
    x = np.empty((d_state, lanes), u.dtype)
    for item in range(first, last):
        b, c = item // blocks, item % blocks * lanes
        for n in range(d_state):
            store(x, (n, 0), load(start, (b, n, c)))
        for t in range(length):
            if t % INTERVAL == 0 and kept.size > 0:
                for n in range(d_state):
                    store(kept, (b, t // INTERVAL, n, c), load(x, (n, 0)))
            step = load(delta, (b, t, c)) + load(bias, (c,))
            if use_softplus:
                step = softplus(step)
            value = load(u, (b, t, c))
            scaled = step * value
            out = load(D, (c,)) * value
            for n in range(d_state):
                state = exp2(step * load(A2, (n, c))) * load(x, (n, 0)) + scaled * splat(B[b, t, n])
                store(x, (n, 0), state)
                out = out + state * splat(C[b, t, n])
            if z.size > 0:
                gate = load(z, (b, t, c))
                out = out * (gate * sigmoid(gate))
            store(y, (b, t, c), out)
        for n in range(d_state):
            store(final, (b, n, c), load(x, (n, 0)))


@compiled
def _backward(
    first, last, u, delta, A2, B, C, D, z, bias, use_softplus, kept, dy, dfinal,
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstart,
):  # fmt: skip
    """dA, dD, dbias: one slice a sequence; dB, dC: one slice a block of channels. The caller adds them up."""
    _, length, channels = u.shape
    d_state = A2.shape[0]
    lanes = width(u)
    blocks = channels // lanes
    number = u.dtype.type
    one, ln2 = splat(number(1)), splat(number(math.log(2)))
    nothing = splat(number(0))
    x = np.empty((INTERVAL + 1, d_state, lanes), u.dtype)
    decays = np.empty((INTERVAL, d_state, lanes), u.dtype)
    steps = np.empty((INTERVAL, lanes), u.dtype)
    outs = np.empty((INTERVAL, lanes), u.dtype)
    g = np.empty((d_state, lanes), u.dtype)
    dA_part = np.empty((d_state, lanes), u.dtype)
    for item in range(first, last):
        b, block = item // blocks, item % blocks
        c = block * lanes
        skip, offset = load(D, (c,)), load(bias, (c,))
        dD_sum, dbias_sum = nothing, nothing
        for n in range(d_state):
            store(g, (n, 0), load(dfinal, (b, n, c)))
            store(dA, (b, n, c), nothing)
        for interval in range((length - 1) // INTERVAL, -1, -1):
            t0 = interval * INTERVAL
            count = min(INTERVAL, length - t0)
            for n in range(d_state):
                store(x, (0, n, 0), load(kept, (b, interval, n, c)))
                store(dA_part, (n, 0), nothing)
            for i in range(count):
                step = load(delta, (b, t0 + i, c)) + offset
                if use_softplus:
                    step = softplus(step)
                store(steps, (i, 0), step)
                value = load(u, (b, t0 + i, c))
                scaled = step * value
                out = skip * value
                for n in range(d_state):
                    decay = exp2(step * load(A2, (n, c)))
                    store(decays, (i, n, 0), decay)
                    state = decay * load(x, (i, n, 0)) + scaled * splat(B[b, t0 + i, n])
                    store(x, (i + 1, n, 0), state)
                    out = out + state * splat(C[b, t0 + i, n])
                store(outs, (i, 0), out)
            dD_part, dbias_part = nothing, nothing
            for i in range(count - 1, -1, -1):
                t = t0 + i
                grad = load(dy, (b, t, c))
                if z.size > 0:
                    gate = load(z, (b, t, c))
                    open_ = sigmoid(gate)
                    store(dz, (b, t, c), grad * load(outs, (i, 0)) * open_ * (one + gate * (one - open_)))
                    grad = grad * (gate * open_)
                step, value = load(steps, (i, 0)), load(u, (b, t, c))
                scaled = step * value
                dscaled, dexponent = nothing, nothing
                for n in range(d_state):
                    carried = load(g, (n, 0)) + grad * splat(C[b, t, n])
                    dC[block, b, t, n] = total(grad * load(x, (i + 1, n, 0)))
                    dB[block, b, t, n] = total(carried * scaled)
                    dscaled = dscaled + carried * splat(B[b, t, n])
                    carried = carried * load(decays, (i, n, 0))
                    store(g, (n, 0), carried)
                    change = carried * load(x, (i, n, 0))
                    dexponent = dexponent + change * load(A2, (n, c))
                    store(dA_part, (n, 0), load(dA_part, (n, 0)) + change * step)
                store(du, (b, t, c), dscaled * step + grad * skip)
                dstep = dscaled * value + dexponent * ln2
                if use_softplus:
                    dstep = dstep * sigmoid(load(delta, (b, t, c)) + offset)
                store(ddelta, (b, t, c), dstep)
                dD_part = dD_part + grad * value
                dbias_part = dbias_part + dstep
            dD_sum, dbias_sum = dD_sum + dD_part, dbias_sum + dbias_part
            for n in range(d_state):
                store(dA, (b, n, c), load(dA, (b, n, c)) + load(dA_part, (n, 0)))
        store(dD, (b, c), dD_sum)
        store(dbias, (b, c), dbias_sum)
        for n in range(d_state):
            store(dstart, (b, n, c), load(g, (n, 0)))


def kept_dtype(u: Tensor) -> torch.dtype:
    return compute_dtype(u)


def kept_shape(u: Tensor, A: Tensor) -> tuple[int, ...]:
    """Shape of the states that the forward pass keeps for the backward pass."""
    batch, length, channels = u.shape
    return batch, -(-length // INTERVAL), A.shape[1], whole_vectors(channels, compute_dtype(u))


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
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the kept states (empty unless `keep`)."""
    inputs = _Arrays(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    batch, length, channels = u.shape
    start = or_zeros(initial_state, (batch, channels, A.shape[1]), inputs.dtype).transpose(1, 2)
    y = torch.empty(batch, length, inputs.channels, dtype=inputs.dtype)
    final = torch.empty(batch, A.shape[1], inputs.channels, dtype=inputs.dtype)
    kept = torch.empty(kept_shape(u, A) if keep else (0, 0, 0, 0), dtype=inputs.dtype)
    start_array = as_array(start, inputs.dtype, inputs.channels)
    run(_forward, inputs.items, *inputs.arrays, start_array, y.numpy(), final.numpy(), kept.numpy())
    final = final[..., :channels].transpose(1, 2).contiguous()
    return y[..., :channels].contiguous().to(u.dtype), final, kept


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
    kept: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, in the compute dtype."""
    inputs = _Arrays(u, delta, A, B, C, D, z, delta_bias, delta_softplus)
    batch, length, channels = u.shape
    d_state = A.shape[1]
    dfinal = or_zeros(dfinal, (batch, channels, d_state), inputs.dtype).transpose(1, 2)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=inputs.dtype)

    blocks = inputs.items // batch
    du, ddelta = (empty(batch, length, inputs.channels) for _ in range(2))
    dz = empty(batch, length, inputs.channels) if z is not None else empty(0, 0, 0)
    dA, dstart = (empty(batch, d_state, inputs.channels) for _ in range(2))
    dB, dC = (empty(blocks, batch, length, d_state) for _ in range(2))
    dD, dbias = (empty(batch, inputs.channels) for _ in range(2))
    gradients = (du, ddelta, dA, dB, dC, dD, dz, dbias, dstart)
    run(
        _backward,
        inputs.items,
        *inputs.arrays,
        kept.numpy(),
        as_array(dy, inputs.dtype, inputs.channels),
        as_array(dfinal, inputs.dtype, inputs.channels),
        *(gradient.numpy() for gradient in gradients),
    )
    return (
        du[..., :channels].contiguous(),
        ddelta[..., :channels].contiguous(),
        dA.sum(0)[:, :channels].t().contiguous(),
        dB.sum(0),
        dC.sum(0),
        dD.sum(0)[:channels],
        dz[..., :channels].contiguous(),
        dbias.sum(0)[:channels],
        dstart[..., :channels].transpose(1, 2).contiguous(),
    )


class _Arrays:
    """The inputs that both passes share, as the kernels take them."""

    def __init__(
        self,
        u: Tensor,
        delta: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        z: Tensor | None,
        delta_bias: Tensor | None,
        delta_softplus: bool,
    ) -> None:
        self.dtype = dtype = compute_dtype(u)
        batch, _, channels = u.shape
        self.channels = full = whole_vectors(channels, dtype)
        self.items = batch * full * dtype.itemsize // BYTES
        self.arrays = (
            as_array(u, dtype, full),
            as_array(delta, dtype, full),
            as_array((A.to(dtype) * _LOG2_E).t(), dtype, full),
            as_array(B, dtype),
            as_array(C, dtype),
            as_array(or_zeros(D, (channels,), dtype), dtype, full),
            as_array(or_zeros(z, (0, 0, 0), dtype), dtype, None if z is None else full),
            as_array(or_zeros(delta_bias, (channels,), dtype), dtype, full),
            delta_softplus,
        )
