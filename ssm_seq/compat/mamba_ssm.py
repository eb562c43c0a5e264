"""The functions of mamba-ssm 2.3 and causal-conv1d 1.7 under their signatures, on this library's kernels.

    from ssm_seq.compat.mamba_ssm import selective_scan_fn, selective_state_update
    from ssm_seq.compat.mamba_ssm import causal_conv1d_fn, causal_conv1d_update

Sequences are (batch, dim, length) there and (batch, length, dim) in the kernels: arguments and results are
transposed views. A view of a channels-last tensor, which is what a projection gives, reaches the kernels
without a copy, and so do results on their way to the next projection.

What is more than there: every device, every dtype of the kernels, gradients of the last state, any number of
channels and any width. Wrong arguments raise ValueError.
"""

import torch
from torch import Tensor

from ssm_seq.kernels import causal_conv1d, causal_conv1d_step, selective_scan, selective_step
from ssm_seq.kernels.checks import expect, expect_axes

_INTEGERS = (torch.int32, torch.int64)


def selective_scan_fn(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    return_last_state: bool = False,
) -> Tensor | tuple[Tensor, Tensor]:
    """The selective scan (Gu & Dao 2023, algorithm 2) under the signature of mamba-ssm.

    Args:
        u, delta, z: (batch, dim, length).
        A: (dim, d_state), real, or complex64 or complex128 for one half of conjugate pairs.
        B, C: (dim, d_state) in A's kind, the same at every position; or (batch, d_state, length) or
            (batch, groups, d_state, length), real. With a complex A the last axis of these two is
            2 * length long, real and imaginary parts in turn.
        D, delta_bias: (dim,).

    Returns:
        out (batch, dim, length) in u's dtype, and if return_last_state the state after the last position,
        (batch, dim, d_state).

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name.
    """
    batch, dim, length = expect_axes("u", u, "batch, dim, length")
    if A.dim() != 2 or len(A) != dim or A.shape[1] == 0:
        raise ValueError(f"A has shape {tuple(A.shape)}, expected (dim, d_state) with dim = {dim}")
    for name, tensor in (("delta", delta), ("z", z)):
        expect(name, tensor, "batch, dim, length", (batch, dim, length), u)
    for name, tensor in (("D", D), ("delta_bias", delta_bias)):
        expect(name, tensor, "dim", (dim,), u)
    out, last_state = selective_scan(
        u.transpose(1, 2),
        delta.transpose(1, 2),
        A,
        _by_position("B", B, A, batch, length),
        _by_position("C", C, A, batch, length),
        D,
        None if z is None else z.transpose(1, 2),
        delta_bias,
        delta_softplus,
    )
    out = out.transpose(1, 2)
    return (out, last_state) if return_last_state else out


def _by_position(name: str, matrix: Tensor, A: Tensor, batch: int, length: int) -> Tensor:
    """B or C as the kernels take it: (dim, d_state) or (batch, length, [groups,] d_state)."""
    dim, d_state = A.shape
    row, pairs = (2 * length, "2 * length") if A.is_complex() else (length, "length")
    groups = matrix.shape[1] if matrix.dim() == 4 else 1
    shapes = {
        2: (dim, d_state),
        3: (batch, d_state, row),
        4: (batch, groups, d_state, row),
    }
    if tuple(matrix.shape) != shapes.get(matrix.dim()) or groups == 0 or dim % groups:
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)}, expected (dim, d_state) = {shapes[2]}, "
            f"(batch, d_state, {pairs}) = {shapes[3]} or (batch, groups, d_state, {pairs}) "
            f"with groups a divisor of dim = {dim}"
        )
    if matrix.dim() == 2:
        return matrix
    if not matrix.is_floating_point():
        numbers = "real and imaginary parts in turn" if A.is_complex() else "real numbers"
        raise ValueError(
            f"{name} has shape {tuple(matrix.shape)} and dtype {matrix.dtype}, expected {numbers}"
        )
    if A.is_complex():
        parts = matrix.to(torch.promote_types(matrix.dtype, torch.float32)).unflatten(-1, (length, 2))
        matrix = torch.view_as_complex(parts.contiguous())
    return matrix.transpose(1, 2) if matrix.dim() == 3 else matrix.permute(0, 3, 1, 2)


