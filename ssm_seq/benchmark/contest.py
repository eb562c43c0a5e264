"""Mamba against a Transformer of its size with a cache of keys and values, both behind long prompts."""

import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor, nn

from ssm_seq.benchmark.against_transformers import MISSING, library, seconds_of_generate
from ssm_seq.benchmark.decode_cases import VOCAB, DecodeCase, new_engine, new_model, random_ids, speeds
from ssm_seq.benchmark.measured import Measured, Peer
from ssm_seq.benchmark.timing import Times
from ssm_seq.benchmark.transformer import Clocked, Shape, clocked
from ssm_seq.inference import generate

FIVE = 5.0  # times the Transformer's ids a second
_THEIR_STEPS = 16  # of transformers' generate, for its time of a step


class Contest(NamedTuple):
    """case: of ours; shape: of the Transformer; both go on from as many prompts of `prompt` ids."""

    case: DecodeCase = DecodeCase(48, 1024, 64, length=256)
    shape: Shape = Shape(layers=24, d_model=1024, heads=16, d_ff=2816, vocab=VOCAB)
    prompt: int = 2048

    @property
    def name(self) -> str:
        return f"{self.case.name} after {self.prompt:,} positions"


def plan(contest: Contest) -> list[Measured]:
    """The figures that `measure` gives, without their values."""
    return [
        Measured(contest.name, unit="tokens/s"),
        Measured(f"{contest.name}, over the Transformer", unit="x", target=FIVE),
        Measured(f"{contest.name}, prompts read within the time", unit="tokens/s"),
        Measured(f"{contest.name}, until the first ids", unit="s"),
    ]


def measure(contest: Contest, device: torch.device) -> Iterator[Measured]:
    """Ids a second without and with the time of the prompts, and the time to the first ids, beside the faster
    of two Transformers; then the other one.

    They are the one of `transformer.py`, which takes the likeliest ids and keeps them on the GPU, and Llama
    of transformers with the cache that its `generate` chooses. Ours draws ids and hands them to the host.
    """
    case, ids = contest.case, random_ids(contest.case.count, contest.prompt)
    first, steady = _ours(contest, device)
    prompts, dtype = torch.tensor(ids, device=device).long(), getattr(torch, case.precision)
    size = f"Transformer {contest.shape.layers}x{contest.shape.d_model}"
    found = {}
    for clock in (
        clocked(contest.shape, prompts, case.length, dtype),
        _by_transformers(contest.shape, prompts, dtype),
    ):
        if clock is None:
            print(MISSING, file=sys.stderr)
        else:
            found[f"{size}, {clock.how}"] = clock
    best, *others = sorted(found, key=lambda name: found[name].step)
    their_first, their_step, _ = found[best]

    def beside(value: float) -> Peer:
        return Peer(best, float(f"{value:.5g}"))

    speed, over, whole, until = plan(contest)
    theirs_speed = case.count / their_step
    yield replace(speed, value=steady.median, low=steady.low, high=steady.high, peer=beside(theirs_speed))
    yield replace(over, value=steady.median / theirs_speed)
    total, steps = case.count * case.length, case.length - 1
    yield replace(
        whole,
        value=total / (first + steps * case.count / steady.median),
        peer=beside(total / (their_first + steps * their_step)),
    )
    yield replace(until, value=first, peer=beside(their_first))
    for name in others:
        yield Measured(f"{name}, after {contest.prompt:,}", case.count / found[name].step, "tokens/s")


def _ours(contest: Contest, device: torch.device) -> tuple[float, Times]:
    """Seconds from the prompts to their first ids, and ids a second afterwards."""
    case, prompts = contest.case, random_ids(contest.case.count, contest.prompt)
    model = new_model(case, device)
    run_by = new_engine(model, case)
    generate(model, prompts[:, :-1], 1, run_by=run_by)
    begun = time.perf_counter()
    made = generate(model, prompts, 1, run_by=run_by)
    first = time.perf_counter() - begun
    return first, speeds(model, case, run_by, made.state)


def llama(transformers: ModuleType, shape: Shape, positions: int) -> nn.Module:
    """transformers' LlamaForCausalLM of the same sizes with random weights, which never ends a text."""
    config = transformers.LlamaConfig(
        vocab_size=shape.vocab,
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        max_position_embeddings=positions,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


def _by_transformers(shape: Shape, prompts: Tensor, dtype: torch.dtype) -> Clocked | None:
    """Its Llama of random weights, making the likeliest ids; None where transformers is missing."""
    if (transformers := library()) is None:
        return None
    with torch.device(prompts.device):
        model = llama(transformers, shape, 2 * prompts.shape[1]).to(dtype)
    with torch.inference_mode():
        seconds_of_generate(model, prompts, 2)
        first = seconds_of_generate(model, prompts, 1)
        longer = seconds_of_generate(model, prompts, 1 + _THEIR_STEPS)
    return Clocked(
        first, (longer - first) / _THEIR_STEPS, f"generate of transformers {transformers.__version__}"
    )
