"""What a CUDA graph computes, beside the same without one."""

from collections.abc import Callable

import torch
from torch import Tensor


def replayed(run: Callable[[], tuple[Tensor, ...]]) -> tuple[list[Tensor], list[Tensor]]:
    """The results of `run` from a replayed graph, poisoned before, and from a call outside it."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        eager = [tensor.detach().clone() for tensor in run()]
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = [tensor.detach() for tensor in run()]
    for tensor in captured:
        tensor.fill_(float("nan"))
    graph.replay()
    return captured, eager
