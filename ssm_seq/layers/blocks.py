"""Dense systems, one in each channel, over a chunk of any length: products of matrices, and few of them."""

from functools import reduce

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.layers.scan import toeplitz

WIDTH = 64  # positions of a block: about as much work inside it as to and from a state of 64 numbers


def in_blocks(u: Tensor, Abar: Tensor, Bbar: Tensor, C: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """x_k = Abar x_(k-1) + Bbar u_k and y_k = C x_k, each channel for itself.

    Within a block of w = `WIDTH` positions the system is three matrices of powers of Abar, found by doubling;
    the states between blocks follow from one another in 2 log2(length / w) products. O(N^3 log length)
    operations for a channel, and O(w + N) for each of its positions. Differentiable.

    Args:
        u: (batch, length, d_model).
        Abar, Bbar, C: (d_model, N, N), (d_model, N) and (d_model, N), real. Their powers are formed in their
            dtype: float64 keeps the digits of a long memory for a u of float32.
        x: the state before u, (batch, d_model, N), like u.

    Returns:
        y like u, and the state after it.
    """
    length = u.shape[1]
    width = WIDTH if length > WIDTH else length  # as in `scan`
    # Abar^k Bbar, C Abar^(k+1) and Abar^(2^i).
    into, out_of, powers = Bbar[..., None], C[:, None] @ Abar, [Abar]
    while into.shape[-1] < width:
        into = torch.cat([into, powers[-1] @ into], dim=-1)
        out_of = torch.cat([out_of, out_of @ powers[-1]], dim=-2)
        powers.append(powers[-1] @ powers[-1])
    into, out_of = into[..., :width], out_of[:, :width]
    within = toeplitz((C[:, None] @ into)[:, 0])

    batch, count = len(u), -(-length // width)
    blocks = F.pad(u, (0, 0, 0, count * width - length)).unflatten(1, (count, width))
    blocks = blocks.permute(3, 0, 1, 2).flatten(1, 2)  # (d_model, batch * count, width)
    ends = blocks @ into.flip(-1).mT.to(u.dtype)  # what each block adds to the state
    before = x.transpose(0, 1)[:, :, None]  # (d_model, batch, count, N): the states that enter the blocks
    if count > 1:
        across = reduce(torch.matmul, _factors(powers, width))
        ends = ends.unflatten(1, (batch, count))[:, :, :-1]
        before = torch.cat([before, _states(ends, across, before[:, :, 0])], dim=2)
    y = torch.baddbmm(_apply(out_of, before.flatten(1, 2)), blocks, within.mT.to(u.dtype))
    y = y.unflatten(1, (batch, count)).permute(1, 2, 3, 0).flatten(1, 2)[:, :length]

    last = length - (count - 1) * width
    x = before[:, :, -1]
    for power in _factors(powers, last):
        x = _apply(power, x)
    x = x + blocks.unflatten(1, (batch, count))[:, :, -1, :last] @ into[..., :last].flip(-1).mT.to(u.dtype)
    return y, x.transpose(0, 1)


def _factors(powers: list[Tensor], exponent: int) -> list[Tensor]:
    """Those of A, A^2, A^4, ... whose product is A^exponent."""
    return [power for i, power in enumerate(powers) if exponent >> i & 1]


def _states(ends: Tensor, power: Tensor, x: Tensor) -> Tensor:
    """All x_k = power x_(k-1) + ends_k: ends (d_model, batch, count, N), power (d_model, N, N), x_0 = x.

    Every second of them is a sequence of half the length, with the square of the matrix.
    """
    if ends.shape[2] == 1:
        return ends + _apply(power, x)[:, :, None]
    even, odd = ends[:, :, ::2], ends[:, :, 1::2]
    pairs = odd.shape[2]
    second = _states(odd + _apply(power, even[:, :, :pairs]), power @ power, x)
    first = even + _apply(power, torch.cat([x[:, :, None], second], dim=2)[:, :, : even.shape[2]])
    both = torch.stack([first[:, :, :pairs], second], dim=3).flatten(2, 3)
    return torch.cat([both, first[:, :, pairs:]], dim=2)


def _apply(matrix: Tensor, x: Tensor) -> Tensor:
    """matrix (d_model, M, N) times x (d_model, ..., N), in x's dtype."""
    return (x.flatten(1, -2) @ matrix.mT.to(x.dtype)).unflatten(1, x.shape[1:-1])
