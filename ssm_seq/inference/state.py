"""What a model carries from one position to the next, as an object: kept, moved, forked, saved, loaded.

The models' own state is a nested tuple of tensors whose first dimension is the batch. `State` holds it
together with the logits for the position that follows (language models), so that reading or sampling goes on
from it alone. On disk it is one safetensors file that names the model it belongs to.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ssm_seq.errors import InputError
from ssm_seq.files import whole_file
from ssm_seq.layers import map_state
from ssm_seq.models import LanguageModel, Model

_FORMAT = "ssm_seq state 1"
_LOGITS = "logits"


@dataclass(frozen=True)
class State:
    """parts: the model's state, a nested tuple of tensors (batch, ...), as `Model.forward` gives and takes.
    logits: (batch, vocab_size) for the next position, or None. notes: what a caller keeps with it, as JSON.

    No method changes the tensors. `select` and `concatenate` drop the notes, which are about one batch.
    """

    parts: tuple
    logits: Tensor | None = None
    notes: dict[str, Any] = field(default_factory=dict)

    @property
    def batch(self) -> int:
        return len(next(_leaves(self.parts))[1])

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        tensors = tensors_of(self.parts) + ([] if self.logits is None else [self.logits])
        return sum(map(_size, tensors))

    def clone(self) -> Self:
        return self._map(torch.clone, self.notes)

    def to(self, device: torch.device | str) -> Self:
        return self._map(lambda tensor: tensor.to(device), self.notes)

    def select(self, rows: Sequence[int] | Tensor) -> Self:
        """The given rows of the batch, in their order, as a copy; a row may come more than once (a fork)."""
        return self._map(lambda tensor: tensor[torch.as_tensor(rows, device=tensor.device)])

    def fits(self, model: Model) -> bool:
        """Whether its tensors have the names, shapes and dtypes of states of `model`."""
        return list(_forms(self.parts)) == list(_forms(_outline(model, self.batch)))

    def save(self, path: Path | str, model: Model) -> None:
        """Write a file that appears whole or not at all and is tied to `model`.

        Raises:
            InputError: the file cannot be written.
            ValueError: this is not a state of `model`.
        """
        if not self.fits(model):
            raise ValueError("the state's tensors are not those of the model")
        named = dict(_leaves(self.parts)) | ({} if self.logits is None else {_LOGITS: self.logits})
        # Another order of the dimensions in memory would be another order of sums: other bits further on.
        orders = {name: _order(tensor) for name, tensor in named.items()}
        tensors = {name: _plain(tensor.permute(orders[name])) for name, tensor in named.items()}
        about = {
            "format": _FORMAT,
            "model": fingerprint(model),
            "dtype": _dtype(model),
            "orders": json.dumps(orders),
            "notes": json.dumps(self.notes),
        }
        about["sha256"] = _checksum(tensors, about)
        with whole_file(path) as partial:
            try:
                save_file(tensors, partial, about)
            except SafetensorError as error:  # what the system says, a full disk for one
                raise InputError(f"{path}: the state cannot be written ({error})") from None

    @classmethod
    def load(cls, path: Path | str, model: Model) -> Self:
        """The state that `save` wrote, on the device of `model`.

        Raises:
            InputError: the file is missing, damaged or no state, or the state of a model of other weights or
                another dtype; the sentence names both.
        """
        try:
            with safe_open(path, "pt") as file:
                about, tensors = file.metadata() or {}, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except FileNotFoundError:
            raise InputError(f"{path}: no such file; expected a saved state") from None
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"{path}: damaged or truncated, not a whole saved state ({error})") from None
        if about.get("format") != _FORMAT:
            raise InputError(f"{path}: no saved state; expected a file that State.save wrote")
        if about.get("sha256") != _checksum(tensors, about):
            raise InputError(f"{path}: damaged: the state's content does not fit its checksum")
        if about["dtype"] != _dtype(model):
            raise InputError(
                f"{path}: the state of a {about['dtype']} model ({about['model'][:12]}); "
                f"this model ({fingerprint(model)[:12]}) is {_dtype(model)}"
            )
        if about["model"] != (own := fingerprint(model)):
            raise InputError(f"{path}: the state of model {about['model'][:12]}; this is model {own[:12]}")
        device, orders, outline = (
            next(model.parameters()).device,
            json.loads(about["orders"]),
            _outline(model, 1),
        )

        def restored(name: str, like: Tensor) -> Tensor:
            tensor = torch.view_as_complex(tensors[name]) if like.is_complex() else tensors[name]
            return tensor.permute(*np.argsort(orders[name]).tolist()).to(device)

        found = [restored(name, like) for name, like in _leaves(outline)]
        logits = restored(_LOGITS, torch.empty(0)) if _LOGITS in tensors else None
        return cls(filled(outline, found), logits, json.loads(about["notes"]))

    def _map(self, function: Any, notes: dict[str, Any] | None = None) -> Self:
        logits = None if self.logits is None else function(self.logits)
        return type(self)(map_state(function, self.parts), logits, dict(notes or {}))


def concatenate(states: Sequence[State]) -> State:
    """One batch of the rows of several states of one model, in their order.

    Logits are kept if all states have them. Raises ValueError without a state.
    """
    if not states:
        raise ValueError("concatenate: expected at least one state")
    columns = zip(*(tensors_of(state.parts) for state in states), strict=True)
    joined = [torch.cat(tensors) for tensors in columns]
    logits = [state.logits for state in states if state.logits is not None]
    return State(
        filled(states[0].parts, joined),
        torch.cat(logits) if len(logits) == len(states) else None,
    )


def tensors_of(parts: tuple) -> list[Tensor]:
    """All tensors of a model's state, in a fixed order."""
    return [tensor for _, tensor in _leaves(parts)]


