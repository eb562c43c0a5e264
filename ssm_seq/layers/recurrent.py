"""The LSTM and the GRU of torch as layers, to compare with."""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssm_seq.layers.contract import SequenceLayer, State, check_chunk


class LSTMState(NamedTuple):
    """hidden, cell: (batch, d_inner)."""

    hidden: Tensor
    cell: Tensor


class GRUState(NamedTuple):
    """hidden: (batch, d_inner)."""

    hidden: Tensor


class _Recurrent(SequenceLayer[State]):
    """y = W cell(x); the cell is torch's, expand * d_model wide, and computes in its weights' type."""

    def __init__(self, cell: type[nn.RNNBase], state: type[State], d_model: int, expand: int) -> None:
        super().__init__()
        self.cell, self.state = cell(d_model, expand * d_model, batch_first=True), state
        self.out_proj = nn.Linear(expand * d_model, d_model)

    def forward(self, x: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        check_chunk(x, self.out_proj.out_features)
        with torch.autocast(x.device.type, enabled=False):
            before = None if state is None else self._packed(state)
            y, after = self.cell(x.to(self.cell.weight_ih_l0.dtype), before)
        after = after if isinstance(after, tuple) else (after,)
        return self.out_proj(y), self.state(*(part[0] for part in after))

    def step(self, x_t: Tensor, state: State) -> tuple[Tensor, State]:
        y, state = self(x_t[:, None], state)
        return y[:, 0], state

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> State:
        weight = self.cell.weight_hh_l0
        size = (batch, weight.shape[1])
        zeros = torch.zeros(size, device=device or weight.device, dtype=dtype or weight.dtype)
        return self.state(*(zeros for _ in self.state._fields))

    def ssm_parameters(self) -> list[nn.Parameter]:
        return []

    @staticmethod
    def _packed(state: State) -> Tensor | tuple[Tensor, ...]:
        """As torch's cells take it: with a dimension for layers, and a GRU's without a tuple."""
        parts = tuple(part[None].contiguous() for part in state)
        return parts if len(parts) > 1 else parts[0]


class LSTM(_Recurrent[LSTMState]):
    """Hochreiter & Schmidhuber 1997, as `torch.nn.LSTM` has it, and a projection."""

    def __init__(self, d_model: int, expand: int = 2) -> None:
        super().__init__(nn.LSTM, LSTMState, d_model, expand)


class GRU(_Recurrent[GRUState]):
    """Cho et al. 2014, as `torch.nn.GRU` has it, and a projection."""

    def __init__(self, d_model: int, expand: int = 2) -> None:
        super().__init__(nn.GRU, GRUState, d_model, expand)
