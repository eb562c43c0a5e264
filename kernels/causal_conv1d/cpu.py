"""The causal convolution on the CPU, compiled by Numba: an item is one vector of channels of one sequence."""

import torch
from torch import Tensor

from ssm_seq.kernels.cpu.arrays import as_array, compute_dtype, or_zeros, whole_vectors
from ssm_seq.kernels.cpu.lanes import BYTES, compiled, load, sigmoid, splat, store, width
from ssm_seq.kernels.cpu.threads import run

INTERVAL = 64  # sums over time are taken in two levels, for their rounding error


@compiled
def _forward(first, last, padded, weight, bias, silu, y):
    """padded: the width - 1 inputs before x, then x. weight: (width, channels)."""
    lanes = width(padded)
    taps, channels = weight.shape
    blocks = channels // lanes
    for item in range(first, last):
        b, c = item // blocks, item % blocks * lanes
        offset = load(bias, (c,))
        for t in range(y.shape[1]):
            out = offset
            for k in range(taps):
                out = out + load(weight, (k, c)) * load(padded, (b, t + k, c))
            if silu:
                out = out * sigmoid(out)
            store(y, (b, t, c), out)


@compiled
def _backward(first, last, padded, weight, bias, silu, dy, dpadded, dweight, dbias):
    """dpadded comes with the final state's gradient in its last places; dy is overwritten.

    dweight, dbias: one slice a sequence; the caller adds them up.
    """
    lanes = width(padded)
    taps, channels = weight.shape
    blocks = channels // lanes
    length = dy.shape[1]
    one, nothing = splat(padded.dtype.type(1)), splat(padded.dtype.type(0))
    for item in range(first, last):
        b, c = item // blocks, item % blocks * lanes
        offset = load(bias, (c,))
        dbias_sum = nothing
        for k in range(taps):
            store(dweight, (b, k, c), nothing)
        for t0 in range(0, length, INTERVAL):
            end = min(t0 + INTERVAL, length)
            dbias_part = nothing
            for t in range(t0, end):
                grad = load(dy, (b, t, c))
                if silu:
                    out = offset
                    for k in range(taps):
                        out = out + load(weight, (k, c)) * load(padded, (b, t + k, c))
                    open_ = sigmoid(out)
                    grad = grad * (open_ * (one + out * (one - open_)))
                    store(dy, (b, t, c), grad)
                for k in range(taps):
                    store(dpadded, (b, t + k, c), load(dpadded, (b, t + k, c)) + load(weight, (k, c)) * grad)
                dbias_part = dbias_part + grad
            dbias_sum = dbias_sum + dbias_part
            for k in range(taps):
                dweight_part = nothing
                for t in range(t0, end):
                    dweight_part = dweight_part + load(dy, (b, t, c)) * load(padded, (b, t + k, c))
                store(dweight, (b, k, c), load(dweight, (b, k, c)) + dweight_part)
        store(dbias, (b, c), dbias_sum)


def forward(
    x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """y and the final state."""
    dtype, items, arrays = _arrays(x, weight, bias, silu, initial_state)
    padded = torch.from_numpy(arrays[0])
    batch, length, channels = x.shape
    y = torch.empty(batch, length, padded.shape[2], dtype=dtype)
    run(_forward, items, *arrays, y.numpy())
    return y[..., :channels].contiguous().to(x.dtype), padded[:, length:, :channels].to(x.dtype, copy=True)


def backward(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
) -> tuple[Tensor, ...]:
    """Gradients of x, weight, bias and the initial state, in the compute dtype."""
    dtype, items, arrays = _arrays(x, weight, bias, silu, initial_state)
    batch, length, channels = x.shape
    taps = weight.shape[1]
    dpadded = torch.zeros(arrays[0].shape, dtype=dtype)
    if dfinal is not None:
        dpadded[:, length:, :channels] = dfinal
    dweight = torch.empty(batch, taps, dpadded.shape[2], dtype=dtype)
    dbias = torch.empty(batch, dpadded.shape[2], dtype=dtype)
    grad = as_array(dy, dtype, dpadded.shape[2])
    grad = grad.copy() if silu and grad.ctypes.data == dy.data_ptr() else grad
    run(_backward, items, *arrays, grad, dpadded.numpy(), dweight.numpy(), dbias.numpy())
    return (
        dpadded[:, taps - 1 :, :channels].contiguous(),
        dweight.sum(0)[:, :channels].t().contiguous(),
        dbias.sum(0)[:channels],
        dpadded[:, : taps - 1, :channels].clone(memory_format=torch.contiguous_format),
    )


def _arrays(x: Tensor, weight: Tensor, bias: Tensor | None, silu: bool, initial_state: Tensor | None):
    dtype = compute_dtype(x)
    batch, _, channels = x.shape
    full = whole_vectors(channels, dtype)
    past = or_zeros(initial_state, (batch, weight.shape[1] - 1, channels), dtype)
    padded = as_array(torch.cat([past.to(dtype), x.to(dtype)], dim=1), dtype, full)
    arrays = (
        padded,
        as_array(weight.t(), dtype, full),
        as_array(or_zeros(bias, (channels,), dtype), dtype, full),
        silu,
    )
    return dtype, batch * full * dtype.itemsize // BYTES, arrays
