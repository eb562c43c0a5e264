"""What a model says of each position of a chunk, and whether these are numbers at all."""

import math
from collections.abc import Collection, Iterable, Sequence

import torch
from torch import Tensor

from ssm_seq.errors import InputError
from ssm_seq.inference.replay import Replay, can_be_recorded
from ssm_seq.inference.state import State, filled, tensors_of
from ssm_seq.layers import map_state
from ssm_seq.models import Classifier, LanguageModel

LOG_LIKELIHOOD, ENTROPY, PROBABILITY, EMBEDDING = "log_likelihood", "entropy", "probability", "embedding"


def values_of(
    model: Classifier | LanguageModel, ids: Tensor, before: State | None, wanted: Collection[str], half: bool
) -> tuple[dict[str, Tensor], State]:
    """Of ids (batch, length) after a state: the values (batch, length, ...) by name, and the state.

    Language models always give LOG_LIKELIHOOD. half: the layers run under bfloat16 autocast.
    """
    values, parts = {}, None if before is None else before.parts
    classifies = isinstance(model, Classifier)
    with torch.autocast(ids.device.type, torch.bfloat16, enabled=half):
        hidden, layers = model.backbone(ids, parts.layers if classifies and parts is not None else parts)
    hidden = hidden.to(model.head.weight.dtype)  # logits rounded to bfloat16 would be off by some hundredths
    if classifies:
        state = State(model.after(hidden, layers, parts))
        if PROBABILITY in wanted:
            values[PROBABILITY] = _running(model, hidden, parts)
    else:
        logits = model.logits(hidden)
        first = torch.zeros_like(logits[:, 0]) if before is None else before.logits  # all ids equally likely
        expected = torch.cat([first[:, None], logits[:, :-1]], dim=1).log_softmax(-1)
        values[LOG_LIKELIHOOD] = expected.gather(-1, ids[..., None])[..., 0]
        if ENTROPY in wanted:
            values[ENTROPY] = -(expected.exp() * expected).sum(-1)
        state = State(layers, logits[:, -1].clone())  # a view would keep all of them
    if EMBEDDING in wanted:
        values[EMBEDDING] = hidden
    return values, state


def _running(model: Classifier, hidden: Tensor, before: tuple | None) -> Tensor:
    """Class probabilities (batch, length, classes) for everything up to each position."""
    total = hidden.double().cumsum(1)
    count = torch.arange(1, hidden.shape[1] + 1, device=hidden.device).expand(hidden.shape[:2])
    if before is not None:
        total, count = total + before.total[:, None], count + before.count[:, None]
    return model.logits(total, count).softmax(-1)


class ChunkReader:
    """`values_of` of one chunk after the other.

    many: there are many of one length. On a GPU these are replayed as one graph: the launches of each would
    take longer than its work.
    """

    def __init__(
        self, model: Classifier | LanguageModel, wanted: Collection[str], half: bool, many: bool
    ) -> None:
        self._model, self._wanted, self._half = model, wanted, half
        self._record = many and can_be_recorded(model)
        self._shape: torch.Size | None = None
        self._replay: Replay | None = None

    def __call__(self, ids: Tensor, before: State | None) -> tuple[dict[str, Tensor], State]:
        """ids (batch, length) after a state."""
        seen, self._shape = ids.shape == self._shape, ids.shape
        if before is None or not seen or not self._record:
            self._replay = None
            return values_of(self._model, ids, before, self._wanted, self._half)
        logits = [] if before.logits is None else [before.logits]
        given = (ids, *logits, *tensors_of(before.parts))
        if self._replay is None:
            self._replay, self._names = self._recorded(before, given)
        found = self._replay(*given)
        values, rest = found[: len(self._names)], found[len(self._names) :]
        after = State(filled(before.parts, rest[len(logits) :]), rest[0] if logits else None)
        return dict(zip(self._names, values, strict=True)), after

    def _recorded(self, before: State, given: Sequence[Tensor]) -> tuple[Replay, list[str]]:
        """`values_of` of tensors alone: ids, logits if there are some, a state; and its values' names."""
        # What is recorded is freed with this reader, so it must not refer to it, nor to tensors of a state.
        model, wanted, half = self._model, self._wanted, self._half
        form, logits = map_state(lambda _: torch.empty(0), before.parts), int(before.logits is not None)
        names: list[str] = []

        def read(ids: Tensor, *tensors: Tensor) -> Sequence[Tensor]:
            state = State(filled(form, tensors[logits:]), tensors[0] if logits else None)
            values, after = values_of(model, ids, state, wanted, half)
            names[:] = values
            return [*values.values(), *([after.logits] if logits else []), *tensors_of(after.parts)]

        return Replay(read, *given), names


def check_weights(model: Classifier | LanguageModel) -> None:
    """Raises InputError for weights that are not finite numbers."""
    for name, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise InputError(
                f"tensor {name} of the model holds NaN or infinite values; expected finite weights"
            )


def check_length(length: int) -> None:
    """Raises InputError for an empty record."""
    if length < 1:
        raise InputError("the record is empty; expected at least one position")


def check_read(got: int, end: int, length: int) -> None:
    """Raises InputError where a record of `length` positions gave `got` up to its position `end`."""
    if got > end:
        raise InputError(f"the record gives more than the {length} positions that its index promises")
    if got < end:
        raise InputError(f"the record ends after {got} of {length} positions; was it cut?")


def check_finite(result: Iterable[float], start: int, end: int) -> None:
    """Raises InputError where the result for positions start..end-1 is no number."""
    if not all(map(math.isfinite, result)):
        raise InputError(
            f"positions {start + 1} to {end}: the model gives NaN or infinite values; its weights are "
            "damaged or its numbers overflow"
        )
