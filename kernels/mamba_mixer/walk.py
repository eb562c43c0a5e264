"""The Mamba mixer, walked through piece by piece with the states of convolution and recurrence carried.

Memory, for d_inner channels and inputs of 2 bytes. Whole sequence: x, out and their gradients, and the states
that the scan keeps for its backward pass (every 16th one: 2 * d_state / 16 bytes a channel and position), or,
of very long sequences, one state a piece. One piece only: u, z, the convolution's output, delta and y in the
forward pass (5 * 2 bytes a channel and position); with the gradients of y, delta, u and z nine times 2 bytes
in the backward pass. A piece has 2^26 positions times channels, so this is 0.6 and 1.1 GiB however long the
sequence is. At d_model 256, 2^20 positions: 4 * 0.5 + 1 + 1.1 GiB, and the scan's own working memory.

The backward pass makes u, z, the convolution's output, delta, B and C again: a sixth of its time, but
otherwise they would be 5 GiB there.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_seq.kernels.causal_conv1d import cpu as conv_on_cpu
from ssm_seq.kernels.mamba_mixer.pieces import keeps_states, pieces
from ssm_seq.kernels.selective_scan import cpu as scan_on_cpu


class Weights(NamedTuple):
    """The parameters of the mixer, as in its definition. Matrices are used in the dtype of x."""

    in_proj: Tensor
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    out_proj: Tensor


class _Matrices(NamedTuple):
    into_u: Tensor
    into_z: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    out_proj: Tensor


def device_paths(x: Tensor) -> tuple[ModuleType, ModuleType]:
    """The modules of convolution and scan for the device. Triton is imported where there is a GPU only."""
    if not x.is_cuda:
        return conv_on_cpu, scan_on_cpu
    from ssm_seq.kernels.causal_conv1d import gpu as conv_on_gpu
    from ssm_seq.kernels.selective_scan import gpu as scan_on_gpu

    return conv_on_gpu, scan_on_gpu


def forward(
    x: Tensor, weights: Weights, conv_state: Tensor | None, ssm_state: Tensor | None, keep: bool
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """out, both final states, and what the backward pass needs beside the inputs: a tensor a piece."""
    conv_path, scan_path = device_paths(x)
    matrices = _matrices(weights, x.dtype)
    batch, length, _ = x.shape
    d_inner, d_state = weights.A.shape
    keeps = keeps_states(batch, length, d_inner)
    out = torch.empty_like(x)
    last_conv = x.new_empty(batch, weights.conv_weight.shape[1] - 1, d_inner)
    last_ssm = x.new_empty(batch, d_inner, d_state, dtype=torch.promote_types(x.dtype, torch.float32))
    saved = []
    for rows, parts in pieces(batch, length, d_inner):
        state = None if ssm_state is None else ssm_state[rows]
        for times in parts:
            u, past = _before_conv(x, rows, times, weights, matrices, conv_state)
            z = _product(x[rows, times], matrices.into_z)
            u, conv = conv_path.forward(u, weights.conv_weight, weights.conv_bias, True, past)
            delta, selected, B, C = _selected(u, weights, matrices)
            if keep and not keeps:
                start = torch.zeros_like(last_ssm[rows]) if state is None else state
                saved.append(start.to(last_ssm.dtype, copy=True))
            scan = (u, delta, weights.A, B, C, weights.D, z, weights.dt_bias, True)
            y, state, kept = scan_path.forward(*scan, state, None, False, keep and keeps)
            if keep and keeps:
                saved.append(kept)
            del scan, u, past, z, delta, selected, B, C
            torch.mm(_flat(y), matrices.out_proj.t(), out=_flat(out[rows, times]))
            del y
        last_conv[rows], last_ssm[rows] = conv, state
    return out, last_conv, last_ssm, saved


def backward(
    dout: Tensor,
    dconv: Tensor | None,
    dssm: Tensor | None,
    x: Tensor,
    weights: Weights,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    saved: Callable[[tuple[int, ...]], Tensor],
) -> tuple[Tensor, Weights, Tensor, Tensor]:
    """Gradients of x, the weights and both initial states; those of the weights are sums in float32 at least.

    saved: gives the tensors that the forward pass saved, the last one first; it is told the shape of each.
    """
    conv_path, scan_path = device_paths(x)
    matrices = _matrices(weights, x.dtype)
    conv_weight, conv_bias, A, D = weights.conv_weight, weights.conv_bias, weights.A, weights.D
    batch, length, _ = x.shape
    d_inner, d_state = A.shape
    dt_rank = weights.dt_proj.shape[1]
    keeps = keeps_states(batch, length, d_inner)
    sums = _zeros_like(weights, x)
    d_into_u, d_into_z = sums.in_proj.chunk(2)
    dx = torch.empty_like(x)
    dconv_state = x.new_empty(batch, conv_weight.shape[1] - 1, d_inner, dtype=sums.A.dtype)
    dssm_state = x.new_empty(batch, d_inner, d_state, dtype=sums.A.dtype)
    for rows, parts in reversed(list(pieces(batch, length, d_inner))):
        conv_later = None if dconv is None else dconv[rows]
        ssm_later = None if dssm is None else dssm[rows]
        for times in reversed(parts):
            x_part, dx_part = _flat(x[rows, times]), _flat(dx[rows, times])
            dout_part = dout[rows, times].reshape(x_part.shape)
            before, past = _before_conv(x, rows, times, weights, matrices, conv_state)
            z = _product(x[rows, times], matrices.into_z)
            u, _ = conv_path.forward(before, conv_weight, conv_bias, True, past)
            delta, selected, B, C = _selected(u, weights, matrices)
            scan = (u, delta, A, B, C, D, z, weights.dt_bias, True)
            if keeps:
                kept = saved(scan_path.kept_shape(u, A))
            else:
                start = saved((u.shape[0], d_inner, d_state))
                y, _, kept = scan_path.forward(*scan, start, None, False, True)
                sums.out_proj.add_(_sum_of_products(dout_part, y))
                del y
            dy = torch.mm(dout_part, matrices.out_proj).view(u.shape)
            du, ddelta, dA, dB, dC, dD, dz, ddt_bias, ssm_later, y = scan_path.backward(
                dy, ssm_later, *scan, None, False, kept, keeps
            )
            del scan, dy, z, delta, kept, B, C
            if keeps:
                sums.out_proj.add_(_sum_of_products(dout_part, y))
            del y
            sums.A.add_(dA)
            sums.D.add_(dD)
            sums.dt_bias.add_(ddt_bias)

            ddelta, du, dz = (_flat(gradient).to(x.dtype) for gradient in (ddelta, du, dz))
            sums.dt_proj.add_(_sum_of_products(ddelta, selected[:, :dt_rank]))
            dselected = torch.empty_like(selected)
            torch.mm(ddelta, matrices.dt_proj, out=dselected[:, :dt_rank])
            dselected[:, dt_rank : dt_rank + d_state] = dB.reshape(-1, d_state)
            dselected[:, dt_rank + d_state :] = dC.reshape(-1, d_state)
            sums.x_proj.add_(_sum_of_products(dselected, _flat(u)))
            du.addmm_(dselected, matrices.x_proj)
            del ddelta, selected, dselected

            du, dweight, dbias, conv_later = conv_path.backward(
                du.view(u.shape), conv_later, before, conv_weight, conv_bias, True, past
            )
            del u, before, past
            sums.conv_weight.add_(dweight)
            if sums.conv_bias is not None:
                sums.conv_bias.add_(dbias)
            du = _flat(du).to(x.dtype)
            d_into_u.add_(_sum_of_products(du, x_part))
            d_into_z.add_(_sum_of_products(dz, x_part))
            torch.mm(du, matrices.into_u, out=dx_part)
            dx_part.addmm_(dz, matrices.into_z)
            del du, dz
        dconv_state[rows], dssm_state[rows] = conv_later, ssm_later
    return dx, sums, dconv_state, dssm_state


def _matrices(weights: Weights, dtype: torch.dtype) -> _Matrices:
    into_u, into_z = weights.in_proj.to(dtype).chunk(2)
    return _Matrices(
        into_u, into_z, *(matrix.to(dtype) for matrix in (weights.x_proj, weights.dt_proj, weights.out_proj))
    )


def _before_conv(
    x: Tensor, rows: slice, times: slice, weights: Weights, matrices: _Matrices, conv_state: Tensor | None
) -> tuple[Tensor, Tensor | None]:
    """u of a piece, and what the convolution has to know of the positions before it.

    Inside a sequence that is u again, from a few more rows of the product: cheaper than to carry and save it.
    """
    if times.start == 0:
        return _product(x[rows, times], matrices.into_u), None if conv_state is None else conv_state[rows]
    reach = weights.conv_weight.shape[1] - 1
    u = _product(x[rows, times.start - reach : times.stop], matrices.into_u)
    return u[:, reach:], u[:, :reach]


def _selected(u: Tensor, weights: Weights, matrices: _Matrices) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """delta before its bias and softplus, W_x u (positions, dt_rank + 2 d_state), and B and C in it."""
    selected = torch.mm(_flat(u), matrices.x_proj.t())
    dt_rank, d_state = weights.dt_proj.shape[1], weights.A.shape[1]
    low, B, C = selected.split([dt_rank, d_state, d_state], dim=1)
    delta = torch.mm(low, matrices.dt_proj.t()).view(u.shape)
    B, C = (matrix.unflatten(0, u.shape[:2])[:, :, None] for matrix in (B, C))
    return delta, selected, B, C


def _flat(sequence: Tensor) -> Tensor:
    """(batch, length, ...) -> (positions, ...), never a copy."""
    return sequence.view(sequence.shape[0] * sequence.shape[1], *sequence.shape[2:])


def _product(x: Tensor, matrix: Tensor) -> Tensor:
    """x W^T for every position."""
    return torch.mm(_flat(x), matrix.t()).view(*x.shape[:2], matrix.shape[0])


def _sum_of_products(dy: Tensor, x: Tensor) -> Tensor:
    """Gradient of W in y = x W^T, (outputs, inputs), in float32 at least."""
    dy, x = (_flat(tensor) if tensor.dim() == 3 else tensor for tensor in (dy, x))
    if dy.is_cuda and dy.dtype.itemsize == 2:
        return torch.mm(dy.t(), x, out_dtype=torch.float32)
    return torch.mm(dy.t(), x)


def _zeros_like(weights: Weights, x: Tensor) -> Weights:
    dtype = torch.promote_types(x.dtype, torch.float32)
    return Weights(*(None if weight is None else torch.zeros_like(weight, dtype=dtype) for weight in weights))