@torch.no_grad()
def selective_state_update(
    state: Tensor,
    x: Tensor,
    dt: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    dt_bias: Tensor | None = None,
    dt_softplus: bool = False,
    state_batch_indices: Tensor | None = None,
) -> Tensor:
    """One position of the selective scan, the state updated in place, under the signature of mamba-ssm.

    For generation: no gradient goes through it.

    Args:
        state: (batch, dim, d_state) or (batch, heads, dim, d_state), overwritten by the next state.
        x, dt, z: (batch, dim) or (batch, heads, dim).
        A: (dim, d_state) or (heads, dim, d_state).
        B, C: (batch, d_state) or (batch, groups, d_state).
        D, dt_bias: (dim,) or (heads, dim).
        state_batch_indices: (batch,) integers. Row b of x goes with row state_batch_indices[b] of the state,
            which then has any number of rows; no row may be named twice.
        Heads that share one dt, A and D may be expanded (stride 0) along dim and d_state.

    Returns:
        out like x, computed in float32 at least, also where the state is kept in 16 bits.

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name.
    """
    if state.dim() not in (3, 4) or 0 in state.shape:
        raise ValueError(
            f"state has shape {tuple(state.shape)}, expected (batch, dim, d_state) or "
            "(batch, heads, dim, d_state) with no axis empty"
        )
    entries, *inner, d_state = state.shape
    inner, axes = tuple(inner), "dim" if state.dim() == 3 else "heads, dim"
    batch = entries if state_batch_indices is None else len(x)
    for name, tensor in (("x", x), ("dt", dt), ("z", z)):
        expect(name, tensor, f"batch, {axes}", (batch, *inner), state)
    expect("A", A, f"{axes}, d_state", (*inner, d_state), state)
    for name, tensor in (("D", D), ("dt_bias", dt_bias)):
        expect(name, tensor, axes, inner, state)
    heads = inner[0] if len(inner) == 2 else 1
    matrix, form = "batch, d_state", (batch, d_state)
    if B.dim() == 3:
        groups = B.shape[1]
        if groups == 0 or heads % groups:
            raise ValueError(f"B has shape {tuple(B.shape)}, expected groups to divide heads = {heads}")
        matrix, form = "batch, groups, d_state", (batch, groups, d_state)
    expect("B", B, matrix, form, state)
    expect("C", C, matrix, form, state)
    expect("state_batch_indices", state_batch_indices, "batch", (batch,), state, _INTEGERS)

    rows = None if state_batch_indices is None else state_batch_indices.long()
    taken = state if rows is None else state[rows]
    channels = taken.flatten(1, -2)  # heads are runs of channels
    out = selective_step(
        channels,
        x.flatten(1),
        dt.flatten(1),
        A.flatten(0, -2),
        B[:, None] if B.dim() == 2 else B,
        C[:, None] if C.dim() == 2 else C,
        None if D is None else D.flatten(),
        None if z is None else z.flatten(1),
        None if dt_bias is None else dt_bias.flatten(),
        dt_softplus,
    )
    if rows is not None:
        state[rows] = channels.view(taken.shape)
    elif len(inner) == 2 and state.stride(1) != state.shape[2] * state.stride(2):
        state.copy_(channels.view(state.shape))  # those heads were no run, but copied into one
    return out.view(x.shape)


