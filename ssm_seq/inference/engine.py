"""One way to run any language model step by step: fused kernels where there are some, else its own steps.

The law of both: what becomes of a row depends neither on the rows beside it nor on their number, bit for bit.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
from torch import Tensor

from ssm_seq.inference.score_values import check_weights
from ssm_seq.inference.state import State, concatenate
from ssm_seq.kernels.decode import MambaStack, Rule, S4DStack, decoder
from ssm_seq.kernels.decode.op import Decoder
from ssm_seq.kernels.decode.stacks import Stack
from ssm_seq.layers import S4D, Mamba, MambaState, S4DState
from ssm_seq.models import LanguageModel

_TILE = 16  # rows that a model without fused steps reads at once on a GPU
_WORTH_THREADS = 2**22  # multiplications of one projection; below, waking threads costs more than they save


class Engine(Protocol):
    """Draws ids from a state's logits and reads them, many steps in one call. dtype: of its matrices."""

    dtype: torch.dtype

    def run(self, state: State, draws: Tensor, rule: Rule) -> tuple[Tensor, State]:
        """state: with logits; it stays as it is. draws: (rows, steps) float64 in [0, 1).

        Returns:
            ids (rows, steps) int64, and the state after them.
        """
        ...


def engine(model: LanguageModel, dtype: torch.dtype | None = None) -> Engine:
    """The fastest engine for the model as it is now, on its device; later changes of its weights don't count.

    dtype: of the fused kernels' matrices, the model's own if None; bfloat16 on GPUs only. Other steps are the
        model's own in any case.

    Raises:
        InputError: weights that are not finite.
        ValueError: another dtype.
    """
    check_weights(model)
    stack = stacked(model)
    fused = None if stack is None else decoder(stack, dtype)
    return _Stepwise(model) if fused is None else _Fused(fused, stack, dtype)


class _Fused:
    def __init__(self, fused: Decoder, stack: Stack, dtype: torch.dtype | None) -> None:
        self._decoder, self.dtype = fused, dtype or stack.head.dtype
        self._pack, self._unpack = (
            (_pack_mamba, _unpack_mamba) if isinstance(stack, MambaStack) else (_pack_s4d, _unpack_s4d)
        )

    def run(self, state: State, draws: Tensor, rule: Rule) -> tuple[Tensor, State]:
        packed, logits = self._pack(state.parts), state.logits.clone()
        ids = self._decoder.run(packed, logits, draws, rule)
        return ids, State(self._unpack(packed), logits)


class _Stepwise:
    """`LanguageModel.step`, on batches of one size always: the order of a product's sums depends on it."""

    def __init__(self, model: LanguageModel) -> None:
        self._model, self.dtype = model, model.head.weight.dtype
        self._rows = 1 if model.head.weight.device.type == "cpu" else _TILE

    def run(self, state: State, draws: Tensor, rule: Rule) -> tuple[Tensor, State]:
        tiles = []
        for first in range(0, state.batch, self._rows):
            rows = torch.arange(first, min(first + self._rows, state.batch))
            filled = torch.cat([rows, rows[:1].expand(self._rows - len(rows))])
            tiles.append(self._run(state.select(filled), draws[filled.to(draws.device)], rule, len(rows)))
        return torch.cat([ids for ids, _ in tiles]), concatenate([after for _, after in tiles])

    def _run(self, state: State, draws: Tensor, rule: Rule, rows: int) -> tuple[Tensor, State]:
        parts, logits, ids = state.parts, state.logits, []
        with _threads(self._model):
            for t in range(draws.shape[1]):
                ids.append(rule.choose(logits, draws[:, t]))
                logits, parts = self._model.step(ids[-1], parts)
        return torch.stack(ids, 1)[:rows], State(parts, logits).select(range(rows))


@contextmanager
def _threads(model: LanguageModel) -> Iterator[None]:
    """One thread for the small products of one row on a CPU: several took up to ten times as long."""
    threads = torch.get_num_threads()
    if model.config.d_model**2 * model.config.expand < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


@torch.no_grad()
def stacked(model: LanguageModel) -> Stack | None:
    """The weights of all layers as the kernels take them; None for layers that have no fused steps."""
    blocks, backbone = model.backbone.blocks, model.backbone
    layers = [block.layer for block in blocks]
    kinds = {type(layer) for layer in layers}
    if kinds not in ({Mamba}, {S4D}):
        return None
    common = {
        "embedding": backbone.embedding.weight.detach()[: model.vocab_size],
        "norm": torch.stack([block.norm.weight for block in blocks]),
        "final_norm": backbone.norm.weight.detach(),
        "head": model.head.weight.detach(),
        "eps": backbone.norm.eps,
    }
    if kinds == {Mamba}:
        return MambaStack(**common, **_mamba_weights(layers))
    return S4DStack(**common, **_s4d_weights(layers))


def _mamba_weights(layers: list[Mamba]) -> dict[str, Tensor]:
    return {
        "in_proj": torch.stack([layer.in_proj.weight for layer in layers]),
        "conv_weight": torch.stack([layer.conv1d.weight[:, 0] for layer in layers]),
        "conv_bias": torch.stack([layer.conv1d.bias for layer in layers]),
        "x_proj": torch.stack([layer.x_proj.weight for layer in layers]),
        "dt_proj": torch.stack([layer.dt_proj.weight for layer in layers]),
        "dt_bias": torch.stack([layer.dt_proj.bias for layer in layers]),
        "A": torch.stack([-torch.exp(layer.A_log) for layer in layers]),
        "D": torch.stack([layer.D for layer in layers]),
        "out_proj": torch.stack([layer.out_proj.weight for layer in layers]),
    }


def _s4d_weights(layers: list[S4D]) -> dict[str, Tensor]:
    systems = [layer.discrete() for layer in layers]
    return {
        name: torch.view_as_real(torch.stack(tensors))
        for name, tensors in zip("ABC", zip(*systems, strict=True), strict=True)
    } | {
        "D": torch.stack([layer.D for layer in layers]),
        "out_proj": torch.stack([layer.out_proj.weight for layer in layers]),
        "out_bias": torch.stack([layer.out_proj.bias for layer in layers]),
    }


def _pack_mamba(parts: tuple[MambaState, ...]) -> tuple[Tensor, ...]:
    columns = [part.conv for part in parts], [part.ssm for part in parts]
    return tuple(torch.stack(column).contiguous() for column in columns)


def _unpack_mamba(packed: tuple[Tensor, ...]) -> tuple[MambaState, ...]:
    return tuple(MambaState(*pair) for pair in zip(*packed, strict=True))


def _pack_s4d(parts: tuple[S4DState, ...]) -> tuple[Tensor, ...]:
    return (torch.view_as_real(torch.stack([part.x.resolve_conj() for part in parts]).contiguous()),)


def _unpack_s4d(packed: tuple[Tensor, ...]) -> tuple[S4DState, ...]:
    return tuple(S4DState(x) for x in torch.view_as_complex(packed[0]))
