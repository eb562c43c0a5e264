"""What a Transformer of today takes for one id of each sequence, with everything done to make it fast.

Pre-norm blocks, keys and values in a static cache, torch's attention, one CUDA graph for the step, bfloat16.
The weights are random and every step reads the same number of positions, without a mask: it is a clock that
shows the Transformer at its best, and no text comes out.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Block(nn.Module):
    def __init__(self, d_model: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm_1, self.norm_2 = nn.RMSNorm(d_model), nn.RMSNorm(d_model)
        self.qkv, self.out = nn.Linear(d_model, 3 * d_model, False), nn.Linear(d_model, d_model, False)
        self.up, self.down = nn.Linear(d_model, 4 * d_model, False), nn.Linear(4 * d_model, d_model, False)

    def forward(self, x: Tensor, cache: Tensor) -> Tensor:
        """x (batch, d_model); cache (2, batch, heads, positions, d_head), whose last position is written."""
        q, k, v = self.qkv(self.norm_1(x)).unflatten(-1, (3, self.heads, -1)).unbind(1)
        cache[0, :, :, -1], cache[1, :, :, -1] = k, v
        attended = F.scaled_dot_product_attention(q[:, :, None], *cache.unbind(0))
        x = x + self.out(attended.flatten(1))
        return x + self.down(F.gelu(self.up(self.norm_2(x))))


def steps_of_a_transformer(
    layers: int, d_model: int, heads: int, positions: int, batch: int, vocab: int, device: torch.device
) -> list[float]:
    """Milliseconds of single steps, each with `positions` in the cache; the likeliest id is read next."""
    torch.manual_seed(0)
    with torch.device(device):
        blocks = nn.ModuleList(_Block(d_model, heads) for _ in range(layers)).to(torch.bfloat16)
        embedding = nn.Embedding(vocab, d_model, dtype=torch.bfloat16)
        head = nn.Linear(d_model, vocab, False, dtype=torch.bfloat16)
        caches = [
            torch.randn(2, batch, heads, positions, d_model // heads, dtype=torch.bfloat16)
            for _ in range(layers)
        ]
        ids = torch.zeros(batch, dtype=torch.int64)

    def step() -> None:
        x = embedding(ids)
        for block, cache in zip(blocks, caches, strict=True):
            x = block(x, cache)
        ids.copy_(head(x).argmax(-1))

    with torch.inference_mode():
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            for _ in range(3):
                step()
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            step()
        times = []
        for _ in range(20):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            graph.replay()
            end.record()
            torch.cuda.synchronize()
            times.append(start.elapsed_time(end))
    return times
