"""Any two sequence layers as one that reads both ways."""

from typing import NamedTuple, NoReturn

import torch
from torch import Tensor, nn

from ssm_seq.errors import InputError
from ssm_seq.layers.contract import SequenceLayer


class NotCausal(InputError, ValueError):
    """A layer was asked to go on from a state though what it gives depends on what comes later."""


class NoState(NamedTuple):
    """Nothing is carried: the sequence ended with the chunk."""


class Bidirectional(SequenceLayer[NoState]):
    """W_o [forwards(x); backwards(x from its end)]: each output knows the whole sequence.

    So it is not causal, and the law of the other layers does not hold. `forward` takes one whole sequence and
    gives an empty state. There is no state that a step or another chunk could follow, since they would change
    the outputs already given: with a state `forward`, and always `step` and `initial_state`, raise NotCausal.
    """

    def __init__(self, d_model: int, forwards: SequenceLayer, backwards: SequenceLayer) -> None:
        super().__init__()
        self.forwards, self.backwards = forwards, backwards
        self.out_proj = nn.Linear(2 * d_model, d_model)

    def forward(self, x: Tensor, state: NoState | None = None) -> tuple[Tensor, NoState]:
        if state is not None:
            self._refuse()
        ahead, _ = self.forwards(x)
        back, _ = self.backwards(x.flip(1))
        return self.out_proj(torch.cat([ahead, back.flip(1)], dim=-1)), NoState()

    def step(self, x_t: Tensor, state: NoState) -> NoReturn:
        self._refuse()

    def initial_state(
        self, batch: int, device: torch.device | str | None = None, dtype: torch.dtype | None = None
    ) -> NoReturn:
        self._refuse()

    @staticmethod
    def _refuse() -> NoReturn:
        raise NotCausal(
            "a bidirectional layer needs the whole sequence at once: its outputs depend on what comes later, "
            "so there is no state to stream from"
        )

    def scale_time_steps(self, rate: float) -> None:
        self.forwards.scale_time_steps(rate)
        self.backwards.scale_time_steps(rate)

    def ssm_parameters(self) -> list[nn.Parameter]:
        return self.forwards.ssm_parameters() + self.backwards.ssm_parameters()
