"""The selective scan on a GPU: how the work is cut, and the launches."""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
import triton
from torch import Tensor

from ssm_seq.kernels.rows import even_rows
from ssm_seq.kernels.selective_scan.gpu_backward import adjoint_ends, gradients
from ssm_seq.kernels.selective_scan.gpu_forward import chunk_ends, outputs, pass_over_chunks

INTERVAL = 16  # a state is kept for the backward pass every so many steps
GROUP = 4  # steps whose states the backward pass holds in registers
_LOG2_E = 1 / math.log(2)


@dataclass(frozen=True)
class Cut:
    """channels: of one thread; chunk: steps of one warp; unroll: steps whose loads go out together."""

    channels: int
    chunk: int
    unroll: int


def forward_cut(batch: int, length: int, channels: int, d_state: int, processors: int) -> Cut:
    """Chunks as long as they can be while 16 warps for every multiprocessor remain."""
    per_thread = 2
    block = per_thread * 32 // _tile(d_state, 16)[1]
    warps = batch * triton.cdiv(channels, block)
    chunk = 512
    while chunk > 128 and warps * triton.cdiv(length, chunk) < 16 * processors:
        chunk //= 2
    return Cut(per_thread, chunk, 4)


@lru_cache
def _processors(device: torch.device) -> int:
    return torch.cuda.get_device_properties(device).multi_processor_count


