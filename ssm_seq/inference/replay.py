"""A function of tensors of fixed shapes as one CUDA graph: one launch in place of hundreds."""

import gc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from ssm_seq.models import Model


def can_be_recorded(model: Model) -> bool:
    """Whether the model's passes never wait for the GPU, as far as was tried: stacks of Mamba."""
    return model.config.layer == "mamba"


class Replay:
    """`function(*tensors) -> tensors`, recorded with the shapes and dtypes of `example`.

    Called with tensors like these it gives new ones, the same bits as the function. What the function does
    must not depend on values on the host, nor wait for the GPU. On a CPU it is the function itself.
    """

    def __init__(self, function: Callable[..., Sequence[Tensor]], *example: Tensor) -> None:
        self._function = None if example[0].is_cuda else function  # a graph outlives what it was made by
        if self._function is None:
            self._inputs = [tensor.clone() for tensor in example]
            function(*self._inputs)  # what is compiled at a first call cannot be recorded
            self._graph = torch.cuda.CUDAGraph()
            with without_collections(), torch.cuda.graph(self._graph):
                self._outputs = function(*self._inputs)

    def __call__(self, *tensors: Tensor) -> Sequence[Tensor]:
        if self._function is not None:
            return self._function(*tensors)
        for own, tensor in zip(self._inputs, tensors, strict=True):
            own.copy_(tensor)
        self._graph.replay()
        return [output.clone() for output in self._outputs]


@contextmanager
def without_collections() -> Iterator[None]:
    """No garbage is collected inside: another graph that goes just then would break what is recorded."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
