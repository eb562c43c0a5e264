"""Generation: ids a second of whole runs of `generate`, draws and copies to the host included.

On a GPU against the batch, beside transformers' generate and beside a Transformer of the same size that
goes on from 2,048 positions. On a CPU beside transformers, with the same weights.
"""

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

import torch

from ssm_seq.benchmark import contest, decode_cases
from ssm_seq.benchmark.against_transformers import MISSING, in_transformers, seconds_of_generate
from ssm_seq.benchmark.contest import Contest
from ssm_seq.benchmark.decode_cases import DecodeCase, new_engine, new_model, random_ids, speeds
from ssm_seq.benchmark.floors import is_h100
from ssm_seq.benchmark.measured import Measured, Peer
from ssm_seq.benchmark.timing import summary
from ssm_seq.inference import Rule, generate

TWENTY = 20.0  # times transformers' speed, on a CPU
_RUNS = 5
_OURS_LONGER = 16  # times the ids of transformers, for times of one order


class Job(NamedTuple):
    """planned: the figures that `run` gives, without their values."""

    planned: list[Measured]
    run: Callable[[], Iterator[Measured]]


def jobs(device: torch.device) -> Iterator[Job]:
    """Everything that is measured; targets and recorded peers on an H100 alone."""
    on_gpu = device.type == "cuda"
    if on_gpu:
        shapes = Contest()
        planned = contest.plan(shapes)
        yield Job(planned, partial(contest.measure, shapes, device))
        yield from (_job(case, device) for case in decode_cases.GPU_CASES)
        for case in decode_cases.THEIR_CASES:
            planned = Measured(f"{case.name}, transformers' generate", unit="tokens/s")
            yield Job([planned], partial(_by_transformers, planned, case, device))
        yield from (_job(case, device) for case in decode_cases.FLOAT32_CASES)
    else:
        yield from (_job(case, device) for case in decode_cases.CPU_CASES)
        case = DecodeCase(4, 128, 1, precision="float32", length=128)
        yield Job([Measured(f"{case.name} beside transformers")], partial(_beside_transformers, case))


def _job(case: DecodeCase, device: torch.device) -> Job:
    planned = Measured(case.name, unit="tokens/s")
    if is_h100(device):
        peer = None if case.peer is None else Peer("mamba-ssm", case.peer, recorded=True)
        planned = replace(planned, target=case.target, peer=peer)
    return Job([planned], partial(_measure, planned, case, device))


def _measure(planned: Measured, case: DecodeCase, device: torch.device) -> Iterator[Measured]:
    model = new_model(case, device)
    found = speeds(model, case, new_engine(model, case))
    yield replace(planned, value=found.median, low=found.low, high=found.high)


def _by_transformers(planned: Measured, case: DecodeCase, device: torch.device) -> Iterator[Measured]:
    """A MambaForCausalLM with the weights of the case's model, in its precision."""
    theirs = in_transformers(new_model(case, torch.device("cpu")))
    if theirs is None:
        print(MISSING, file=sys.stderr)
        return
    theirs = theirs.to(device, getattr(torch, case.precision)).eval()
    ids = torch.tensor(random_ids(case.count, 16), device=device).long()
    with torch.inference_mode():
        seconds_of_generate(theirs, ids, 2)
        first = seconds_of_generate(theirs, ids, 1)
        longer = seconds_of_generate(theirs, ids, 1 + case.length)
    yield replace(planned, value=case.count * case.length / (longer - first))


def _beside_transformers(case: DecodeCase) -> Iterator[Measured]:
    """Both take turns; their likeliest ids must be the same for the times to mean anything."""
    ours = new_model(case, torch.device("cpu")).eval()
    theirs = in_transformers(ours)
    if theirs is None:
        print(MISSING, file=sys.stderr)
        return
    prompt = random_ids(16)
    ids = torch.tensor(prompt[None]).long()
    run_by, found = new_engine(ours, case), ([], [])
    for number in range(_RUNS + 1):
        made = generate(ours, prompt, _OURS_LONGER * case.length, Rule(temperature=0), run_by=run_by)
        start = time.perf_counter()
        with torch.no_grad():
            text = theirs.generate(ids, max_new_tokens=case.length, do_sample=False, use_cache=True)
        seconds = time.perf_counter() - start
        if number == 0:
            if text[0, 16:24].tolist() != made.ids[0, :8].tolist():
                raise RuntimeError("the two models go on differently: times would compare nothing")
            continue
        found[0].append(_OURS_LONGER * case.length / made.seconds)
        found[1].append(case.length / seconds)
    (fast, low, high), slow = summary(found[0]), summary(found[1]).median
    name = f"{case.name}, likeliest ids"
    peer = Peer("transformers' generate", float(f"{slow:.5g}"))
    yield Measured(name, fast, "tokens/s", low=low, high=high, peer=peer)
    yield Measured(f"{name}, over transformers", fast / slow, "x", target=TWENTY)
