"""The loss of a training step and its gradients; on a GPU, for a small step, as one recorded CUDA graph.

A step of a small model is a thousand launches and more, which take the host longer than the GPU needs for
them. Recorded once and replayed as a whole they cost the host next to nothing.
"""

import torch
from torch import Tensor, nn

from ssm_seq.layers import SequenceLayer
from ssm_seq.training.batches import Batch, losses

SMALL = 2**25  # positions times d_model up to which launches may take longer than kernels


class Gradients:
    """The loss of a step's batches and its gradients, replayed where that pays.

    The loss is the mean over all targets of the step by their weight, so that several batches count as one
    large one even where their weights differ.
    """

    def __init__(self, model: nn.Module, precision: str = "bfloat16") -> None:
        self._model, self._precision = model, precision
        layers = (module for module in model.modules() if isinstance(module, SequenceLayer))
        self._recordable = all(layer.recordable for layer in layers)
        self._shapes: list[torch.Size] = []
        self._recorded: RecordedGradients | None = None

    def __call__(self, batches: list[Batch]) -> Tensor:
        """The loss; the gradients are those of the parameters then, which had none."""
        total = sum(batch.weights.sum() for batch in batches).clamp(min=1.0)
        batch, *others = batches
        if others or not self._is_recorded(batch):
            return sum(loss_and_gradients(self._model, self._precision, batch, total) for batch in batches)
        shapes = [part.shape for part in batch]
        known, self._shapes = self._shapes == shapes, shapes
        if not known:  # this step, not recorded, also compiles and chooses what a recording must not
            self._recorded = None
            return loss_and_gradients(self._model, self._precision, batch, total)
        self._recorded = self._recorded or RecordedGradients(self._model, self._precision, batch, total)
        return self._recorded(batch, total)

    def _is_recorded(self, batch: Batch) -> bool:
        small = batch.inputs.numel() * self._model.config.d_model <= SMALL
        return batch.inputs.is_cuda and small and self._recordable


def loss_and_gradients(model: nn.Module, precision: str, batch: Batch, total: Tensor) -> Tensor:
    """Add the gradients of sum(weights * losses) / total to those of the parameters; returns that loss."""
    loss = (losses(model, batch, precision)[0] * batch.weights).sum() / total
    loss.backward()
    return loss.detach()


class RecordedGradients:
    """`loss_and_gradients` of batches of one shape, recorded with the first of them, and no gradients before.

    It keeps the gradients and the working memory of a step.
    """

    def __init__(self, model: nn.Module, precision: str, batch: Batch, total: Tensor) -> None:
        self._inputs = [part.clone() for part in (*batch, total)]
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            *recorded, divisor = self._inputs
            self._loss = loss_and_gradients(model, precision, Batch(*recorded), divisor)
        self._gradients = [parameter.grad for parameter in self._parameters]

    def __call__(self, batch: Batch, total: Tensor) -> Tensor:
        """The loss; the next call overwrites it and the gradients."""
        for own, given in zip(self._inputs, (*batch, total), strict=True):
            own.copy_(given)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss
