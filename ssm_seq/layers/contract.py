"""What every sequence layer is: one map in three forms, with its state in plain sight.

The law that every layer is tested against: a whole sequence at once = the same sequence in any chunks with
the state carried = step by step; the same outputs and the same final state.
"""

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Generic, Self, TypeVar

import torch
from torch import Tensor, nn

from ssm_seq.kernels import rms_norm
from ssm_seq.ssm.checks import check_rate

State = TypeVar("State", bound=tuple)


class SequenceLayer(nn.Module, ABC, Generic[State]):
    """A causal map of sequences. Its state is a NamedTuple of tensors whose first dimension is the batch.

    States are float32 (or its complex kin) at least, whatever the precision of x.
    recordable: whether a CUDA graph can hold the map and its gradients: nothing in it waits for the GPU.
    """

    recordable = True

    @abstractmethod
    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        """Map a chunk x (batch, length >= 1, d_model) that follows `state`; the start of a sequence if None.

        Returns:
            y like x, and the state after the chunk.
        """

    def forward_normed(
        self, x: Tensor, residual: Tensor | None, norm: nn.RMSNorm, state: State | None = None
    ) -> tuple[Tensor, Tensor, State]:
        """`forward` of the norm of x + residual, as a stack calls it: y, that sum, and the state.

        x, residual: (batch, length, d_model); the sum is in residual's dtype, x itself if that is None.
        """
        normed, summed = rms_norm(x, norm.weight, norm.eps, residual)
        y, state = self(normed, state)
        return y, summed, state

    @abstractmethod
    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        """Map one position x_t (batch, d_model); returns y_t and the state after it."""

    @abstractmethod
    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        """The state before the first position; device and (real) dtype are the parameters' if None."""

    @abstractmethod
    def ssm_parameters(self) -> list[nn.Parameter]:
        """The parameters with a learning rate of their own and no weight decay."""

    def resampled(self, rate: float) -> Self:
        """This layer for a signal at another sampling rate: a copy with every time step times `rate`.

        rate: the new time step divided by the old, 2 for a signal of which every second sample is kept. The
            continuous system stays, and states of one copy mean the same to the other.

        Raises:
            ValueError: rate <= 0, or the layer has parts without a time step that could be scaled.
        """
        check_rate(rate)
        layer = copy.deepcopy(self)
        with torch.no_grad():
            layer.scale_time_steps(rate)
        return layer

    def scale_time_steps(self, rate: float) -> None:
        """What `resampled` does to its copy, in place. `log_dt` holds the logarithms of time steps."""
        if not hasattr(self, "log_dt"):
            raise ValueError(
                f"{type(self).__name__}: not all of it has a time step that could be scaled, "
                "so it is tied to the sampling rate of its training"
            )
        self.log_dt += math.log(rate)


def map_state(function: Callable[[Tensor], Tensor], state: State) -> State:
    """The same (nested) state with `function` applied to every tensor, such as `Tensor.detach`."""
    parts = [function(part) if isinstance(part, Tensor) else map_state(function, part) for part in state]
    return type(state)._make(parts) if hasattr(state, "_fields") else type(state)(parts)


def check_chunk(x: Tensor, d_model: int) -> None:
    """Raises ValueError unless x is (batch, length >= 1, d_model)."""
    if x.ndim != 3 or x.shape[1] < 1 or x.shape[2] != d_model:
        raise ValueError(f"x: shape {tuple(x.shape)}, expected (batch, length >= 1, d_model={d_model})")
