"""The Mamba mixer as the composition of its parts (Gu & Dao 2023, figure 3 and algorithm 2)."""

import torch.nn.functional as F
from torch import Tensor

from ssm_seq.kernels.causal_conv1d import causal_conv1d
from ssm_seq.kernels.selective_scan import selective_scan


def mamba_mixer(
    x: Tensor,
    in_proj: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_proj: Tensor,
    conv_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """u, z = W_in x; v = silu(conv(u)); delta, B, C = W_x v; out = W_out (scan(v, W_dt delta, B, C) silu(z)).

    d_inner, d_state, dt_rank and width are those of A, dt_proj and conv_weight.

    Args:
        x: (batch, length, d_model).
        in_proj: (2 * d_inner, d_model), the rows for u before those for the gate z.
        conv_weight: (d_inner, width).
        conv_bias: (d_inner,).
        x_proj: (dt_rank + 2 * d_state, d_inner), the rows for delta before those for B and for C.
        dt_proj: (d_inner, dt_rank).
        dt_bias, D: (d_inner,).
        A: (d_inner, d_state), real and negative.
        out_proj: (d_model, d_inner).
        conv_state: the last width - 1 inputs of the convolution, (batch, width - 1, d_inner), zeros if None.
        ssm_state: the state of the recurrence, (batch, d_inner, d_state), zeros if None.

    Returns:
        out like x; both states after the last position: that of the convolution in the dtype of the
        products, that of the recurrence in float32 (float64 for float64 inputs).
    """
    dt_rank, d_state = dt_proj.shape[1], A.shape[1]
    # Two products, for each result to be contiguous as the kernels want it.
    into_u, into_z = in_proj.to(x.dtype).chunk(2)
    u, z = F.linear(x, into_u), F.linear(x, into_z)
    u, conv_state = causal_conv1d(u, conv_weight, conv_bias, "silu", conv_state)
    low, B, C = F.linear(u, x_proj.to(x.dtype)).split([dt_rank, d_state, d_state], dim=-1)
    delta = F.linear(low, dt_proj.to(x.dtype))
    y, ssm_state = selective_scan(u, delta, A, B, C, D, z, dt_bias, True, ssm_state)
    return F.linear(y, out_proj.to(x.dtype)), conv_state, ssm_state