def filled(parts: tuple, tensors: Iterable[Tensor]) -> tuple:
    """A state formed like `parts`, of these tensors in the order of `tensors_of`."""
    left = iter(tensors)
    return map_state(lambda _: next(left), parts)


def state_bytes(model: Model, batch: int) -> int:
    """Memory of the model's state for so many sequences, whatever their length; nothing is allocated."""
    return sum(_size(tensor) for _, tensor in _leaves(_outline(model, batch)))


def first_state(model: LanguageModel, batch: int = 1) -> State:
    """Before the first position: every id is as likely."""
    parts = map_state(_carried, model.initial_state(batch))
    weight = model.head.weight
    logits = torch.zeros(batch, model.vocab_size, dtype=_at_least_float32(weight), device=weight.device)
    return State(parts, logits)


def fingerprint(model: Model) -> str:
    """SHA-256 of the model's description, its weights and their dtypes; the same on every device."""
    digest = hashlib.sha256(json.dumps(model.description(), sort_keys=True).encode())
    digest.update(_digest(model.state_dict()).encode())
    return digest.hexdigest()


def _outline(model: Model, batch: int) -> tuple:
    """Tensors without memory, of the forms that `Model.forward` gives."""
    return map_state(_carried, model.initial_state(batch, device="meta"))


def _carried(tensor: Tensor) -> Tensor:
    """As `Model.forward` gives it: float32 at least."""
    return tensor.to(_at_least_float32(tensor)) if tensor.is_floating_point() else tensor


def _at_least_float32(tensor: Tensor) -> torch.dtype:
    return torch.promote_types(tensor.dtype, torch.float32)


def _leaves(parts: tuple, prefix: str = "") -> Iterator[tuple[str, Tensor]]:
    """Every tensor with its place, such as 3.ssm."""
    names = getattr(parts, "_fields", range(len(parts)))
    for name, part in zip(names, parts, strict=True):
        if isinstance(part, Tensor):
            yield f"{prefix}{name}", part
        else:
            yield from _leaves(part, f"{prefix}{name}.")


def _forms(parts: tuple) -> Iterator[tuple[str, torch.Size, torch.dtype]]:
    return ((name, tensor.shape, tensor.dtype) for name, tensor in _leaves(parts))


def _checksum(tensors: dict[str, Tensor], about: dict[str, str]) -> str:
    """Of everything in the file but the checksum itself."""
    texts = {name: text for name, text in sorted(about.items()) if name != "sha256"}
    return hashlib.sha256((_digest(tensors) + json.dumps(texts)).encode()).hexdigest()


def _plain(tensor: Tensor) -> Tensor:
    """As safetensors stores it: on the CPU, contiguous, complex numbers as pairs."""
    tensor = tensor.detach().cpu().resolve_conj()
    return (torch.view_as_real(tensor) if tensor.is_complex() else tensor).clone(
        memory_format=torch.contiguous_format
    )


def _order(tensor: Tensor) -> list[int]:
    """The dimensions from the slowest to the fastest in memory."""
    return sorted(range(tensor.ndim), key=lambda dimension: (-tensor.stride(dimension), dimension))


def _digest(tensors: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)} ".encode())
        plain = _plain(tensor)
        digest.update(np.ascontiguousarray(plain.flatten().view(torch.uint8).numpy()))
    return digest.hexdigest()


def _size(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()


def _dtype(model: Model) -> str:
    return str(next(model.parameters()).dtype).removeprefix("torch.")
