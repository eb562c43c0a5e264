"""A Transformer of today to compare with, with everything done to make it generate fast.

Llama's blocks (Touvron et al. 2023): RMSNorm before, rotary positions (Su et al. 2021), SwiGLU, as many heads
of keys as of queries. Keys and values lie in one static cache, products of one input are one product, what
stands between the products is fused by torch.compile, and a step is one CUDA graph.
"""

import time
from collections.abc import Callable
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ssm_seq.benchmark.timing import wait
from ssm_seq.inference.replay import Replay

_BASE = 10_000.0  # of the rotary positions
_TIMED = 48  # steps
_BACKENDS = SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION


class Shape(NamedTuple):
    """Of a Transformer with heads of d_model / heads numbers and d_ff hidden units between."""

    layers: int
    d_model: int
    heads: int
    d_ff: int
    vocab: int


class Transformer(nn.Module):
    """Logits of the next id from ids and a cache of keys and values."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.embedding = nn.Embedding(shape.vocab, shape.d_model)
        self.blocks = nn.ModuleList(_Block(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.d_model, eps=1e-6)
        self.head = nn.Linear(shape.d_model, shape.vocab, bias=False)

    def cache(self, batch: int, positions: int) -> Tensor:
        """Room for keys and values, (layers, 2, batch, heads, positions, d_head)."""
        shape, weight = self.shape, self.head.weight
        d_head = shape.d_model // shape.heads
        return weight.new_zeros(shape.layers, 2, batch, shape.heads, positions, d_head)

    def forward(self, ids: Tensor, cache: Tensor, start: int) -> Tensor:
        """ids (batch, length) at positions from `start`, 0 unless length is 1; the cache is written there.

        Returns:
            logits (batch, vocab) of the id behind the last.
        """
        x = self.embedding(ids)
        rotation = _rotation(start, ids.shape[1], cache.shape[-1], x.device)
        for block, own in zip(self.blocks, cache, strict=True):
            x = block(x, own, start, rotation)
        return self.head(self.norm(x[:, -1]))


class _Block(nn.Module):
    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, d_model = shape.heads, shape.d_model
        self.norm_1, self.norm_2 = nn.RMSNorm(d_model, eps=1e-6), nn.RMSNorm(d_model, eps=1e-6)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model, False), nn.Linear(d_model, d_model, False)
        self.gate_up, self.down = (
            nn.Linear(d_model, 2 * shape.d_ff, False),
            nn.Linear(shape.d_ff, d_model, False),
        )

    def forward(self, x: Tensor, cache: Tensor, start: int, rotation: Tensor) -> Tensor:
        length, end = x.shape[1], start + x.shape[1]
        q, cache[0, :, :, start:end], cache[1, :, :, start:end] = self.before(x, rotation)
        attended = F.scaled_dot_product_attention(q, *cache[:, :, :, :end], is_causal=length > 1)
        return self.after(x, attended)

    def before(self, x: Tensor, rotation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """What attention takes, (batch, heads, length, d_head) each."""
        qkv = self.qkv(self.norm_1(x)).view(*x.shape[:2], 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return _rotated(qkv[0], rotation), _rotated(qkv[1], rotation), qkv[2]

    def after(self, x: Tensor, attended: Tensor) -> Tensor:
        x = x + self.out(attended.transpose(1, 2).flatten(2))
        gate, up = self.gate_up(self.norm_2(x)).chunk(2, -1)
        return x + self.down(F.silu(gate) * up)


def _rotation(start: int, length: int, d_head: int, device: torch.device) -> Tensor:
    """Cosines and sines of every position's angles, (2, length, d_head), float32."""
    speeds = _BASE ** (-torch.arange(0, d_head, 2, device=device) / d_head)
    angles = torch.arange(start, start + length, device=device)[:, None] * torch.cat([speeds, speeds])
    return torch.stack([angles.cos(), angles.sin()])


def _rotated(x: Tensor, rotation: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    cosines, sines = rotation.to(x.dtype)
    return x * cosines + torch.cat([-second, first], -1) * sines


class Clocked(NamedTuple):
    """first: seconds from the prompts to their first ids. step: seconds of a later step for the whole batch.
    how: what did it."""

    first: float
    step: float
    how: str


@torch.inference_mode()
def clocked(shape: Shape, prompts: Tensor, length: int, dtype: torch.dtype = torch.bfloat16) -> Clocked:
    """How fast a Transformer of random weights makes `length` likeliest ids after prompts (batch, positions).

    Of torch's attentions on a GPU the one with the fastest steps counts. Every timed step is the one in the
    middle of the run, with its number of keys: it needs no mask, which would be slower.
    """
    torch.manual_seed(0)
    with torch.device(prompts.device):
        model = Transformer(shape).to(dtype)
    cache = model.cache(len(prompts), prompts.shape[1] + length)
    if prompts.is_cuda:
        for block in model.blocks:
            block.before, block.after = (
                torch.compile(part, dynamic=False) for part in (block.before, block.after)
            )
    results = []
    for backend in _BACKENDS if prompts.is_cuda else (SDPBackend.MATH,):
        try:
            with sdpa_kernel(backend):
                how = f"{backend.name.lower()} in a CUDA graph"
                results.append(Clocked(*_clocked(model, prompts, cache, length), how))
        except torch.OutOfMemoryError:
            raise
        except RuntimeError:  # not every attention takes every shape
            continue
    return min(results, key=lambda result: result.step)


def _clocked(model: Transformer, prompts: Tensor, cache: Tensor, length: int) -> tuple[float, float]:
    def read(ids: Tensor) -> list[Tensor]:
        return [model(ids, cache, 0).argmax(-1)]

    def step(ids: Tensor) -> list[Tensor]:
        return [model(ids[:, None], cache, prompts.shape[1] + length // 2).argmax(-1)]

    (ids,) = read(prompts)
    first = _seconds(lambda: read(prompts))
    replay = Replay(step, ids)

    def steps() -> None:
        given = ids
        for _ in range(_TIMED):
            (given,) = replay(given)

    steps()
    return first, _seconds(steps) / _TIMED


def _seconds(run: Callable[[], object]) -> float:
    wait()
    begun = time.perf_counter()
    run()
    wait()
    return time.perf_counter() - begun
