"""Stores that a model can read."""

from pathlib import Path

from ssm_seq.data.store import Store
from ssm_seq.errors import InputError
from ssm_seq.models.model import Model


def store_for(model: Model, path: Path) -> Store:
    """The store at `path`.

    Raises:
        InputError: there is none, or it holds other data than the model was trained on.
    """
    store = Store.open(path)
    if (store.alphabet.name, store.sample_rate) != (model.alphabet, model.sample_rate):
        raise InputError(
            f"{path}: a store of {_kind(store.alphabet.name, store.sample_rate)}; the model reads "
            f"{_kind(model.alphabet, model.sample_rate)}"
        )
    return store


def _kind(alphabet: str, sample_rate: int | None) -> str:
    return alphabet if sample_rate is None else f"{alphabet} at {sample_rate} Hz"
