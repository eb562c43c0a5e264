"""Checkpoints that a run killed at any moment goes on from.

They lie in `<folder>/<fingerprint>/`, where the fingerprint is that of everything that changes the numbers
(an `identity`): a run with an edited value starts afresh by itself, and one that is merely repeated goes on.
A checkpoint's name holds the SHA-256 of its bytes, so a torn or altered one is known and passed over.
"""

import hashlib
import json
import os
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

import ssm_seq
from ssm_seq.config import Config
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError
from ssm_seq.files import sha256

KEPT = 2
_NOT_NUMBERS = {"optim.checkpoint_every", "optim.tensorboard"}

Identity = dict[str, Any]


def identity(config: Config, store: Store | None) -> Identity:
    """Everything that the weights and the metrics of a run depend on, by its dotted name."""
    parts = {
        name: value for name, value in asdict(config).items() if name in ("data", "task", "model", "optim")
    }
    found = {name: value for name, value in _flat(parts) if name not in _NOT_NUMBERS}
    if store is not None:
        records = [(r.name, r.start, r.length, r.label, r.ranges) for r in store.records]
        found |= {
            "store.bytes": store.checksum,
            "store.records": hashlib.sha256(json.dumps(records).encode()).hexdigest(),
            "store.alphabet": store.alphabet.name,
        }
    return found | {"torch": torch.__version__, "ssm_seq": ssm_seq.__version__}


def _flat(values: dict[str, Any], prefix: str = "") -> list[tuple[str, Any]]:
    items = []
    for key, value in values.items():
        items += _flat(value, f"{prefix}{key}.") if isinstance(value, dict) else [(f"{prefix}{key}", value)]
    return items


class Checkpoints:
    """The checkpoints of one run. Only the process that holds the results folder may write here."""

    def __init__(self, root: Path, identity: Identity) -> None:
        self.root = root
        self.identity = json.loads(json.dumps(identity))
        text = json.dumps(self.identity, sort_keys=True)
        self.folder = root / hashlib.sha256(text.encode()).hexdigest()[:16]
        self.folder.mkdir(parents=True, exist_ok=True)
        for partial in self.folder.glob("*.partial"):
            partial.unlink()

    def save(self, step: int, content: dict[str, Any]) -> None:
        """Keep tensors, numbers and text in `content` as the state after `step` steps; the oldest goes.

        Raises:
            InputError: it cannot be written; those before it remain.
        """
        partial = self.folder / f"{step:09d}.partial"
        try:
            torch.save({"identity": json.dumps(self.identity), "step": step, **content}, partial)
            with partial.open("rb") as file:
                os.fsync(file.fileno())
        except (RuntimeError, OSError) as error:
            partial.unlink(missing_ok=True)
            # Where the system refuses, torch names a place in its archive. A GPU's errors are others.
            if isinstance(error, RuntimeError) and "inline_container" not in str(error):
                raise
            where = f"{self.folder}: the checkpoint of step {step}"
            raise InputError(f"{where} cannot be written ({error}); is the disk full?") from error
        partial.replace(self.folder / f"{step:09d}-{sha256(partial)}.pt")
        for old in self._newest_first()[KEPT:]:
            old.unlink()

    def newest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole, and its path; None if there is none.

        Raises:
            InputError: it is whole but belongs to another configuration or another store.
        """
        for path in self._newest_first():
            if path.stem.partition("-")[2] != sha256(path):
                continue
            content = torch.load(path, map_location="cpu", weights_only=True)
            self._check(path, json.loads(content["identity"]))
            return path, content
        return None

    def remove(self) -> None:
        """Remove the checkpoints of this run and of all that came before it in the same results folder."""
        # Under another name first: what a kill leaves half-removed must not be gone on from.
        retired = self.root.with_name(f".{self.root.name}.old")
        shutil.rmtree(retired, ignore_errors=True)
        self.root.replace(retired)
        shutil.rmtree(retired)

    def _newest_first(self) -> list[Path]:
        return sorted(self.folder.glob("*.pt"), reverse=True)

    def _check(self, path: Path, theirs: Identity) -> None:
        for name in [*self.identity, *theirs]:
            there, here = theirs.get(name), self.identity.get(name)
            if there != here:
                raise InputError(
                    f"{path}: the checkpoint belongs to another configuration ({name} is {there} there, "
                    f"{here} here); remove {self.root} or choose another results folder"
                )


def load_weights(path: Path, model: nn.Module, state: dict[str, torch.Tensor]) -> None:
    """Put the tensors of a checkpoint into a model.

    Raises:
        InputError: a tensor is missing, is not known, or has another shape; names the first such tensor.
    """
    ours = model.state_dict()
    for name in [*ours, *state]:
        there, here = (str(tuple(d[name].shape)) if name in d else "absent" for d in (state, ours))
        if there != here:
            raise InputError(
                f"{path}: tensor {name} is {there} there, {here} in the model; remove {path.parent}"
            )
    model.load_state_dict(state)
