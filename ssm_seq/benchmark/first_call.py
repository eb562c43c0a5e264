"""How long the first call takes in a fresh process, with an empty and with a filled cache of Triton.

    python -m ssm_seq.benchmark.first_call scan

prints the seconds of one first call: imports and inputs are there before, everything else is in them.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import replace

import torch

from ssm_seq.benchmark.cases import Case
from ssm_seq.benchmark.inputs import ready
from ssm_seq.benchmark.measured import Measured

# What is called first: the scan forward, the mixer forward and backward.
CASES = {"scan": Case("scan", 1, 512, 131072, 16), "mixer": Case("mixer", 1, 256, 131072, 16)}
_TARGETS = {"cold": 30.0, "warm": 5.0}  # s
_PATIENCE = 120  # s


def plan(kernel: str) -> list[Measured]:
    """A cold cache, then a warm one, without values."""
    name = CASES[kernel].name(_which(kernel))
    return [
        Measured(f"first call, {state} cache: {name}", unit="s", target=target)
        for state, target in _TARGETS.items()
    ]


def measure_first_calls(kernel: str) -> Iterator[Measured]:
    """With a cold cache, then with the one that this filled.

    Raises:
        RuntimeError: the call failed; with the last line that it said.
    """
    with tempfile.TemporaryDirectory() as cache:
        for planned in plan(kernel):
            yield replace(planned, value=_in_fresh_process(kernel, cache))


def _in_fresh_process(kernel: str, cache: str) -> float:
    done = subprocess.run(
        [sys.executable, "-m", "ssm_seq.benchmark.first_call", kernel],
        env=os.environ | {"TRITON_CACHE_DIR": cache},
        capture_output=True,
        text=True,
        timeout=_PATIENCE,
        check=False,
    )
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["no word"])[-1])
    return float(done.stdout.split()[-1])


def _which(kernel: str) -> str:
    return "fwd" if kernel == "scan" else "fwd+bwd"


def first_call(kernel: str, device: torch.device) -> float:
    """Seconds until the first output is there."""
    made = ready(CASES[kernel], device)
    backward = _which(kernel) == "fwd+bwd"
    for tensor in made.tensors if backward else []:
        tensor.requires_grad_()
    torch.cuda.synchronize()
    start = time.perf_counter()
    outputs = made.run()
    if backward:
        torch.autograd.grad(outputs, made.tensors, [torch.ones_like(output) for output in outputs])
    torch.cuda.synchronize()
    return time.perf_counter() - start


if __name__ == "__main__":
    print(first_call(sys.argv[1], torch.device("cuda")))
