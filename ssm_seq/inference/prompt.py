"""The state that a prompt leaves behind, from which generation goes on."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ssm_seq.errors import InputError
from ssm_seq.inference.replay import Replay, can_be_recorded
from ssm_seq.inference.state import State, concatenate, filled, first_state, tensors_of
from ssm_seq.inference.stream import Ids, inference
from ssm_seq.models import LanguageModel

PROMPT_CHUNK = 4096
_WORTH_RECORDING = 8  # passes of one length, each launched faster than it was recorded


def read_prompt(
    model: LanguageModel, prompt: Ids, label: str | None = None, dtype: torch.dtype | None = None
) -> State:
    """The state, with logits, after ids (positions,) or (batch, positions) of one length.

    Each row is read by itself: its bits don't depend on the others.

    Args:
        prompt: without positions and label the logits are 0: every id is as likely first.
        label: of a model that was trained with labels, the one of the sequences.
        dtype: bfloat16 runs the layers of a float32 model on a GPU under autocast; else they run as they are.

    Raises:
        InputError: an id or a label that the model does not have.
    """
    check_ids(prompt, model, "prompt")
    rows, states, half = np.atleast_2d(prompt), [], dtype == torch.bfloat16
    with inference(model):
        start = first_state(model)
        if label is not None:
            start = _Reader(model, half)(np.array([[model.token_of(label)]]), start)
        read = _Reader(model, half, record=len(rows) >= _WORTH_RECORDING)
        for row in rows:
            state = start
            for first in range(0, len(row), PROMPT_CHUNK):
                state = read(row[None, first : first + PROMPT_CHUNK], state)
            states.append(state)
        return concatenate(states)


def check_ids(ids: Ids, model: LanguageModel, name: str) -> None:
    """Raises InputError for an id that the model does not have."""
    if ids.size and not 0 <= ids.min() <= ids.max() < model.vocab_size:
        wrong = ids[(ids < 0) | (ids >= model.vocab_size)].flat[0]
        raise InputError(f"{name}: there is no id {wrong}, the model has 0 to {model.vocab_size - 1}")


class _Reader:
    """One chunk of one row after a state. record: replay on a GPU what was launched once; the bits stay."""

    def __init__(self, model: LanguageModel, half: bool, record: bool = False) -> None:
        self._model, self._device = model, model.head.weight.device
        self._half = half and self._device.type == "cuda"
        self._record, self._replays = record and can_be_recorded(model), {}

    def __call__(self, ids: Ids, before: State) -> State:
        inputs, length = (
            (torch.tensor(ids, device=self._device).long(), *tensors_of(before.parts)),
            ids.shape[1],
        )

        def read(ids: Tensor, *tensors: Tensor) -> Sequence[Tensor]:
            with torch.autocast(self._device.type, torch.bfloat16, enabled=self._half):
                hidden, after = self._model.backbone(ids, filled(before.parts, tensors))
            # Logits rounded to bfloat16 would be off by some hundredths.
            logits = self._model.logits(hidden[:, -1].to(self._model.head.weight.dtype))
            return [logits, *tensors_of(after)]

        if self._record and length not in self._replays:
            self._replays[length] = Replay(read, *inputs)
        logits, *tensors = self._replays.get(length, read)(*inputs)
        return State(filled(before.parts, tensors), logits)
