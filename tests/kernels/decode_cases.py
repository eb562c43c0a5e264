"""What the tests of the decoders share: whole models with random weights, and their walk by definition."""

import torch
from torch import Tensor

from ssm_seq.kernels.decode import MambaStack, Rule, S4DStack
from ssm_seq.kernels.decode.stacks import Stack


def stack_of(
    kind: str, layers: int, d_model: int, d_state: int, vocab: int, device: str = "cpu", width: int = 4
) -> Stack:
    """A model of `mamba` or `s4d` layers whose sums stay of one size."""
    generator = torch.Generator(device).manual_seed(0)

    def normal(*shape: int, scale: float = 1.0) -> Tensor:
        return torch.randn(*shape, generator=generator, device=device) * scale

    def matrices(*shape: int) -> Tensor:
        return normal(*shape, scale=shape[-1] ** -0.5)

    common = {
        "embedding": normal(vocab, d_model),
        "norm": 1 + normal(layers, d_model, scale=0.1),
        "final_norm": 1 + normal(d_model, scale=0.1),
        "head": 2 * matrices(vocab, d_model),
        "eps": 1e-5,
    }
    if kind == "s4d":
        pairs = (layers, d_model, d_state // 2)
        radii = torch.rand(pairs, generator=generator, device=device) * 0.5 + 0.45
        return S4DStack(
            **common,
            A=torch.view_as_real(torch.polar(radii, normal(*pairs))).contiguous(),
            B=normal(*pairs, 2, scale=0.3),
            C=normal(*pairs, 2, scale=0.3),
            D=normal(layers, d_model),
            out_proj=matrices(layers, 2 * d_model, d_model),
            out_bias=normal(layers, 2 * d_model, scale=0.1),
        )
    d_inner, dt_rank = 2 * d_model, -(-d_model // 16)
    return MambaStack(
        **common,
        in_proj=matrices(layers, 2 * d_inner, d_model),
        conv_weight=normal(layers, d_inner, width, scale=0.5),
        conv_bias=normal(layers, d_inner, scale=0.1),
        x_proj=matrices(layers, dt_rank + 2 * d_state, d_inner),
        dt_proj=matrices(layers, d_inner, dt_rank),
        dt_bias=normal(layers, d_inner) - 3,
        A=-torch.exp(normal(layers, d_inner, d_state)),
        D=normal(layers, d_inner),
        out_proj=matrices(layers, d_model, d_inner),
    )


def inputs(stack: Stack, rows: int, steps: int) -> tuple[tuple[Tensor, ...], Tensor, Tensor]:
    """State and logits in the stack's dtype, and draws. Fewer rows or steps are the first of more."""
    dtype, device, vocab = stack.head.dtype, stack.head.device, len(stack.head)
    shapes = stack.state_shapes(1)

    def row(number: int) -> list[Tensor]:
        generator = torch.Generator().manual_seed(number)
        state = [0.3 * torch.randn(*shape, generator=generator) for shape in shapes]
        return [*state, torch.randn(1, vocab, generator=generator)]

    *state, logits = (
        torch.cat(parts, dim=0 if parts[0].dim() == 2 else 1).to(device, dtype)
        for parts in zip(*(row(number) for number in range(rows)), strict=True)
    )
    generators = [torch.Generator().manual_seed(1000 + number) for number in range(rows)]
    draws = torch.stack([torch.rand(steps, generator=g, dtype=torch.float64) for g in generators])
    return tuple(state), logits, draws.to(device)


def walk(
    stack: Stack, state: tuple[Tensor, ...], logits: Tensor, draws: Tensor, rule: Rule
) -> tuple[Tensor, tuple[Tensor, ...], Tensor]:
    """ids, state and logits by the definition in float64; nothing is overwritten."""
    stack, logits = stack.to(torch.float64), logits.double()
    state, ids = tuple(part.to(torch.float64, copy=True) for part in state), []
    for t in range(draws.shape[1]):
        ids.append(rule.choose(logits, draws[:, t]))
        logits = stack.step(ids[-1], state)
    return torch.stack(ids, 1), state, logits
