"""A small store of each kind and a configuration that trains on it in a second or two."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from ssm_seq.config import Config, DataConfig, ModelConfig, OptimConfig, TaskConfig
from ssm_seq.data.store import Store, StoreWriter


def write_dna(path: Path) -> Store:
    """Two labels with different base composition, two records each in train and one in valid and test."""
    random = np.random.default_rng(0)
    letters = np.frombuffer(b"ACGTacgtN", np.uint8)
    shares = {"AT": [3, 1, 1, 3, 1, 1, 1, 1, 0.5], "GC": [1, 3, 3, 1, 1, 1, 1, 1, 0.5]}
    with StoreWriter(path, "dna") as writer:
        for label, share in shares.items():
            for split in ("train", "train", "valid", "test"):
                text = random.choice(letters, 1500, p=np.array(share) / np.sum(share))
                writer.add(f"{label}{len(writer.records)}", [text.tobytes()], label=label, split=split)
    return Store.open(path)


@pytest.fixture
def dna(tmp_path: Path) -> Store:
    return write_dna(tmp_path / "dna")


@pytest.fixture
def small() -> Callable[..., Config]:
    """small(task, **optim): a configuration for `dna`, with dropout, so that every generator matters."""
    return small_config


def small_config(task: str = "classify", **optim: object) -> Config:
    values = {"steps": 12, "batch_size": 4, "warmup_steps": 3, "log_every": 2, "valid_every": 5}
    return Config(
        data=DataConfig(window=48, reverse_complement=True, soft_mask_weight=0.5),
        task=TaskConfig(task),
        model=ModelConfig(d_model=8, n_layers=1, d_state=4, dropout=0.2),
        optim=OptimConfig(**{**values, "checkpoint_every": 3, "valid_batches": 2, **optim}),
    )
