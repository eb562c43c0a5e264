"""The Mamba mixer, walked through piece by piece with the states of convolution and recurrence carried.

Memory, for d_inner channels and inputs of 2 bytes. Whole sequence: x, out and their gradients, and the states
that the scan keeps for its backward pass (every 16th one: 2 * d_state / 16 bytes a channel and position), or,
where these would pass 2 GiB, one state a piece. One piece only, in values of 2 bytes a channel and position:
u, z, the convolution's output, delta and y in the forward pass (5); these and the gradients of y, u, z and
delta in the backward pass (9).

At d_model 256 and 2^20 positions, with a budget of 5 GiB: x, out, dout and dx 4 * 0.5, and kept states 1.
In the forward pass, in 3 pieces of at most 3 * 2^26 positions times channels, one is 1.7: in all 4.2 where
dout exists already. In the backward pass, in 9 of at most 2^26, it is 1.0, and the scan's own working
memory, mostly the parts of the gradients of B and C, 0.2: in all 4.2.

The backward pass makes u, z, the convolution's output, delta, B and C again: a sixth of its time, but
otherwise they would be 5 GiB there. Of a sequence that is one small piece u and z are kept, since their
product is the largest of what is made again.
"""

from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_seq.kernels.causal_conv1d import cpu as conv_on_cpu
from ssm_seq.kernels.mamba_mixer import pieces
from ssm_seq.kernels.selective_scan import cpu as scan_on_cpu


class Weights(NamedTuple):
    """The parameters of the mixer, as in its definition."""

    in_proj: Tensor
    conv_weight: Tensor
    conv_bias: Tensor | None
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    out_proj: Tensor


class Matrices(NamedTuple):
    """Those of the weights that are used in the dtype of x, in that dtype."""

    in_proj: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    out_proj: Tensor


def matrices_of(weights: Weights, dtype: torch.dtype) -> Matrices:
    return Matrices(*(getattr(weights, name).to(dtype) for name in Matrices._fields))


def device_paths(x: Tensor) -> tuple[ModuleType, ModuleType]:
    """The modules of convolution and scan for the device. Triton is imported where there is a GPU only."""
    if not x.is_cuda:
        return conv_on_cpu, scan_on_cpu
    from ssm_seq.kernels.causal_conv1d import gpu as conv_on_gpu
    from ssm_seq.kernels.selective_scan import gpu as scan_on_gpu

    return conv_on_gpu, scan_on_gpu


def kept_shape(x: Tensor, A: Tensor) -> tuple[int, ...]:
    """Shape of the states that the scan keeps for its backward pass."""
    return device_paths(x)[1].kept_shape(x[..., :1].expand(-1, -1, A.shape[0]), A)


def keeps_states(x: Tensor, A: Tensor) -> bool:
    """Whether these states are kept, or made again from each piece's first one."""
    size = device_paths(x)[1].kept_dtype(x).itemsize
    for axis in kept_shape(x, A):
        size = size * axis
    return size <= pieces.KEPT


def keeps_projection(x: Tensor, A: Tensor) -> bool:
    """Whether u and z are kept for the backward pass too: where there is a single piece, and a small one."""
    batch, length, _ = x.shape
    size = batch * length * A.shape[0]
    whole = size <= min(pieces.FORWARD, pieces.BACKWARD) and keeps_states(x, A)
    one_dtype = x.dtype == device_paths(x)[1].kept_dtype(x)  # the operator saves one tensor
    return whole and one_dtype and 2 * size * x.dtype.itemsize <= pieces.PROJECTED


