"""The weights of whole language models as the decoders take them, and one step of each as its equations.

Both are x = embedding[id]; x += layer(norm(x)) for every layer; logits = head norm(x).
"""

from dataclasses import dataclass, fields
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.kernels.rms_norm.definition import rms_norm


@dataclass(frozen=True)
class Stack:
    """What all stacks have: tensors of one kind stacked over the layers, all of one dtype and device.

    embedding: (vocab, d_model). norm: (layers, d_model). final_norm: (d_model,). head: (vocab, d_model).
    eps: of all norms.
    """

    embedding: Tensor
    norm: Tensor
    final_norm: Tensor
    head: Tensor
    eps: float

    def to(self, form: torch.dtype | str) -> Self:
        """All tensors in another dtype, or on "meta": their shapes alone, without memory."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return type(self)(**{name: v.to(form) if isinstance(v, Tensor) else v for name, v in values.items()})

    def step(self, ids: Tensor, state: tuple[Tensor, ...]) -> Tensor:
        """ids (rows,) -> logits (rows, vocab); the state's tensors are overwritten by the next ones."""
        x = self.embedding[ids]
        for layer in range(len(self.norm)):
            normed = rms_norm(x, self.norm[layer], self.eps)[0]
            x = x + self.layer(layer, normed, *(part[layer] for part in state))
        return F.linear(rms_norm(x, self.final_norm, self.eps)[0], self.head)

    def layer(self, layer: int, x: Tensor, *state: Tensor) -> Tensor:
        """x (rows, d_model) -> what is added to the residual sum; the layer's state is overwritten."""
        raise NotImplementedError

    def state_shapes(self, rows: int) -> tuple[tuple[int, ...], ...]:
        """Of the state's tensors."""
        raise NotImplementedError


@dataclass(frozen=True)
class MambaStack(Stack):
    """Mamba blocks (Gu & Dao 2023, figure 3 and algorithm 2). d_inner, d_state: the axes of A.

    in_proj: (layers, 2 * d_inner, d_model), the rows for u before those for the gate.
    conv_weight: (layers, d_inner, width). conv_bias, dt_bias, D: (layers, d_inner).
    x_proj: (layers, dt_rank + 2 * d_state, d_inner), the rows for delta before those for B and for C.
    dt_proj: (layers, d_inner, dt_rank). A: (layers, d_inner, d_state), negative.
    out_proj: (layers, d_model, d_inner).

    Its state: conv (layers, rows, width - 1, d_inner) and ssm (layers, rows, d_inner, d_state).
    """

    in_proj: Tensor
    conv_weight: Tensor
    conv_bias: Tensor
    x_proj: Tensor
    dt_proj: Tensor
    dt_bias: Tensor
    A: Tensor
    D: Tensor
    out_proj: Tensor

    def layer(self, layer: int, x: Tensor, *state: Tensor) -> Tensor:
        conv, ssm = state
        u, z = F.linear(x, self.in_proj[layer]).chunk(2, dim=-1)
        window = torch.cat([conv, u[:, None]], dim=1)
        conv.copy_(window[:, 1:])
        u = F.silu((window * self.conv_weight[layer].t()).sum(1) + self.conv_bias[layer])
        dt_rank, d_state = self.dt_proj.shape[2], self.A.shape[2]
        low, B, C = F.linear(u, self.x_proj[layer]).split([dt_rank, d_state, d_state], dim=-1)
        delta = F.softplus(F.linear(low, self.dt_proj[layer], self.dt_bias[layer]))[..., None]
        ssm.copy_(torch.exp(delta * self.A[layer]) * ssm + delta * B[:, None] * u[..., None])
        y = (ssm * C[:, None]).sum(-1) + self.D[layer] * u
        return F.linear(y * F.silu(z), self.out_proj[layer])

    def state_shapes(self, rows: int) -> tuple[tuple[int, ...], ...]:
        layers, d_inner, d_state = self.A.shape
        return (layers, rows, self.conv_weight.shape[2] - 1, d_inner), (layers, rows, d_inner, d_state)


@dataclass(frozen=True)
class S4DStack(Stack):
    """Diagonal state spaces, then GELU, a product and a gate (Gu, Gupta, Goel & Ré 2022), discretised.

    A, B, C: (layers, d_model, pairs, 2), real and imaginary parts of the discrete system, one of each
    conjugate pair. D: (layers, d_model). out_proj: (layers, 2 * d_model, d_model), the rows of values before
    those of gates; out_bias: (layers, 2 * d_model).

    Its state: (layers, rows, d_model, pairs, 2).
    """

    A: Tensor
    B: Tensor
    C: Tensor
    D: Tensor
    out_proj: Tensor
    out_bias: Tensor

    def layer(self, layer: int, x: Tensor, *state: Tensor) -> Tensor:
        A, B, C, before = map(torch.view_as_complex, (self.A[layer], self.B[layer], self.C[layer], state[0]))
        after = A * before + B * x[..., None]
        state[0].copy_(torch.view_as_real(after))
        y = F.gelu(2 * (C * after).real.sum(-1) + self.D[layer] * x)
        return F.glu(F.linear(y, self.out_proj[layer], self.out_bias[layer]), dim=-1)

    def state_shapes(self, rows: int) -> tuple[tuple[int, ...], ...]:
        layers, d_model, pairs, _ = self.A.shape
        return ((layers, rows, d_model, pairs, 2),)
