"""Generation: ids a second of whole runs of `generate`, draws and copies to the host included.

On a GPU against the batch, and beside a Transformer of the same size that goes on from 2,048 positions. On a
CPU beside transformers, with the same weights.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import numpy as np
import torch

from ssm_seq.benchmark.against_transformers import MISSING, in_transformers
from ssm_seq.benchmark.floors import is_h100
from ssm_seq.benchmark.measured import Measured, Peer
from ssm_seq.benchmark.timing import summary
from ssm_seq.benchmark.transformer_steps import steps_of_a_transformer
from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import TOKENS
from ssm_seq.inference import Engine, Rule, engine, generate
from ssm_seq.inference.stream import inference
from ssm_seq.models import LanguageModel

VOCAB = 256
RUNS = 5
PROMPT, AT_ONCE = 2048, 64  # beside the Transformer
_OURS_LONGER = 16  # times the ids of transformers, for times of one order
_TRANSFORMER = f"Transformer 24 x 1024 with a KV cache, {PROMPT} positions, torch SDPA in a CUDA graph"


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
    DecodeCase(8, 256, 256),
    DecodeCase(8, 256, 1024, length=512),
    DecodeCase(12, 512, 1, target=7_500, peer=2_435),
    DecodeCase(12, 512, 16),
    DecodeCase(12, 512, 64, peer=132_198),
    DecodeCase(12, 512, 256, length=512),
    DecodeCase(48, 1024, 1, target=1_600, peer=585, length=256),
    DecodeCase(48, 1024, 16, length=256),
    DecodeCase(48, 1024, 64, peer=30_525, length=256),
    DecodeCase(8, 256, 1, precision="float32"),
    DecodeCase(8, 256, 64, precision="float32"),
    DecodeCase(8, 256, 1, "s4d"),
    DecodeCase(8, 256, 64, "s4d"),
]
CPU_CASES = [
    DecodeCase(4, 128, 1, precision="float32"),
    DecodeCase(4, 128, 16, precision="float32", length=512),
    DecodeCase(4, 128, 1, "s4d", precision="float32"),
]
TWENTY = 20.0  # times transformers' speed, on a CPU
FIVE = 5.0  # times the Transformer's speed, on a GPU


class Job(NamedTuple):
    """planned: the figures that `run` gives, without their values."""

    planned: list[Measured]
    run: Callable[[], Iterator[Measured]]


def jobs(device: torch.device) -> Iterator[Job]:
    """Everything that is measured; targets and recorded peers on an H100 alone."""
    on_gpu = device.type == "cuda"
    for case in GPU_CASES if on_gpu else CPU_CASES:
        planned = Measured(case.name, unit="tokens/s")
        if is_h100(device):
            peer = None if case.peer is None else Peer("mamba-ssm", case.peer, recorded=True)
            planned = replace(planned, target=case.target, peer=peer)
        yield Job([planned], partial(_measure, planned, case, device))
    if on_gpu:
        case = DecodeCase(48, 1024, AT_ONCE, length=256)
        planned = Measured(f"{case.name} after {PROMPT} positions, over a Transformer", unit="x", target=FIVE)
        yield Job([planned], partial(_beside_a_transformer, planned, case, device))
    else:
        case = DecodeCase(4, 128, 1, precision="float32", length=128)
        yield Job([Measured(f"{case.name} beside transformers")], partial(_beside_transformers, case))


def _measure(planned: Measured, case: DecodeCase, device: torch.device) -> Iterator[Measured]:
    model = _model(case, device)
    speeds = _speeds(model, case, _engine(model, case))
    yield replace(planned, value=speeds.median, low=speeds.low, high=speeds.high)


def _model(case: DecodeCase, device: torch.device) -> LanguageModel:
    torch.manual_seed(0)
    with torch.device(device):
        return LanguageModel(case.config, VOCAB, TOKENS)


def _engine(model: LanguageModel, case: DecodeCase) -> Engine:
    with inference(model):
        return engine(model, getattr(torch, case.precision))


def _speeds(model: LanguageModel, case: DecodeCase, run_by: Engine, prompt: int = 16):
    """Ids a second of several runs, after one to warm up; the prompt is read before the clock starts."""
    ids = np.random.default_rng(0).integers(0, VOCAB, prompt, dtype=np.uint8)
    speeds = []
    for seed in range(RUNS + 1):
        length = case.length if seed else min(case.length, 32)
        made = generate(model, ids, length, seed=seed, count=case.count, run_by=run_by)
        speeds.append(case.count * length / made.seconds)
    return summary(speeds[1:])


def _beside_a_transformer(planned: Measured, case: DecodeCase, device: torch.device) -> Iterator[Measured]:
    """Ours, then the Transformer's steps, then the ratio."""
    model = _model(case, device)
    ours = _speeds(model, case, _engine(model, case), PROMPT)
    del model
    step = summary(steps_of_a_transformer(24, 1024, 16, PROMPT + case.length // 2, AT_ONCE, VOCAB, device))
    theirs = AT_ONCE / step.median * 1e3
    yield replace(planned, value=ours.median / theirs, peer=Peer(f"{_TRANSFORMER}: {theirs:,.0f} tokens/s"))


def _beside_transformers(case: DecodeCase) -> Iterator[Measured]:
    """Both take turns; their likeliest ids must be the same for the times to mean anything."""
    ours = _model(case, torch.device("cpu")).eval()
    theirs = in_transformers(ours)
    if theirs is None:
        print(MISSING, file=sys.stderr)
        return
    prompt = np.random.default_rng(0).integers(0, VOCAB, 16, dtype=np.uint8)
    ids = torch.tensor(prompt[None]).long()
    run_by, speeds = _engine(ours, case), ([], [])
    for number in range(RUNS + 1):
        made = generate(ours, prompt, _OURS_LONGER * case.length, Rule(temperature=0), run_by=run_by)
        start = time.perf_counter()
        with torch.no_grad():
            text = theirs.generate(ids, max_new_tokens=case.length, do_sample=False, use_cache=True)
        seconds = time.perf_counter() - start
        if number == 0:
            if text[0, 16:24].tolist() != made.ids[0, :8].tolist():
                raise RuntimeError("the two models go on differently: times would compare nothing")
            continue
        speeds[0].append(_OURS_LONGER * case.length / made.seconds)
        speeds[1].append(case.length / seconds)
    (fast, low, high), slow = summary(speeds[0]), summary(speeds[1]).median
    name = f"{case.name}, likeliest ids"
    peer = Peer("transformers' generate", float(f"{slow:.5g}"))
    yield Measured(name, fast, "tokens/s", low=low, high=high, peer=peer)
    yield Measured(f"{name}, over transformers", fast / slow, "x", target=TWENTY)
