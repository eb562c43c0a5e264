"""Times of the kernels on a GPU, beside what mamba-ssm and causal-conv1d reach on the same model of GPU.

    python -m ssm_seq.kernels.benchmark docs/results/kernels_h100.json --commit $(git rev-parse HEAD)

The peers' figures were measured on one H100 80GB HBM3 on 2026-11-22 (mamba-ssm 2.3.2.post1, causal-conv1d
1.7.0, compiled for sm_90, torch 2.11.0+cu130): medians of CUDA-event timings, like ours. Inputs are bfloat16;
A, D and the bias float32; D, the z gate, the bias and softplus are all in use, and all gradients are taken.
"""

import argparse
import gc
import json
import platform
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.testing import do_bench

from ssm_seq.kernels import causal_conv1d, selective_scan

MEMORY_RATE = 3.02e12  # bytes/s of a device copy, read and written, measured on the H100
EXP_RATE = 3.7e12  # exp2/s, likewise


@dataclass(frozen=True)
class Case:
    """target, peer: milliseconds of (forward, forward + backward); None where there is none."""

    kernel: str
    batch: int
    channels: int
    length: int
    d_state: int = 0
    target: tuple[float | None, float | None] = (None, None)
    peer: tuple[float | None, float | None] = (None, None)


MILLION = 1 << 20
CASES = [
    Case("scan", 1, 512, MILLION, 16, (4.7, 24), (11.82, 71.69)),
    Case("scan", 1, 256, MILLION, 16, (2.5, 12), (9.94, 36.15)),
    Case("scan", 1, 2048, 16384, 16, (0.30, 1.25), (0.75, 3.71)),
    Case("scan", 8, 2048, 2048, 16, (0.35, 1.5), (0.595, 3.04)),
    Case("scan", 64, 512, 2048, 16, (0.60, 3.0), (1.17, 6.05)),
    Case("scan", 1, 512, MILLION, 64, (16, 90), (40.7, 269.4)),
    Case("scan", 1, 512, 8192, 16),
    Case("scan", 1, 512, 32768, 16),
    Case("scan", 1, 512, 131072, 16, (None, None), (1.49, 8.95)),
    Case("scan", 1, 512, 4 * MILLION, 16),
    Case("conv", 8, 2048, 2048, 0, (None, None), (0.059, 0.58)),
    Case("conv", 1, 512, MILLION, 0, (0.8, 2.2), (1.07, 2.48)),
]


def scan_arguments(case: Case) -> dict[str, Tensor | bool]:
    """Steps between 0.001 and 0.1 and A from -1 to -d_state, as a Mamba layer begins with."""
    generator = torch.Generator(device="cuda").manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cuda", dtype=torch.bfloat16)

    sequence, matrix = (case.batch, case.length, case.channels), (case.batch, case.length, case.d_state)
    bias = torch.empty(case.channels, device="cuda").uniform_(-6.9, -2.3, generator=generator)
    rates = torch.arange(1, case.d_state + 1, device="cuda", dtype=torch.float32)
    return {
        "u": normal(*sequence),
        "delta": normal(*sequence) * 0.5,
        "A": -rates.repeat(case.channels, 1),
        "B": normal(*matrix),
        "C": normal(*matrix),
        "D": torch.ones(case.channels, device="cuda"),
        "z": normal(*sequence),
        "delta_bias": bias,
        "delta_softplus": True,
    }


def conv_arguments(case: Case) -> dict[str, Tensor | str]:
    x = torch.randn(case.batch, case.length, case.channels, device="cuda", dtype=torch.bfloat16)
    weight, bias = torch.randn(case.channels, 4, device="cuda"), torch.randn(case.channels, device="cuda")
    return {"x": x, "weight": weight, "bias": bias, "activation": "silu"}


def floor_ms(case: Case) -> float:
    """Forward: the larger of bytes over memory's rate and exponentials over theirs, all of them once."""
    elements = case.batch * case.length * case.channels
    if case.kernel == "conv":
        return 2 * 2 * elements / MEMORY_RATE * 1e3
    moved = 2 * (4 * elements + 2 * case.batch * case.length * case.d_state)
    return max(moved / MEMORY_RATE, elements * case.d_state / EXP_RATE) * 1e3


def measure(case: Case) -> list[dict[str, Any]]:
    """Records of one case: forward, forward + backward, and the memory that both need beside the inputs."""
    function: Callable[..., tuple[Tensor, Tensor]] = (
        selective_scan if case.kernel == "scan" else causal_conv1d
    )
    arguments = scan_arguments(case) if case.kernel == "scan" else conv_arguments(case)
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    dy = torch.randn_like(tensors[0])

    def forward() -> None:
        with torch.no_grad():
            function(**arguments)

    def both() -> None:
        y, _ = function(**arguments)
        torch.autograd.grad(y, tensors, dy)

    shape = f"({case.batch},{case.channels},{case.length})" + (f" N{case.d_state}" if case.d_state else "")
    library = "mamba-ssm" if case.kernel == "scan" else "causal-conv1d"
    records = []
    for index, (name, run) in enumerate((("fwd", forward), ("fwd+bwd", both))):
        for tensor in tensors:
            tensor.requires_grad_(index == 1)
        run()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        peak = (torch.cuda.max_memory_allocated() - before) / 2**30
        low, median, high = do_bench(run, warmup=20, rep=150, quantiles=[0.1, 0.5, 0.9])
        record = {"name": f"{case.kernel} {name} {shape}", "value": round(median, 4), "unit": "ms"}
        record |= {"low": round(low, 4), "high": round(high, 4)}
        if index == 0:
            record["floor"] = round(floor_ms(case), 4)
        if case.target[index] is not None:
            record["target"] = case.target[index]
        if case.peer[index] is not None:
            record |= {"peer": library, "peer_value": case.peer[index]}
        records += [
            record,
            {"name": f"{case.kernel} {name} {shape} peak", "value": round(peak, 3), "unit": "GiB"},
        ]
    return records


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--commit", required=True, help="the commit that is measured")
    options = parser.parse_args()
    records = []
    for case in CASES:
        for record in measure(case):
            records.append(record)
            print(record, flush=True)
        gc.collect()
        torch.cuda.empty_cache()
    result = {
        "what": "Selective scan and causal convolution, bfloat16, median and 10-90 % of CUDA-event timings",
        "command": "python -m ssm_seq.kernels.benchmark docs/results/kernels_h100.json",
        "commit": options.commit,
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": torch.cuda.get_device_name(),
        "software": ", ".join(
            (
                f"torch {torch.__version__}",
                f"triton {triton.__version__}",
                f"Python {platform.python_version()}",
            )
        ),
        "records": records,
    }
    options.out.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
