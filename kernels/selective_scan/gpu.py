"""The selective scan on a GPU: how the work is cut, and the launches."""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2, processors
from ssm_seq.kernels.rows import even_rows
from ssm_seq.kernels.selective_scan.gpu_backward import gradients
from ssm_seq.kernels.selective_scan.gpu_forward import chunk_ends, outputs, pass_over_chunks

INTERVAL = 16  # a state is kept for the backward pass every so many steps
ROUND = 4  # steps whose states the backward pass holds in registers
_LOG2_E = 1 / math.log(2)


@dataclass(frozen=True)
class Cut:
    """How the forward pass is cut.

    channels: of one thread; states: of one thread, at most; chunk: steps of one warp; unroll: steps whose
    loads go out together; registers: of a thread, at most.
    """

    channels: int
    states: int
    chunk: int
    unroll: int
    registers: int


def forward_cut(batch: int, length: int, of_group: int, groups: int, d_state: int, processors: int) -> Cut:
    """Long chunks, as many as fill the machine once; none but the whole where the sequences fill it alone.

    Measured on an H100: a thread with 32 states keeps 8 warps on a multiprocessor, one with fewer 12.
    """

    def warps(cut: Cut) -> int:
        return batch * groups * ceil_div(of_group, cut.channels * 32 // _tile(d_state, cut.states)[1])

    if d_state > 16:
        deep = Cut(1, 32, 0, 4, 255)
        return replace(deep, chunk=_even_chunk(length, 8 * processors // warps(deep)))
    whole = Cut(1, 16, length, 8, 255)
    if warps(whole) >= 2.75 * processors:
        return whole
    wide, narrow = Cut(2, 16, 0, 4, 168), Cut(1, 16, 0, 8, 168)
    chunk = _even_chunk(length, 12 * processors // warps(wide))
    if chunk >= 4096:
        return replace(wide, chunk=chunk)
    return replace(narrow, chunk=_even_chunk(length, 12 * processors // warps(narrow)))


def _even_chunk(length: int, chunks: int) -> int:
    """Steps of a chunk where there are to be about so many: whole stages and intervals, not too short."""
    return max(ceil_div(length, max(chunks, 1) * 32) * 32, 128)


def _tile(d_state: int, states: int) -> tuple[int, int]:
    """d_state rounded up to a power of 2, and the lanes that share a channel with `states` each at most."""
    tile = next_power_of_2(d_state)
    return tile, min(max(tile // states, 1), 32)


def kept_dtype(u: Tensor) -> torch.dtype:
    """Kept states are rounded like the inputs, but with the range of float32."""
    return torch.float32 if u.dtype == torch.float32 else torch.bfloat16


def kept_shape(u: Tensor, A: Tensor) -> tuple[int, ...]:
    """Shape of the states that the forward pass keeps for the backward pass."""
    batch, length, channels = u.shape
    return batch, ceil_div(length, INTERVAL), channels, A.shape[1]


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
    cut: Cut | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the kept states (empty unless `keep`)."""
    batch, length, channels = u.shape
    d_state = A.shape[1]
    groups = _groups(B, C)
    B, C = (_in_groups(matrix, groups) for matrix in (B, C))
    u, delta, z = even_rows(u), even_rows(delta), None if z is None else even_rows(z)
    A2 = (A.float() * _LOG2_E).contiguous()
    D, bias = (None if v is None else v.float().contiguous() for v in (D, delta_bias))
    resets = None if resets is None else resets.contiguous().view(torch.uint8)
    cut = cut or forward_cut(batch, length, channels // groups, groups, d_state, processors(u.device))
    d_tile, lanes = _tile(d_state, cut.states)
    chunks = ceil_div(length, cut.chunk)
    blocks = groups * ceil_div(channels // groups, cut.channels * 32 // lanes)
    shared = {
        "CHANNELS_ALL": channels, "D_STATE": d_state, "GROUPS": groups,
        "DELTA_ROW": delta.stride(1), "UNROLL": cut.unroll, "SOFTPLUS": delta_softplus,
        "HAS_BIAS": bias is not None, "HAS_RESETS": resets is not None, "FLIP": reverse,
        "ROUGH": u.dtype != torch.float32,
        "STAGE": _stage(cut, d_tile), "CHANNELS": cut.channels, "D_TILE": d_tile, "LANES": lanes,
        "TILES": _tiles(d_tile, lanes), "num_warps": 1, "maxnreg": cut.registers,
    }  # fmt: skip
    if chunks > 1:
        states, sums = (u.new_empty(shape, dtype=torch.float32) for shape in _chunk_shapes(batch, chunks, A))
        launch(
            chunk_ends, (batch * (chunks - 1) * blocks,),
            (u, delta, A2, B, None, bias, resets, states, sums, length, cut.chunk, chunks),
            ROW=u.stride(1), Z_ROW=0, FIXED=B.dim() == 2, HAS_Z=False, ADJOINT=False, **shared,
        )  # fmt: skip
        pass_states(states, sums, A2, initial_state, resets is not None, reverse=False)
    else:
        states = None if initial_state is None else initial_state.float().contiguous()
    y = torch.empty((batch, length, channels), dtype=u.dtype, device=u.device)
    final = u.new_empty((batch, channels, d_state), dtype=torch.float32)
    kept = u.new_empty(kept_shape(u, A) if keep else (0, 0, 0, 0), dtype=kept_dtype(u))
    launch(
        outputs, (batch * chunks * blocks,),
        (u, delta, A2, B, C, D, z, bias, resets, states, y, final, kept, length, cut.chunk, chunks),
        U_ROW=u.stride(1), Z_ROW=0 if z is None else z.stride(1), B_FIXED=B.dim() == 2, C_FIXED=C.dim() == 2,
        KEEP=INTERVAL if keep else 0,
        HAS_START=states is not None, HAS_D=D is not None, HAS_Z=z is not None, **shared,
    )  # fmt: skip
    return y, final, kept


def _stage(cut: Cut, d_tile: int) -> int:
    """Steps whose B and C wait in shared memory."""
    return max(cut.unroll, min(32, 512 // d_tile))


def _tiles(d_tile: int, lanes: int) -> int:
    """Groups of states, four to a thread each."""
    return max(d_tile // lanes // 4, 1)


def _groups(*matrices: Tensor) -> int:
    """Of B and C alike; a matrix that is fixed in time has one row for each channel anyway."""
    return math.lcm(*(matrix.shape[2] for matrix in matrices if matrix.dim() == 4))


def _in_groups(matrix: Tensor, groups: int) -> Tensor:
    """Contiguous, with the rows of its groups repeated where there are fewer of them."""
    if matrix.dim() == 4 and matrix.shape[2] != groups:
        matrix = matrix.repeat_interleave(groups // matrix.shape[2], dim=2)
    return matrix.contiguous()


def _chunk_shapes(batch: int, chunks: int, A: Tensor) -> tuple[tuple[int, ...], ...]:
    return (batch, chunks, *A.shape), (batch, chunks, A.shape[0])


def pass_states(
    states: Tensor, sums: Tensor, A2: Tensor, start: Tensor | None, has_resets: bool, reverse: bool
) -> None:
    """Turn the chunks' end states into the states at their starts, in place."""
    batch, chunks, channels, d_state = states.shape
    start = None if start is None else start.float().contiguous()
    grid = (ceil_div(channels * d_state, 32), batch)
    launch(
        pass_over_chunks, grid, (states, sums, A2, start, chunks),
        CHANNELS_ALL=channels, D_STATE=d_state, HAS_START=start is not None, REVERSE=reverse,
        HAS_RESETS=has_resets, BLOCK=32, UNROLL=8, num_warps=1,
    )  # fmt: skip


def _ends_cut(walks: int, d_state: int, processors: int) -> Cut:
    """For the chunks' ends of the backward pass: two channels a thread where 6 warps a processor remain."""
    if d_state > 16:
        return Cut(1, 32, 0, 4, 255)
    return Cut(2, 16, 0, 4, 168) if walks >= 6 * 64 * processors else Cut(1, 16, 0, 4, 128)


@dataclass(frozen=True)
class BackwardCut:
    """channels, states: of one thread; chunk: steps of one warp; blocks: blocks of channels that it does one
    after the other."""

    channels: int
    states: int
    chunk: int
    blocks: int


def backward_cut(
    batch: int, length: int, of_group: int, groups: int, d_state: int, processors: int
) -> BackwardCut:
    """One warp for each of the 8 places that a multiprocessor has for this kernel.

    Long chunks first, for which a warp does several blocks; this also leaves fewer parts of dB and dC.
    """
    channels, states = (4, 4) if d_state <= 16 else (2, 8)
    blocks = ceil_div(of_group, channels * 32 // _tile(d_state, states)[1])
    places = 8 * processors // (batch * groups)
    sets = min(max(places // ceil_div(length, 8192), 1), blocks)
    if length >= 32768:
        sets = min(sets, 8)
    each = ceil_div(blocks, sets)
    return BackwardCut(channels, states, _even_chunk(length, places // ceil_div(blocks, each)), each)


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
    cut: BackwardCut | None = None,
) -> tuple[Tensor, ...]:
    """Gradients of u, delta, A, B, C, D, z, delta_bias and the initial state, and y if `again`.

    dz: where to write the gradient of z, even rows; a new tensor if None.
    """
    batch, length, channels = u.shape
    d_state = A.shape[1]
    groups, given = _groups(B, C), (B, C)
    B, C = (_in_groups(matrix, groups) for matrix in given)
    dy, u, delta, z = even_rows(dy), even_rows(u), even_rows(delta), None if z is None else even_rows(z)
    A2 = (A.float() * _LOG2_E).contiguous()
    D, bias = (None if v is None else v.float().contiguous() for v in (D, delta_bias))
    resets = None if resets is None else resets.contiguous().view(torch.uint8)
    cut = cut or backward_cut(batch, length, channels // groups, groups, d_state, processors(u.device))
    d_tile, lanes = _tile(d_state, cut.states)
    chunks = ceil_div(length, cut.chunk)
    shared = {
        "CHANNELS_ALL": channels, "D_STATE": d_state, "GROUPS": groups, "DELTA_ROW": delta.stride(1),
        "Z_ROW": 0 if z is None else z.stride(1), "SOFTPLUS": delta_softplus, "HAS_BIAS": bias is not None,
        "HAS_Z": z is not None, "HAS_RESETS": resets is not None, "FLIP": reverse, "D_TILE": d_tile,
        "ROUGH": u.dtype != torch.float32, "num_warps": 1,
    }  # fmt: skip
    ends = None if dfinal is None else dfinal.float().contiguous()
    if chunks > 1:
        ends, sums = (u.new_empty(shape, dtype=torch.float32) for shape in _chunk_shapes(batch, chunks, A))
        ahead = _ends_cut(batch * (chunks - 1) * channels, d_state, processors(u.device))
        end_lanes = _tile(d_state, ahead.states)[1]
        end_blocks = groups * ceil_div(channels // groups, ahead.channels * 32 // end_lanes)
        launch(
            chunk_ends, (batch * (chunks - 1) * end_blocks,),
            (dy, delta, A2, C, z, bias, resets, ends, sums, length, cut.chunk, chunks),
            ROW=dy.stride(1), FIXED=C.dim() == 2, ADJOINT=True, UNROLL=ahead.unroll,
            STAGE=_stage(ahead, d_tile), CHANNELS=ahead.channels, LANES=end_lanes,
            TILES=_tiles(d_tile, end_lanes), maxnreg=ahead.registers, **shared,
        )  # fmt: skip
        pass_states(ends, sums, A2, dfinal, resets is not None, reverse=True)
    sets = ceil_div(ceil_div(channels // groups, cut.channels * 32 // lanes), cut.blocks)
    du, ddelta = (torch.empty((batch, length, channels), dtype=v.dtype, device=u.device) for v in (u, delta))
    if z is not None and dz is None:
        dz = torch.empty((batch, length, channels), dtype=z.dtype, device=u.device)
    y = torch.empty((batch, length, channels) if again else 0, dtype=u.dtype, device=u.device)
    dA, dstart = (u.new_empty((batch, k, channels, d_state), dtype=torch.float32) for k in (chunks, 1))
    if B.shape == C.shape:  # one tensor, so that one sum does
        dB, dC = dBC = u.new_empty((2, *_parts_shape(B, sets, dA)), dtype=torch.float32)
    else:
        dB, dC = dBC = [u.new_empty(_parts_shape(matrix, sets, dA), dtype=torch.float32) for matrix in (B, C)]
    dD, dbias = dDbias = u.new_empty((2, batch, chunks, channels), dtype=torch.float32)
    launch(
        gradients, (batch * chunks * sets * groups,),
        (
            dy, u, delta, A2, B, C, D, z, bias, resets, kept, ends,
            du, ddelta, dA, dB, dC, dD, dz, dbias, dstart, y, length, cut.chunk, chunks,
        ),
        DY_ROW=dy.stride(1), U_ROW=u.stride(1), B_FIXED=B.dim() == 2, C_FIXED=C.dim() == 2,
        DZ_ROW=0 if dz is None else dz.stride(1), HAS_D=D is not None, HAS_ENDS=ends is not None, AGAIN=again,
        KEEP=INTERVAL, ROUND=ROUND, SUBS=cut.blocks, CHANNELS=cut.channels, LANES=lanes, **shared,
    )  # fmt: skip
    if isinstance(dBC, Tensor):
        dB, dC = _added_up(dBC, 1)
    else:
        dB, dC = (_added_up(parts, 0) for parts in dBC)
    dB, dC = (_of_own_groups(whole, matrix) for whole, matrix in zip((dB, dC), given, strict=True))
    dA, (dD, dbias) = dA.sum((0, 1)), dDbias.sum((1, 2))
    return du, ddelta, dA, dB, dC, dD, u.new_empty(0) if dz is None else dz, dbias, dstart[:, 0], y


def _parts_shape(matrix: Tensor, sets: int, dA: Tensor) -> tuple[int, ...]:
    """Of the parts of a matrix's gradient: one a set of channels, or one a chunk where fixed in time."""
    return (1, sets, *matrix.shape) if matrix.dim() == 4 else tuple(dA.shape)


def _added_up(parts: Tensor, axis: int) -> Tensor:
    """The sum over the two axes of the parts from `axis` on."""
    if parts.shape[axis] * parts.shape[axis + 1] == 1:
        return parts.squeeze(axis).squeeze(axis)
    return parts.sum((axis, axis + 1))


def _of_own_groups(gradient: Tensor, matrix: Tensor) -> Tensor:
    """The gradient of the matrix from that of its repeated groups."""
    if gradient.shape == matrix.shape:
        return gradient
    return gradient.unflatten(2, (matrix.shape[2], -1)).sum(3)