def causal_conv1d_fn(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    seq_idx: Tensor | None = None,
    initial_states: Tensor | None = None,
    return_final_states: bool = False,
    final_states_out: Tensor | None = None,
    activation: str | None = None,
) -> Tensor | tuple[Tensor, Tensor]:
    """The short depthwise convolution under the signature of causal-conv1d.

    Args:
        x: (batch, dim, length).
        weight: (dim, width); bias: (dim,).
        seq_idx: (batch, length) integers: positions with one number, side by side, are one packed sequence.
            Taps before a sequence's first position are zero; where the number is negative the output is zero.
        initial_states: (batch, dim, width - 1), the inputs before x; with seq_idx before its first sequence.
        final_states_out: (batch, dim, width - 1), where the final states are written; needs
            return_final_states.
        activation: None, "silu" or "swish" (the same).

    Returns:
        out (batch, dim, length) in x's dtype, and if return_final_states the last width - 1 inputs,
        (batch, dim, width - 1).

    Raises:
        ValueError: a shape, dtype, device or activation that does not fit, with the argument's name; final
            states together with seq_idx.
    """
    batch, dim, length = expect_axes("x", x, "batch, dim, length")
    before = (batch, dim, _width(weight, bias, x) - 1)
    expect("initial_states", initial_states, "batch, dim, width - 1", before, x)
    expect("final_states_out", final_states_out, "batch, dim, width - 1", before, x)
    expect("seq_idx", seq_idx, "batch, length", (batch, length), x, _INTEGERS)
    if seq_idx is not None and return_final_states:
        raise ValueError("return_final_states is True, expected False where seq_idx is given")
    starts = None
    if seq_idx is not None:
        starts = torch.zeros_like(seq_idx, dtype=torch.bool)
        starts[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    out, final = causal_conv1d(
        x.transpose(1, 2),
        weight,
        bias,
        _activation(activation),
        None if initial_states is None else initial_states.transpose(1, 2),
        starts,
    )
    if seq_idx is not None:
        out = out.masked_fill((seq_idx < 0)[..., None], 0)
    if not return_final_states:
        return out.transpose(1, 2)
    final = final.transpose(1, 2)
    return out.transpose(1, 2), final if final_states_out is None else final_states_out.copy_(final)


@torch.no_grad()
def causal_conv1d_update(
    x: Tensor,
    conv_state: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    activation: str | None = None,
    cache_seqlens: Tensor | None = None,
    conv_state_indices: Tensor | None = None,
) -> Tensor:
    """`causal_conv1d_fn` of the next positions, their past updated in place, as in causal-conv1d.

    For generation: no gradient goes through it.

    Args:
        x: (batch, dim) or (batch, dim, length).
        conv_state: (batch, dim, state_len), the last inputs, state_len >= width - 1; overwritten.
        weight: (dim, width); bias: (dim,).
        activation: None, "silu" or "swish" (the same).
        cache_seqlens: (batch,) integers. conv_state is then a ring and x is written from place
            cache_seqlens % state_len on, the inputs before it lying before that place.
        conv_state_indices: (batch,) integers. Row b of x goes with row conv_state_indices[b] of conv_state,
            which then has any number of rows; no row may be named twice. Where it is negative the output is
            zero and no state changes.

    Returns:
        out like x.

    Raises:
        ValueError: a shape, dtype, device or activation that does not fit, with the argument's name.
    """
    if x.dim() == 2:
        arguments = (conv_state, weight, bias, activation, cache_seqlens, conv_state_indices)
        return causal_conv1d_update(x[..., None], *arguments)[..., 0]
    batch, dim, length = expect_axes("x", x, "batch, dim, length")
    width = _width(weight, bias, x)
    entries, _, state_len = expect_axes("conv_state", conv_state, "batch, dim, state_len")
    if state_len < width - 1:
        raise ValueError(
            f"conv_state has shape {tuple(conv_state.shape)}, expected (batch, dim, state_len) "
            f"with state_len >= width - 1 = {width - 1}"
        )
    entries = batch if conv_state_indices is None else entries
    expect("conv_state", conv_state, "batch, dim, state_len", (entries, dim, state_len), x)
    expect("cache_seqlens", cache_seqlens, "batch", (batch,), x, _INTEGERS)
    expect("conv_state_indices", conv_state_indices, "batch", (batch,), x, _INTEGERS)

    if length == 1 and cache_seqlens is None and conv_state_indices is None:
        older = state_len - (width - 1)
        if older:
            conv_state[..., :older] = conv_state[..., 1 : older + 1].clone()
        taps = conv_state[..., older:].transpose(1, 2)
        return causal_conv1d_step(taps, x[..., 0], weight, bias, _activation(activation))[..., None]
    state, real = conv_state, None
    if conv_state_indices is not None:
        real = conv_state_indices >= 0
        state = conv_state[conv_state_indices.long().clamp(min=0)]
    if cache_seqlens is None:
        past = state[..., state_len - (width - 1) :]
        after = torch.cat([state, x.to(state.dtype)], dim=-1)[..., length:]
    else:
        past = state.gather(2, _places(cache_seqlens, 1 - width, 0, state))
        kept = min(length, state_len)  # the ones before would be overwritten
        written = _places(cache_seqlens, length - kept, length, state)
        after = state.scatter(2, written, x[..., length - kept :].to(state.dtype))
    out = causal_conv1d(
        x.transpose(1, 2), weight, bias, _activation(activation), past.transpose(1, 2).to(x.dtype)
    )[0].transpose(1, 2)
    if conv_state_indices is None:
        conv_state.copy_(after)
        return out
    # Rows without a state repeat the first one that has one, so that equal values meet there: no row needs to
    # be picked out, which would wait for the device. If there is none, row 0 is written as it was.
    after = torch.where(real[:, None, None], after, state)
    stand_in = real.int().argmax()
    source = torch.where(real, torch.arange(batch, device=x.device), stand_in)
    conv_state[conv_state_indices.long()[source].clamp(min=0)] = after[source]
    return out.masked_fill(~real[:, None, None], 0)


def _places(cache_seqlens: Tensor, start: int, end: int, state: Tensor) -> Tensor:
    """Where cache_seqlens + start..end - 1 lie in the ring `state`, (batch, dim, end - start)."""
    positions = cache_seqlens.long()[:, None] + torch.arange(start, end, device=state.device)
    return (positions % state.shape[2])[:, None].expand(-1, state.shape[1], -1)


def _width(weight: Tensor, bias: Tensor | None, x: Tensor) -> int:
    """The width of the convolution, its weights checked."""
    dim, (_, width) = x.shape[1], expect_axes("weight", weight, "dim, width")
    expect("weight", weight, "dim, width", (dim, width), x)
    expect("bias", bias, "dim", (dim,), x)
    return width


def _activation(name: str | None) -> str | None:
    if name not in (None, "silu", "swish"):
        raise ValueError(f"activation is {name!r}, expected None, 'silu' or 'swish'")
    return None if name is None else "silu"
