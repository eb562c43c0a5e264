"""The causal convolution on the CPU, compiled by Numba: an item is one vector of channels of one sequence."""

import torch
from torch import Tensor

from ssm_seq.kernels.cpu.arrays import as_array, compute_dtype, or_zeros, whole_vectors
from ssm_seq.kernels.cpu.lanes import BYTES, compiled, load, sigmoid, splat, store, width
from ssm_seq.kernels.cpu.threads import run

INTERVAL = 64  # sums over time are taken in two levels, for their rounding error


@compiled
def _forward(first, last, padded, absent, weight, bias, silu, y):
    """padded: the width - 1 inputs before x, then x. weight: (width, channels).

    absent: (batch, length), how many of the taps, from the oldest, lie before the step's sequence.
    """
    lanes = width(padded)
    taps, channels = weight.shape
    blocks = channels // lanes
    for item in range(first, last):
        b, c = item // blocks, item % blocks * lanes
        offset = load(bias, (c,))
        for t in range(y.shape[1]):
            out = offset
            for k in range(absent[b, t], taps):
                out = out + load(weight, (k, c)) * load(padded, (b, t + k, c))
            if silu:
                out = out * sigmoid(out)
            store(y, (b, t, c), out)


@compiled
def _backward(first, last, padded, absent, weight, bias, silu, dy, dpadded, dweight, dbias):
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
                    for k in range(absent[b, t], taps):
                        out = out + load(weight, (k, c)) * load(padded, (b, t + k, c))
                    open_ = sigmoid(out)
                    grad = grad * (open_ * (one + out * (one - open_)))
                    store(dy, (b, t, c), grad)
                for k in range(absent[b, t], taps):
                    store(dpadded, (b, t + k, c), load(dpadded, (b, t + k, c)) + load(weight, (k, c)) * grad)
                dbias_part = dbias_part + grad
            dbias_sum = dbias_sum + dbias_part
            for k in range(taps):
                dweight_part = nothing
                for t in range(t0, end):
                    if absent[b, t] > k:
                        continue
                    dweight_part = dweight_part + load(dy, (b, t, c)) * load(padded, (b, t + k, c))
                store(dweight, (b, k, c), load(dweight, (b, k, c)) + dweight_part)
        store(dbias, (b, c), dbias_sum)


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """y and the final state."""
    dtype, items, arrays = _arrays(x, weight, bias, silu, initial_state, starts)
    padded = torch.from_numpy(arrays[0])
    batch, length, channels = x.shape
    y = torch.empty(batch, length, padded.shape[2], dtype=dtype)
    run(_forward, items, *arrays, y.numpy())
    final = _of_last_sequence(padded[:, length:, :channels], starts)
    if y.shape[2] != channels:  # a slice of everything would be a view, which autograd lets nobody write to
        y = y[..., :channels].contiguous()
    return y.to(x.dtype), final.to(x.dtype, copy=True)


def backward(
    dy: Tensor,
    dfinal: Tensor | None,
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    starts: Tensor | None = None,
    dx: Tensor | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of x, weight, bias and the initial state, in the compute dtype.

    dx: where the gradient of x goes, in its own dtype; a new tensor if None.
    """
    dtype, items, arrays = _arrays(x, weight, bias, silu, initial_state, starts)
    batch, length, channels = x.shape
    taps = weight.shape[1]
    dpadded = torch.zeros(arrays[0].shape, dtype=dtype)
    if dfinal is not None:
        dpadded[:, length:, :channels] = _of_last_sequence(dfinal, starts)
    dweight = torch.empty(batch, taps, dpadded.shape[2], dtype=dtype)
    dbias = torch.empty(batch, dpadded.shape[2], dtype=dtype)
    grad = as_array(dy, dtype, dpadded.shape[2])
    grad = grad.copy() if silu and grad.ctypes.data == dy.data_ptr() else grad
    run(_backward, items, *arrays, grad, dpadded.numpy(), dweight.numpy(), dbias.numpy())
    of_x = dpadded[:, taps - 1 :, :channels]
    return (
        of_x.contiguous() if dx is None else dx.copy_(of_x),
        dweight.sum(0)[:, :channels].t().contiguous(),
        dbias.sum(0)[:channels],
        dpadded[:, : taps - 1, :channels].clone(memory_format=torch.contiguous_format),
    )


def _absent(starts: Tensor, taps: int) -> Tensor:
    """How many of a step's taps lie before its sequence, (batch, length); none before the first start."""
    position = torch.arange(starts.shape[1]).expand_as(starts)
    latest = torch.where(starts, position, -taps).cummax(1).values
    return (taps - 1 - (position - latest)).clamp_(min=0)


def _of_last_sequence(final: Tensor, starts: Tensor | None) -> Tensor:
    """The last inputs (batch, width - 1, channels), zero where they lie before the row's last sequence."""
    if starts is None:
        return final
    kept = final.shape[1]
    absent = _absent(starts, kept + 1)[:, -1:]
    return final.where((torch.arange(kept) >= absent - 1)[..., None], 0.0)


def _arrays(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    silu: bool,
    initial_state: Tensor | None,
    starts: Tensor | None,
):
    dtype = compute_dtype(x)
    batch, length, channels = x.shape
    taps = weight.shape[1]
    full = whole_vectors(channels, dtype)
    past = or_zeros(initial_state, (batch, taps - 1, channels), dtype)
    absent = torch.zeros(batch, length, dtype=torch.int64) if starts is None else _absent(starts, taps)
    arrays = (
        as_array(torch.cat([past.to(dtype), x.to(dtype)], dim=1), dtype, full),
        absent.numpy(),
        as_array(weight.t(), dtype, full),
        as_array(or_zeros(bias, (channels,), dtype), dtype, full),
        silu,
    )
    return dtype, batch * full * dtype.itemsize // BYTES, arrays
