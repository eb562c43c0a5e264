"""Which models generate how many sequences at once, and how fast whole calls of `generate` are."""

import time
from dataclasses import dataclass

import numpy as np
import torch

from ssm_seq.benchmark.timing import Times, summary
from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import TOKENS
from ssm_seq.inference import Engine, State, engine, generate, read_prompt
from ssm_seq.inference.stream import Ids, inference
from ssm_seq.models import LanguageModel

VOCAB = 256
_RUNS = 5
_SECONDS = 1.0  # after which there are no more runs of a case, from the third on


@dataclass(frozen=True)
class DecodeCase:
    """A model and how many items it makes at once. target, peer: ids a second in all, on an H100."""

    layers: int
    d_model: int
    count: int
    layer: str = "mamba"
    target: float | None = None
    peer: float | None = None
    precision: str = "bfloat16"
    length: int = 2048

    @property
    def name(self) -> str:
        kind = "" if self.layer == "mamba" else f" {self.layer}"
        rounded = "" if self.precision == "bfloat16" else f" {self.precision}"
        return f"decode{kind} {self.layers}x{self.d_model} batch {self.count}{rounded}"

    @property
    def config(self) -> ModelConfig:
        d_state = 16 if self.layer == "mamba" else 64
        return ModelConfig(layer=self.layer, d_model=self.d_model, n_layers=self.layers, d_state=d_state)


GPU_CASES = [
    DecodeCase(8, 256, 1, target=16_000, peer=3_922),
    DecodeCase(8, 256, 4),
    DecodeCase(8, 256, 16),
    DecodeCase(8, 256, 64, target=800_000, peer=246_693),
    DecodeCase(8, 256, 256, length=1024),
    DecodeCase(8, 256, 1024, length=256),
    DecodeCase(12, 512, 1, target=7_500, peer=2_435),
    DecodeCase(12, 512, 16),
    DecodeCase(12, 512, 64, peer=132_198),
    DecodeCase(12, 512, 256, length=512),
    DecodeCase(12, 512, 1024, length=128),
    DecodeCase(48, 1024, 1, target=1_600, peer=585, length=256),
    DecodeCase(48, 1024, 16, length=256),
    DecodeCase(48, 1024, 64, peer=30_525, length=128),
    DecodeCase(48, 1024, 256, length=32),
    DecodeCase(8, 256, 1, "s4d"),
    DecodeCase(8, 256, 16, "s4d"),
    DecodeCase(8, 256, 64, "s4d"),
    DecodeCase(8, 256, 256, "s4d", length=512),
    DecodeCase(8, 256, 1024, "s4d", length=128),
]
FLOAT32_CASES = [DecodeCase(8, 256, count, precision="float32") for count in (1, 64)]
THEIR_CASES = [DecodeCase(8, 256, count, length=24) for count in (1, 16, 64, 256, 1024)]  # of transformers
CPU_CASES = [
    DecodeCase(4, 128, 1, precision="float32"),
    DecodeCase(4, 128, 16, precision="float32", length=512),
    DecodeCase(4, 128, 1, "s4d", precision="float32"),
]


def new_model(case: DecodeCase, device: torch.device) -> LanguageModel:
    """Of random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        return LanguageModel(case.config, VOCAB, TOKENS)


def new_engine(model: LanguageModel, case: DecodeCase) -> Engine:
    """In the case's precision."""
    with inference(model):
        return engine(model, getattr(torch, case.precision))


def random_ids(*shape: int) -> Ids:
    return np.random.default_rng(0).integers(0, VOCAB, shape, dtype=np.uint8)


def speeds(model: LanguageModel, case: DecodeCase, run_by: Engine, state: State | None = None) -> Times:
    """Ids a second in all of several runs, after one to warm up.

    state: of one item or of all; None forks the one before the first position.
    """
    state = state or read_prompt(model, random_ids(0))
    count, found = case.count // state.batch, []
    generate(model, state, min(case.length, 32), count=count, run_by=run_by)
    begun = time.perf_counter()
    while len(found) < _RUNS and (len(found) < 3 or time.perf_counter() - begun < _SECONDS):
        made = generate(model, state, case.length, seed=len(found), count=count, run_by=run_by)
        found.append(case.count * case.length / made.seconds)
    return summary(found)
