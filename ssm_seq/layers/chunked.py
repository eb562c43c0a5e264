"""Linear time-invariant systems over a chunk of any length, in blocks: products of matrices, and few of them.

Within a block of `WIDTH` positions a system is a small Toeplitz matrix; what one block leaves to the next is
its state. `in_blocks` is that scheme for any system; `bank` applies it to channels with a diagonal system
each; `scan` gives the states of a diagonal system themselves. All are differentiable and need O(length)
memory, about d_state / WIDTH numbers for each number of the input.
"""

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

WIDTH = 64  # positions of a block: about as much work inside it as to and from a state of 64 numbers
SCAN_WIDTH = 16  # of `scan`, whose work inside a block has no state to share with


def bank(u: Tensor, exponent: Tensor, Bbar: Tensor, C: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """d_model diagonal systems side by side, one input and one output each.

    x_k = exp(exponent) x_(k-1) + Bbar u_k and y_k = Re <C, x_k>.

    Args:
        u: (batch, length, d_model), real.
        exponent, Bbar, C: (d_model, N), real or complex, all alike; exponent is log Abar.
        x: the state before u, (batch, d_model, N), of their dtype.

    Returns:
        y like u, and the state after it.
    """
    lags = torch.arange(min(WIDTH, u.shape[1]) + 1, device=u.device)
    powers = torch.exp(exponent[..., None] * lags)  # Abar^k, (d_model, N, width + 1)
    into, out_of = Bbar[..., None] * powers[..., :-1], C[..., None] * powers[..., 1:]
    kernel = (C[..., None] * into).sum(1)
    kernel = kernel.real if kernel.is_complex() else kernel
    return in_blocks(u, kernel, into, out_of, lambda ends, x, width: scan(ends, exponent * width, x), x)


def bank_step(u: Tensor, exponent: Tensor, Bbar: Tensor, C: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One position of `bank`: u (batch, d_model) and x (batch, d_model, N) -> y like u, x."""
    x = torch.exp(exponent) * x + Bbar * u[..., None]
    y = (C * x).sum(-1)
    return y.real if y.is_complex() else y, x


def scan(v: Tensor, exponent: Tensor, x: Tensor) -> Tensor:
    """All states x_k = exp(exponent) x_(k-1) + v_k of a diagonal system.

    Args:
        v: (batch, length, ...), real or complex.
        exponent: (...), the logarithm of Abar.
        x: the state before v, (batch, ...).

    Returns:
        The states after each position, like v.
    """
    length = v.shape[1]
    width = min(SCAN_WIDTH, length)
    count = -(-length // width)
    flat = F.pad(v.flatten(2), (0, 0, 0, count * width - length)).unflatten(1, (count, width))
    rates, before = exponent.flatten(), x.flatten(1)[:, None]  # (N,), (batch, 1, N)
    lags = torch.arange(width, device=v.device)
    powers = torch.exp(rates[:, None] * lags)  # (N, width)
    states = torch.einsum("nij,bcjn->bcin", _toeplitz(powers), flat)
    if count > 1:
        # The last states of the blocks are a shorter sequence of the same kind, with Abar^width.
        before = torch.cat([before, scan(states[:, :-1, -1], rates * width, x.flatten(1))], dim=1)
    states = states + before[:, :, None] * torch.exp(rates * (lags[:, None] + 1))
    return states.flatten(1, 2)[:, :length].unflatten(2, v.shape[2:])


def in_blocks(
    u: Tensor,
    kernel: Tensor,
    into: Tensor,
    out_of: Tensor,
    carry: Callable[[Tensor, Tensor, int], Tensor],
    x: Tensor,
) -> tuple[Tensor, Tensor]:
    """d_model systems with one input and one output each, given what they do within `WIDTH` positions.

    Args:
        u: (batch, length, d_model), real.
        kernel: C Abar^k Bbar, (d_model, width), real, width = min(WIDTH, length).
        into: Abar^k Bbar, (d_model, N, width).
        out_of: C Abar^(k+1), (d_model, N, width).
        carry: from `ends` (batch, blocks, d_model, N), what each block of `width` positions adds to the state
            at its end, the state x before the first block, and width, to the states after each block.
        x: the state before u, (batch, d_model, N).

    Returns:
        y like u, the real part of the output, and the state after it.
    """
    whole = u.shape[1] - u.shape[1] % WIDTH
    outputs = []
    for part in (u[:, :whole], u[:, whole:]):
        if part.shape[1] == 0:
            continue
        width = min(WIDTH, part.shape[1])
        blocks = part.unflatten(1, (-1, width))
        y = torch.einsum("dij,bcjd->bcid", _toeplitz(kernel[:, :width]), blocks)
        ends = torch.einsum("dnjp,bcjd->bcdnp", _pairs(into[..., :width].flip(-1)), blocks)
        ends = torch.view_as_complex(ends.contiguous()) if into.is_complex() else ends[..., 0]
        after = carry(ends, x, width)
        before = torch.cat([x[:, None], after[:, :-1]], dim=1)
        y = y + torch.einsum("dnip,bcdnp->bcid", _pairs(out_of[..., :width].conj()), _pairs(before))
        outputs.append(y.flatten(1, 2))
        x = after[:, -1]
    return (outputs[0] if len(outputs) == 1 else torch.cat(outputs, dim=1)), x


def _toeplitz(kernel: Tensor) -> Tensor:
    """Lower triangular matrices with K_(i-j) in row i and column j: (..., width) -> (..., width, width)."""
    width = kernel.shape[-1]
    return F.pad(kernel, (width - 1, 0)).unfold(-1, width, 1).flip(-1)


def _pairs(z: Tensor) -> Tensor:
    """Real and imaginary parts in a last dimension, of size 1 if z is real: products with real numbers and
    real parts of products take half the work of complex ones."""
    return torch.view_as_real(z.resolve_conj()) if z.is_complex() else z[..., None]
