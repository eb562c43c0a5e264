"""The selective scan on the CPU, compiled by Numba.

An item of work is one vector of channels (64 in float32) of one sequence: it walks through time with its
states in the first-level cache. Channels of different groups share no vector: each group is filled up to
whole ones. The backward pass needs the states at every `INTERVAL`th step only: it
recomputes an interval's states and decays into a buffer, then walks back over it. The number of threads
changes no bit of the results.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
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
    width,
)
from ssm_seq.kernels.cpu.threads import run
from ssm_seq.kernels.selective_scan.cpu_matrices import collect, deliver, lanes_of, place

INTERVAL = 32
_LOG2_E = 1 / math.log(2)


@compiled
def _forward(
    first, last, u, delta, A2, B, C, D, z, bias, use_softplus, resets, reverse, start, y, final, kept
):  # fmt: skip
    _, length, channels = u.shape
    d_state = A2.shape[0]
    lanes = width(u)
    blocks = channels // lanes
    nothing = splat(u.dtype.type(0))
    x = np.empty((d_state, lanes), u.dtype)
    for item in range(first, last):
        b, block = item // blocks, item % blocks
        c = block * lanes
        in_B, in_C = place(B, block, blocks), place(C, block, blocks)
        for n in range(d_state):
            store(x, (n, 0), load(start, (b, n, c)))
        for walked in range(length):
            t = length - 1 - walked if reverse else walked
            if walked % INTERVAL == 0 and kept.size > 0:
                for n in range(d_state):
                    store(kept, (b, walked // INTERVAL, n, c), load(x, (n, 0)))
            if resets.size > 0 and resets[b, t]:
                for n in range(d_state):
                    store(x, (n, 0), nothing)
            step = load(delta, (b, t, c)) + load(bias, (c,))
            if use_softplus:
                step = softplus(step)
            value = load(u, (b, t, c))
            scaled = step * value
            out = load(D, (c,)) * value
            for n in range(d_state):
                decay = exp2(step * load(A2, (n, c)))
                state = decay * load(x, (n, 0)) + scaled * lanes_of(B, b, t, in_B, n)
                store(x, (n, 0), state)
                out = out + state * lanes_of(C, b, t, in_C, n)
            if z.size > 0:
                gate = load(z, (b, t, c))
                out = out * (gate * sigmoid(gate))
            store(y, (b, t, c), out)
        for n in range(d_state):
            store(final, (b, n, c), load(x, (n, 0)))


@compiled
def _backward(
    first, last, u, delta, A2, B, C, D, z, bias, use_softplus, resets, reverse, kept, dy, dfinal,
    du, ddelta, dA, dB, dC, dD, dz, dbias, dstart, y,
):  # fmt: skip
    """dA, dD, dbias: one slice a sequence, for the caller to add up. dA, dB and dC come as zeros where they
    are sums over time. y: the outputs once more, unless it is empty."""
    _, length, channels = u.shape
    d_state = A2.shape[0]
    lanes = width(u)
    blocks = channels // lanes
    number = u.dtype.type
    one, ln2 = splat(number(1)), splat(number(math.log(2)))
    nothing = splat(number(0))
    zeros = INTERVAL + 1  # the row of x that a sequence begins with
    x = np.zeros((INTERVAL + 2, d_state, lanes), u.dtype)
    decays = np.empty((INTERVAL, d_state, lanes), u.dtype)
    steps = np.empty((INTERVAL, lanes), u.dtype)
    outs = np.empty((INTERVAL, lanes), u.dtype)
    g = np.empty((d_state, lanes), u.dtype)
    parts = np.zeros((3, d_state, lanes), u.dtype)
    dA_part, dB_part, dC_part = parts[0], parts[1], parts[2]
    for item in range(first, last):
        b, block = item // blocks, item % blocks
        c = block * lanes
        in_B, in_C = place(B, block, blocks), place(C, block, blocks)
        skip, offset = load(D, (c,)), load(bias, (c,))
        dD_sum, dbias_sum = nothing, nothing
        for n in range(d_state):
            store(g, (n, 0), load(dfinal, (b, n, c)))
        for interval in range((length - 1) // INTERVAL, -1, -1):
            walked = interval * INTERVAL
            count = min(INTERVAL, length - walked)
            for n in range(d_state):
                store(x, (0, n, 0), load(kept, (b, interval, n, c)))
            for i in range(count):
                t = length - 1 - walked - i if reverse else walked + i
                before = zeros if resets.size > 0 and resets[b, t] else i
                step = load(delta, (b, t, c)) + offset
                if use_softplus:
                    step = softplus(step)
                store(steps, (i, 0), step)
                value = load(u, (b, t, c))
                scaled = step * value
                out = skip * value
                for n in range(d_state):
                    decay = exp2(step * load(A2, (n, c)))
                    store(decays, (i, n, 0), decay)
                    state = decay * load(x, (before, n, 0)) + scaled * lanes_of(B, b, t, in_B, n)
                    store(x, (i + 1, n, 0), state)
                    out = out + state * lanes_of(C, b, t, in_C, n)
                store(outs, (i, 0), out)
            dD_part, dbias_part = nothing, nothing
            for i in range(count - 1, -1, -1):
                t = length - 1 - walked - i if reverse else walked + i
                begins = resets.size > 0 and resets[b, t]
                before = zeros if begins else i
                grad, out = load(dy, (b, t, c)), load(outs, (i, 0))
                if z.size > 0:
                    gate = load(z, (b, t, c))
                    open_ = sigmoid(gate)
                    store(dz, (b, t, c), grad * out * open_ * (one + gate * (one - open_)))
                    grad = grad * (gate * open_)
                    if y.size > 0:
                        store(y, (b, t, c), out * (gate * open_))
                elif y.size > 0:
                    store(y, (b, t, c), out)
                step, value = load(steps, (i, 0)), load(u, (b, t, c))
                scaled = step * value
                dscaled, dexponent = nothing, nothing
                for n in range(d_state):
                    carried = load(g, (n, 0)) + grad * lanes_of(C, b, t, in_C, n)
                    collect(dC, dC_part, block, b, t, n, grad * load(x, (i + 1, n, 0)))
                    collect(dB, dB_part, block, b, t, n, carried * scaled)
                    dscaled = dscaled + carried * lanes_of(B, b, t, in_B, n)
                    carried = carried * load(decays, (i, n, 0))
                    store(g, (n, 0), carried)
                    change = carried * load(x, (before, n, 0))
                    dexponent = dexponent + change * load(A2, (n, c))
                    store(dA_part, (n, 0), load(dA_part, (n, 0)) + change * step)
                if begins:
                    for n in range(d_state):
                        store(g, (n, 0), nothing)
                store(du, (b, t, c), dscaled * step + grad * skip)
                dstep = dscaled * value + dexponent * ln2
                if use_softplus:
                    dstep = dstep * sigmoid(load(delta, (b, t, c)) + offset)
                store(ddelta, (b, t, c), dstep)
                dD_part = dD_part + grad * value
                dbias_part = dbias_part + dstep
            dD_sum, dbias_sum = dD_sum + dD_part, dbias_sum + dbias_part
            deliver(dA, dA_part, b, c)
            deliver(dB, dB_part, b, c)
            deliver(dC, dC_part, b, c)
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
    resets: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the kept states (empty unless `keep`)."""
    inputs = _Arrays(u, delta, A, B, C, D, z, delta_bias, delta_softplus, resets, reverse)
    batch, length, channels = u.shape
    d_state, full = A.shape[1], inputs.channels
    start = or_zeros(initial_state, (batch, channels, d_state), inputs.dtype).transpose(1, 2)
    y = torch.empty(batch, length, full, dtype=inputs.dtype)
    final = torch.empty(batch, d_state, full, dtype=inputs.dtype)
    *intervals, kept_channels = kept_shape(u, A)
    kept = torch.empty((*intervals, full) if keep else (0, 0, 0, 0), dtype=inputs.dtype)
    outputs = (y.numpy(), final.numpy(), kept.numpy())
    run(_forward, inputs.items, *inputs.arrays, inputs.spread(start), *outputs)
    final = inputs.gather(final).transpose(1, 2).contiguous()
    if keep and full != kept_channels:  # groups that are not whole vectors
        kept = F.pad(inputs.gather(kept), (0, kept_channels - channels))
    return inputs.gather(y).to(u.dtype), final, kept


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
    dz: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, in the compute dtype.

    The last is y in u's dtype, computed on the way, if `again`; an empty tensor otherwise.
    dz: where the gradient of z goes, in its own dtype; a new tensor if None.
    """
    inputs = _Arrays(u, delta, A, B, C, D, z, delta_bias, delta_softplus, resets, reverse)
    batch, length, channels = u.shape
    d_state, full, blocks = A.shape[1], inputs.channels, inputs.items // batch
    dfinal = or_zeros(dfinal, (batch, channels, d_state), inputs.dtype).transpose(1, 2)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=inputs.dtype)

    def over_time() -> Tensor:
        return torch.zeros(batch, d_state, full, dtype=inputs.dtype)

    du, ddelta = (empty(batch, length, full) for _ in range(2))
    dgate, y = (empty(batch, length, full) if wanted else empty(0, 0, 0) for wanted in (z is not None, again))
    dA, dstart = over_time(), empty(batch, d_state, full)
    dB, dC = (over_time() if M.dim() == 2 else empty(blocks, batch, length, d_state) for M in (B, C))
    dD, dbias = (empty(batch, full) for _ in range(2))
    gradients = (du, ddelta, dA, dB, dC, dD, dgate, dbias, dstart)
    run(
        _backward,
        inputs.items,
        *inputs.arrays,
        kept.numpy() if kept.shape[-1] == full else inputs.spread(kept[..., :channels]),
        inputs.spread(dy),
        inputs.spread(dfinal),
        *(result.numpy() for result in (*gradients, y)),
    )
    dB, dC = (
        inputs.gather(part.sum(0)).t().contiguous() if part.dim() == 3 else _of_groups(part, M.shape[2])
        for part, M in ((dB, B), (dC, C))
    )
    if z is not None:
        dgate = inputs.gather(dgate)
    return (
        inputs.gather(du),
        inputs.gather(ddelta),
        inputs.gather(dA.sum(0)).t().contiguous(),
        dB,
        dC,
        inputs.gather(dD.sum(0)),
        dgate if dz is None else dz.copy_(dgate),
        inputs.gather(dbias.sum(0)),
        inputs.gather(dstart).transpose(1, 2).contiguous(),
        inputs.gather(y).to(u.dtype) if again else y,
    )


def _of_groups(parts: Tensor, groups: int) -> Tensor:
    """(blocks of channels, batch, length, d_state) -> (batch, length, groups, d_state)."""
    return parts.unflatten(0, (groups, -1)).sum(1).permute(1, 2, 0, 3).contiguous()


class _Arrays:
    """The inputs that both passes share, as the kernels take them.

    Channels come in `pieces` that lie in one group of B and one of C; each is filled up to whole vectors.
    """

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
        resets: Tensor | None,
        reverse: bool,
    ) -> None:
        self.dtype = dtype = compute_dtype(u)
        batch, _, channels = u.shape
        self.pieces = math.lcm(*(M.shape[2] for M in (B, C) if M.dim() == 4))
        self.piece = channels // self.pieces
        self.channels = self.pieces * whole_vectors(self.piece, dtype)
        self.items = batch * self.channels * dtype.itemsize // BYTES
        self.arrays = (
            self.spread(u),
            self.spread(delta),
            self.spread((A.to(dtype) * _LOG2_E).t()),
            *(self.spread(M.t()) if M.dim() == 2 else as_array(M, dtype) for M in (B, C)),
            self.spread(or_zeros(D, (channels,), dtype)),
            as_array(torch.empty(0, 0, 0), dtype) if z is None else self.spread(z),
            self.spread(or_zeros(delta_bias, (channels,), dtype)),
            delta_softplus,
            as_array(or_zeros(resets, (0, 0), torch.bool), torch.bool),
            reverse,
        )

    def spread(self, tensor: Tensor) -> np.ndarray:
        """(..., channels) with each piece filled up with zeros."""
        if self.pieces == 1:
            return as_array(tensor, self.dtype, self.channels)
        pieces = tensor.unflatten(-1, (self.pieces, self.piece))
        return as_array(pieces, self.dtype, self.channels // self.pieces).reshape(*tensor.shape[:-1], -1)

    def gather(self, tensor: Tensor) -> Tensor:
        """Back from `spread`, contiguous; no view of it where nothing was filled up (autograd keeps such)."""
        if self.pieces * self.piece == self.channels:
            return tensor.contiguous()
        return tensor.unflatten(-1, (self.pieces, -1))[..., : self.piece].flatten(-2).contiguous()
