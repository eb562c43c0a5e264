"""B and C inside the CPU kernels. They come in two forms, which the kernels' compiler tells by their axes:

(batch, length, groups, d_state)   one number for all lanes, as a vector lies in one group
(d_state, channels)                a number for each lane, the same at all times

Their gradients are (blocks of channels, batch, length, d_state), one slice a block, and
(batch, d_state, channels), one slice a sequence. The caller adds the slices up.
"""

from ssm_seq.kernels.cpu.lanes import compiled, load, splat, store, total, width


@compiled
def place(matrix, block, blocks):
    """Where a block of channels finds its numbers: its group, or its first channel."""
    if matrix.ndim == 2:
        return block * width(matrix)
    return block * matrix.shape[2] // blocks


@compiled
def lanes_of(matrix, b, t, place, n):
    if matrix.ndim == 2:
        return load(matrix, (n, place))
    return splat(matrix[b, t, place, n])


@compiled
def collect(gradient, part, block, b, t, n, value):
    """Take in what one step gives. Sums over time go to `part` (d_state, lanes) until `deliver`."""
    if gradient.ndim == 3:
        store(part, (n, 0), load(part, (n, 0)) + value)
    else:
        gradient[block, b, t, n] = total(value)


@compiled
def deliver(gradient, part, b, c):
    """Add `part` to the gradient and empty it: sums over time in two levels, for their rounding error."""
    if gradient.ndim == 3:
        nothing = splat(gradient.dtype.type(0))
        for n in range(part.shape[0]):
            store(gradient, (b, n, c), load(gradient, (b, n, c)) + load(part, (n, 0)))
            store(part, (n, 0), nothing)
