"""One step of the selective scan on a GPU: one launch."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from ssm_seq.kernels.gpu_math import sigmoid, softplus
from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2

TILE = 1024  # states of a program, at least one channel's


@triton.jit
def _step_kernel(
    state, u, delta, A, B, C, D, z, bias, y,
    state_batch, state_channel, state_n, u_row, delta_row, z_row, B_batch, B_group, C_batch, C_group,
    CHANNELS: tl.constexpr, D_STATE: tl.constexpr, B_SHARE: tl.constexpr, C_SHARE: tl.constexpr,
    SOFTPLUS: tl.constexpr, BLOCK: tl.constexpr, D_TILE: tl.constexpr,
):  # fmt: skip
    """B_SHARE, C_SHARE: neighbouring channels that share a row of B, of C."""
    c = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)[:, None]
    n = tl.arange(0, D_TILE)[None, :]
    b = tl.program_id(0).to(tl.int64)
    in_c = c < CHANNELS
    inside = in_c & (n < D_STATE)
    place = state + b * state_batch + c.to(tl.int64) * state_channel + n * state_n
    x = tl.load(place, mask=inside, other=0.0).to(tl.float32)
    rate = tl.load(A + c * D_STATE + n, mask=inside, other=0.0).to(tl.float32)
    into = tl.load(B + b * B_batch + (c // B_SHARE) * B_group + n, mask=inside, other=0.0).to(tl.float32)
    out_of = tl.load(C + b * C_batch + (c // C_SHARE) * C_group + n, mask=inside, other=0.0).to(tl.float32)
    value = tl.load(u + b * u_row + c, mask=in_c, other=0.0).to(tl.float32)
    step = tl.load(delta + b * delta_row + c, mask=in_c, other=0.0).to(tl.float32)
    if bias is not None:
        step += tl.load(bias + c, mask=in_c, other=0.0).to(tl.float32)
    if SOFTPLUS:
        step = softplus(step)
    x = tl.exp2(step * rate * 1.4426950408889634) * x + step * value * into
    tl.store(place, x, mask=inside)
    out = tl.sum(x * out_of, 1)[:, None]
    if D is not None:
        out += tl.load(D + c, mask=in_c, other=0.0).to(tl.float32) * value
    if z is not None:
        gate = tl.load(z + b * z_row + c, mask=in_c, other=0.0).to(tl.float32)
        out *= gate * sigmoid(gate)
    tl.store(y + b * CHANNELS + c, out, mask=in_c)


def step(
    state: Tensor,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
) -> Tensor:
    """y; the state is overwritten. B, C: (batch, groups, d_state)."""
    batch, channels, d_state = state.shape
    u, delta, z, B, C = (t if t is None or t.stride(-1) == 1 else t.contiguous() for t in (u, delta, z, B, C))
    D, delta_bias = (None if t is None else t.contiguous() for t in (D, delta_bias))
    y = torch.empty((batch, channels), dtype=u.dtype, device=u.device)
    # A warp has 256 states or is the only one: no state is held twice, so none is read after its overwriting.
    d_tile = next_power_of_2(d_state)
    block = min(max(TILE // d_tile, 1), next_power_of_2(channels))
    arguments = (
        state, u, delta, A.contiguous(), B, C, D, z, delta_bias, y,
        *state.stride(), u.stride(0), delta.stride(0), 0 if z is None else z.stride(0),
        *B.stride()[:2], *C.stride()[:2],
    )  # fmt: skip
    launch(
        _step_kernel, (batch, ceil_div(channels, block)), arguments,
        CHANNELS=channels, D_STATE=d_state, B_SHARE=channels // B.shape[1], C_SHARE=channels // C.shape[1],
        SOFTPLUS=delta_softplus, BLOCK=block, D_TILE=d_tile,
        num_warps=min(max(block * d_tile // 256, 1), 4),
    )  # fmt: skip
    return y
