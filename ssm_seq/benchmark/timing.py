"""How long a function takes and how much memory it needs."""

import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch

_SAMPLES_MS = 60  # of a GPU's time for each figure, but at least five runs
_CPU_SAMPLES_MS = 300


class Times(NamedTuple):
    """Milliseconds: the median of all runs, and the bounds of their middle 80 %."""

    median: float
    low: float
    high: float


def summary(samples: list[float]) -> Times:
    low, median, high = np.quantile(samples, (0.1, 0.5, 0.9))
    return Times(float(median), float(low), float(high))


def milliseconds(run: Callable[[], object], device: torch.device) -> Times:
    """Times of `run`, which was run before: what is compiled or allocated at a first call is not in them.

    On a GPU between two events in the device's stream, with the cache swept before each; two runs warm up.
    """
    if device.type != "cuda":
        warm = _on_cpu(run, 1)[0]
        return summary(_on_cpu(run, _repetitions(warm, _CPU_SAMPLES_MS, least=3)))
    sweep = torch.empty(2**28, dtype=torch.int8, device=device)
    warm = min(_on_gpu(run, sweep, 2))
    return summary(_on_gpu(run, sweep, _repetitions(warm, _SAMPLES_MS, least=5)))


def _repetitions(estimate: float, budget: float, least: int) -> int:
    return min(max(int(budget / max(estimate, 1e-6)), least), 200)


def _on_gpu(run: Callable[[], object], sweep: torch.Tensor, repetitions: int) -> list[float]:
    events = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repetitions)]
    for start, end in events:
        sweep.zero_()
        start.record()
        run()
        end.record()
    torch.cuda.synchronize()
    return [start.elapsed_time(end) for start, end in events]


def _on_cpu(run: Callable[[], object], repetitions: int) -> list[float]:
    samples = []
    for _ in range(repetitions):
        start = time.perf_counter()
        run()
        samples.append((time.perf_counter() - start) * 1e3)
    return samples


def wait() -> None:
    """Until a GPU, if there is one, has done everything so far."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def allocated(device: torch.device) -> int:
    """Bytes that tensors hold on a GPU now; 0 on a CPU."""
    return torch.cuda.memory_allocated(device) if device.type == "cuda" else 0


def peak_gib(run: Callable[[], object], device: torch.device, before: int) -> float | None:
    """The most memory held during `run`, in GiB, without what was held `before`; None on a CPU."""
    if device.type != "cuda":
        run()
        return None
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats(device)
    run()
    torch.cuda.synchronize()
    return (torch.cuda.max_memory_allocated(device) - before) / 2**30
