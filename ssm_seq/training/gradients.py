"""The loss of a training step and its gradients; on a GPU, for a small step, as one recorded CUDA graph.

A step of a small model is a thousand launches and more, which take the host longer than the GPU needs for
them. Recorded once and replayed as a whole they cost the host next to nothing.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from ssm_seq.training.batches import Batch, losses

SMALL = 2**25  # positions times d_model of a step whose launches may take longer than its kernels
_WARM_UP = 3  # runs before the recording: what is compiled or chosen at a first call must not be in it

Gradients = Callable[[Batch, Tensor], Tensor]


def loss_and_gradients(model: nn.Module, batch: Batch, total: Tensor) -> Tensor:
    """Add the gradients of sum(weights * losses) / total to those of the parameters; returns that loss."""
    loss = (losses(model, batch)[0] * batch.weights).sum() / total
    loss.backward()
    return loss.detach()


def worth_recording(model: nn.Module, batch: Batch) -> bool:
    """Whether the step is small enough for the host to be its bound."""
    return batch.inputs.is_cuda and batch.inputs.numel() * model.config.d_model <= SMALL


class RecordedGradients:
    """`loss_and_gradients` for batches of one shape, recorded with the first of them and replayed.

    The gradients replace those that the parameters had. The recording keeps its working memory.
    """

    def __init__(self, model: nn.Module, batch: Batch, total: Tensor) -> None:
        self._batch, self._total = Batch(*(part.clone() for part in batch)), total.clone()
        self._parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        random_state = torch.cuda.get_rng_state(total.device)
        self._warm_up(model)
        # The masks of dropout are those of a run without warm-up, and a killed run goes on with the same.
        torch.cuda.set_rng_state(random_state, total.device)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph):
            self._loss = loss_and_gradients(model, self._batch, self._total)
        self._gradients = [parameter.grad for parameter in self._parameters]

    def _warm_up(self, model: nn.Module) -> None:
        aside = torch.cuda.Stream()
        aside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(aside):
            for _ in range(_WARM_UP):
                loss_and_gradients(model, self._batch, self._total)
                self._forget_gradients()
        torch.cuda.current_stream().wait_stream(aside)

    def _forget_gradients(self) -> None:
        for parameter in self._parameters:
            parameter.grad = None

    def fits(self, batch: Batch) -> bool:
        """Whether the batch has the shapes of the recorded one."""
        return all(part.shape == own.shape for part, own in zip(batch, self._batch, strict=True))

    def __call__(self, batch: Batch, total: Tensor) -> Tensor:
        """The loss; it and the gradients are overwritten by the next call."""
        for own, given in zip((*self._batch, self._total), (*batch, total), strict=True):
            own.copy_(given)
        self._graph.replay()
        for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
            parameter.grad = gradient
        return self._loss