def _tile(d_state: int, states: int) -> tuple[int, int]:
    """d_state rounded up to a power of 2, and the lanes that share a channel with `states` each at most."""
    tile = triton.next_power_of_2(d_state)
    return tile, min(max(tile // states, 1), 32)


def kept_dtype(u: Tensor) -> torch.dtype:
    """Kept states are rounded like the inputs, but with the range of float32."""
    return torch.float32 if u.dtype == torch.float32 else torch.bfloat16


def kept_shape(u: Tensor, A: Tensor) -> tuple[int, ...]:
    """Shape of the states that the forward pass keeps for the backward pass."""
    batch, length, channels = u.shape
    return batch, triton.cdiv(length, INTERVAL), channels, A.shape[1]


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
    cut: Cut | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the kept states (empty unless `keep`)."""
    batch, length, channels = u.shape
    d_state = A.shape[1]
    u, delta, z = even_rows(u), even_rows(delta), None if z is None else even_rows(z)
    B, C, A2 = B.contiguous(), C.contiguous(), (A.float() * _LOG2_E).contiguous()
    D, bias = (None if v is None else v.float().contiguous() for v in (D, delta_bias))
    cut = cut or forward_cut(batch, length, channels, d_state, _processors(u.device))
    d_tile, lanes = _tile(d_state, 16)
    chunks = triton.cdiv(length, cut.chunk)
    grid = (batch * chunks * triton.cdiv(channels, cut.channels * 32 // lanes),)
    shared = {
        "CHANNELS_ALL": channels, "D_STATE": d_state, "U_ROW": u.stride(1), "DELTA_ROW": delta.stride(1),
        "UNROLL": cut.unroll, "SOFTPLUS": delta_softplus, "HAS_BIAS": bias is not None,
        "STAGE": max(cut.unroll, min(32, 512 // d_tile)), "CHANNELS": cut.channels, "D_TILE": d_tile,
        "LANES": lanes, "num_warps": 1, "maxnreg": 128,
    }  # fmt: skip
    if chunks > 1:
        states, sums = (u.new_empty(shape, dtype=torch.float32) for shape in _chunk_shapes(batch, chunks, A))
        chunk_ends[grid](u, delta, A2, B, bias, states, sums, length, cut.chunk, chunks, **shared)
        pass_states(states, sums, A2, initial_state, reverse=False)
    else:
        states = None if initial_state is None else initial_state.float().contiguous()
    y = torch.empty((batch, length, channels), dtype=u.dtype, device=u.device)
    final = u.new_empty((batch, channels, d_state), dtype=torch.float32)
    kept = u.new_empty(kept_shape(u, A) if keep else (0, 0, 0, 0), dtype=kept_dtype(u))
    outputs[grid](
        u, delta, A2, B, C, D, z, bias, states, y, final, kept, length, cut.chunk, chunks,
        Z_ROW=0 if z is None else z.stride(1), KEEP=INTERVAL if keep else 0, HAS_START=states is not None,
        HAS_D=D is not None, HAS_Z=z is not None, **shared,
    )  # fmt: skip
    return y, final, kept


def _chunk_shapes(batch: int, chunks: int, A: Tensor) -> tuple[tuple[int, ...], ...]:
    return (batch, chunks, *A.shape), (batch, chunks, A.shape[0])


def pass_states(states: Tensor, sums: Tensor, A2: Tensor, start: Tensor | None, reverse: bool) -> None:
    """Turn the chunks' end states into the states at their starts, in place."""
    batch, chunks, channels, d_state = states.shape
    start = None if start is None else start.float().contiguous()
    grid = (triton.cdiv(channels * d_state, 32), batch)
    pass_over_chunks[grid](
        states, sums, A2, start, chunks, CHANNELS_ALL=channels, D_STATE=d_state,
        HAS_START=start is not None, REVERSE=reverse, BLOCK=32, UNROLL=8, num_warps=1,
    )  # fmt: skip


@dataclass(frozen=True)
class BackwardCut:
    """chunk: steps of one warp; blocks: blocks of channels that it does one after the other."""

    chunk: int
    blocks: int


def backward_cut(batch: int, length: int, blocks: int, processors: int) -> BackwardCut:
    """Many blocks a warp, for fewer parts of dB and dC, and long chunks, while all warps have work."""
    chunk, each = 512, min(blocks, 16)
    while each > 1 and batch * triton.cdiv(length, chunk) * triton.cdiv(blocks, each) < 48 * processors:
        each //= 2
    while chunk > 128 and batch * triton.cdiv(length, chunk) * blocks < 16 * processors:
        chunk //= 2
    return BackwardCut(chunk, each)


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
    cut: BackwardCut | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state."""
    batch, length, channels = u.shape
    d_state = A.shape[1]
    dy, u, delta, z = even_rows(dy), even_rows(u), even_rows(delta), None if z is None else even_rows(z)
    B, C, A2 = B.contiguous(), C.contiguous(), (A.float() * _LOG2_E).contiguous()
    D, bias = (None if v is None else v.float().contiguous() for v in (D, delta_bias))
    d_tile, lanes = _tile(d_state, 4)
    blocks = triton.cdiv(channels, 4 * 32 // lanes)
    cut = cut or backward_cut(batch, length, blocks, _processors(u.device))
    chunks = triton.cdiv(length, cut.chunk)
    shared = {
        "CHANNELS_ALL": channels, "D_STATE": d_state, "DY_ROW": dy.stride(1), "DELTA_ROW": delta.stride(1),
        "Z_ROW": 0 if z is None else z.stride(1), "SOFTPLUS": delta_softplus, "HAS_BIAS": bias is not None,
        "HAS_Z": z is not None, "num_warps": 1,
    }  # fmt: skip
    ends = None if dfinal is None else dfinal.float().contiguous()
    if chunks > 1:
        ends, sums = (u.new_empty(shape, dtype=torch.float32) for shape in _chunk_shapes(batch, chunks, A))
        end_lanes = _tile(d_state, 16)[1]
        adjoint_ends[(batch * chunks * triton.cdiv(channels, 2 * 32 // end_lanes),)](
            dy, delta, A2, C, z, bias, ends, sums, length, cut.chunk, chunks,
            UNROLL=4, CHANNELS=2, D_TILE=d_tile, LANES=end_lanes, **shared,
        )  # fmt: skip
        pass_states(ends, sums, A2, dfinal, reverse=True)
    sets = triton.cdiv(blocks, cut.blocks)
    du, ddelta = (torch.empty((batch, length, channels), dtype=v.dtype, device=u.device) for v in (u, delta))
    dz = None if z is None else torch.empty((batch, length, channels), dtype=z.dtype, device=u.device)
    dA, dstart = (u.new_empty((batch, k, channels, d_state), dtype=torch.float32) for k in (chunks, 1))
    dB, dC = (u.new_empty((sets, batch, length, d_state), dtype=torch.float32) for _ in range(2))
    dD, dbias = (u.new_empty((batch, chunks, channels), dtype=torch.float32) for _ in range(2))
    gradients[(batch * chunks * sets,)](
        dy, u, delta, A2, B, C, D, z, bias, kept, ends,
        du, ddelta, dA, dB, dC, dD, dz, dbias, dstart, length, cut.chunk, chunks,
        U_ROW=u.stride(1), HAS_D=D is not None, HAS_ENDS=ends is not None, KEEP=INTERVAL, GROUP=GROUP,
        SUBS=cut.blocks, D_TILE=d_tile, LANES=lanes, **shared,
    )  # fmt: skip
    dB, dC = (part[0] if sets == 1 else part.sum(0) for part in (dB, dC))
    dA, dD, dbias = (part.sum((0, 1)) for part in (dA, dD, dbias))
    return du, ddelta, dA, dB, dC, dD, u.new_empty(0) if dz is None else dz, dbias, dstart[:, 0]