def forward(
    x: Tensor,
    weights: Weights,
    matrices: Matrices,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, list[Tensor]]:
    """out, both final states, and what the backward pass needs beside the inputs: u and z if
    they are kept, and a tensor a piece."""
    conv_path, scan_path = device_paths(x)
    batch, length, _ = x.shape
    d_inner = weights.A.shape[0]
    keeps = keep and keeps_states(x, weights.A)
    out = torch.empty_like(x)
    saved, last_conv, last_ssm = [], [], []
    for rows, times in pieces.forward_pieces(batch, length, d_inner, keep, keeps):
        if times.start == 0:
            state = None if ssm_state is None else ssm_state[rows]
        u, z, past = _before_conv(x, rows, times, weights, matrices, conv_state)
        if keep and keeps_projection(x, weights.A):
            saved += [u, z]
        u, conv = conv_path.forward(u, weights.conv_weight, weights.conv_bias, True, past)
        delta, selected, B, C = _selected(u, weights, matrices)
        if keep and not keeps:
            saved.append(_start(state, u, weights.A))
        scan = (u, delta, weights.A, B, C, weights.D, z, weights.dt_bias, True)
        y, state, kept = scan_path.forward(*scan, state, None, False, keeps)
        if keeps:
            saved.append(kept)
        del scan, u, past, z, delta, selected, B, C
        torch.mm(_flat(y), matrices.out_proj.t(), out=_flat(out[rows, times]))
        del y
        if times.stop == length:
            last_conv.append(conv)
            last_ssm.append(state)
    return out, _joined(last_conv), _joined(last_ssm), saved


def backward(
    dout: Tensor,
    dconv: Tensor | None,
    dssm: Tensor | None,
    x: Tensor,
    weights: Weights,
    matrices: Matrices,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    saved: Callable[[tuple[int, ...]], Tensor],
) -> tuple[Tensor, Weights, Tensor, Tensor]:
    """Gradients of x, the weights and both initial states; those of the weights are sums in float32 at least.

    saved: gives the tensors that the forward pass saved, the last one first; it is told the shape of each.
    """
    conv_path, scan_path = device_paths(x)
    conv_weight, conv_bias, A, D = weights.conv_weight, weights.conv_bias, weights.A, weights.D
    batch, length, _ = x.shape
    d_inner, d_state = A.shape
    dt_rank = weights.dt_proj.shape[1]
    u_shape = (batch, length, d_inner)
    keeps = keeps_states(x, A)
    sums = _Sums(torch.promote_types(x.dtype, torch.float32))
    dx = torch.empty_like(x)
    dconv_state, dssm_state = [], []
    outer_pieces = list(pieces.forward_pieces(batch, length, d_inner, True, keeps))
    for outer_rows, outer_times in reversed(outer_pieces):
        if keeps:
            of_piece = saved(kept_shape(x[outer_rows, outer_times], A))
        else:
            of_piece = saved((outer_rows.stop - outer_rows.start, d_inner, d_state))
        inner_pieces = list(pieces.backward_pieces(outer_rows, outer_times, d_inner))
        for rows, times, row, time in reversed(inner_pieces):
            if times.stop == length:
                conv_later = None if dconv is None else dconv[rows]
                ssm_later = None if dssm is None else dssm[rows]
            x_part, dx_part = _flat(x[rows, times]), _flat(dx[rows, times])
            dout_part = dout[rows, times].reshape(x_part.shape)
            if keeps_projection(x, A):
                z, before, past = saved(u_shape), saved(u_shape), conv_state
            else:
                before, z, past = _before_conv(x, rows, times, weights, matrices, conv_state)
            u, _ = conv_path.forward(before, conv_weight, conv_bias, True, past)
            delta, selected, B, C = _selected(u, weights, matrices)
            scan = (u, delta, A, B, C, D, z, weights.dt_bias, True)
            if keeps:
                interval = scan_path.INTERVAL
                kept = of_piece[row, time.start // interval : -(-time.stop // interval)]
            else:
                y, _, kept = scan_path.forward(*scan, of_piece[row], None, False, True)
                sums.add("out_proj", _sum_of_products(dout_part, y))
                del y
            # The gradients of u and z side by side, as in_proj's product wants them. The place of the first
            # is free until the convolution's backward pass, and serves for the gradient of y.
            duz = x.new_empty((*u.shape[:2], 2 * d_inner))
            first_half, dz = duz.chunk(2, dim=2)
            torch.mm(dout_part, matrices.out_proj, out=_flat(first_half))
            du, ddelta, dA, dB, dC, dD, _, ddt_bias, ssm_later, y = scan_path.backward(
                first_half, ssm_later, *scan, None, False, kept, keeps, dz=dz
            )
            del scan, z, delta, kept, B, C
            if keeps:
                sums.add("out_proj", _sum_of_products(dout_part, y))
            del y
            sums.add("A", dA)
            sums.add("D", dD)
            sums.add("dt_bias", ddt_bias)

            ddelta, du = (_flat(gradient).to(x.dtype) for gradient in (ddelta, du))
            sums.add("dt_proj", _sum_of_products(ddelta, selected[:, :dt_rank]))
            dselected = torch.empty_like(selected)
            torch.mm(ddelta, matrices.dt_proj, out=dselected[:, :dt_rank])
            dselected[:, dt_rank : dt_rank + d_state] = dB.reshape(-1, d_state)
            dselected[:, dt_rank + d_state :] = dC.reshape(-1, d_state)
            sums.add("x_proj", _sum_of_products(dselected, _flat(u)))
            du.addmm_(dselected, matrices.x_proj)
            del ddelta, selected, dselected

            _, dweight, dbias, conv_later = conv_path.backward(
                du.view(u.shape), conv_later, before, conv_weight, conv_bias, True, past, dx=first_half
            )
            del du, u, before, past
            sums.add("conv_weight", dweight)
            if conv_bias is not None:
                sums.add("conv_bias", dbias)
            duz = _flat(duz)
            sums.add("in_proj", _sum_of_products(duz, x_part))
            torch.mm(duz, matrices.in_proj, out=dx_part)
            del duz, first_half, dz
            if times.start == 0:
                dconv_state.insert(0, conv_later)
                dssm_state.insert(0, ssm_later)
    return dx, sums.of_weights(), _joined(dconv_state), _joined(dssm_state)


class _Sums:
    """Gradients of the weights, summed up over the pieces; of a single piece they are not even copied."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype
        self.found: dict[str, Tensor] = {}

    def add(self, name: str, part: Tensor) -> None:
        if name in self.found:
            self.found[name].add_(part)
        else:
            self.found[name] = part.to(self.dtype)

    def of_weights(self) -> Weights:
        return Weights(*(self.found.get(name) for name in Weights._fields))


def _joined(parts: list[Tensor]) -> Tensor:
    return torch.cat(parts) if len(parts) > 1 else parts[0]


def _start(state: Tensor | None, u: Tensor, A: Tensor) -> Tensor:
    """A copy of the state that a piece starts from."""
    dtype = torch.promote_types(u.dtype, torch.float32)
    if state is None:
        return u.new_zeros((u.shape[0], *A.shape), dtype=dtype)
    return state.to(dtype, copy=True)


def _before_conv(
    x: Tensor, rows: slice, times: slice, weights: Weights, matrices: Matrices, conv_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """u and z of a piece, side by side in memory, and what the convolution has to know of u before it.

    Inside a sequence that is u again, from a few more rows of the product: cheaper than to carry and save it.
    """
    reach = weights.conv_weight.shape[1] - 1 if times.start > 0 else 0
    part = x[rows, times.start - reach : times.stop]
    uz = torch.mm(_flat(part), matrices.in_proj.t()).view(*part.shape[:2], -1)
    u, z = uz.chunk(2, dim=2)
    if times.start == 0:
        return u, z, None if conv_state is None else conv_state[rows]
    return u[:, reach:], z[:, reach:], u[:, :reach]


def _selected(u: Tensor, weights: Weights, matrices: Matrices) -> tuple[Tensor, Tensor, Tensor, Tensor]:
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


def _sum_of_products(dy: Tensor, x: Tensor) -> Tensor:
    """Gradient of W in y = x W^T, (outputs, inputs), in float32 at least."""
    dy, x = (_flat(tensor) if tensor.dim() == 3 else tensor for tensor in (dy, x))
    if dy.is_cuda and dy.dtype.itemsize == 2:
        return torch.mm(dy.t(), x, out_dtype=torch.float32)
    return torch.mm(dy.t(), x)
