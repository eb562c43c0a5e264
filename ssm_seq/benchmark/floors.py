"""What the hardware lets a pass be at best: each thing that it must do, over the rate of the chip."""

from typing import NamedTuple

import torch

from ssm_seq.benchmark.timing import milliseconds

H100 = "NVIDIA H100 80GB HBM3"  # as its driver names the GPU that targets and recorded figures are for


class Work(NamedTuple):
    """What a pass must do at least once: bytes between memory and chip, exponentials, and multiplications and
    additions of matrix products."""

    bytes: float
    exponentials: float = 0
    operations: float = 0


class Rates(NamedTuple):
    """Each kind of work per second, None where it is not known."""

    bytes: float
    exponentials: float | None = None
    operations: float | None = None


# Measured on that GPU: a device copy (read and written), exp2, a large bfloat16 product.
_H100_RATES = Rates(3.02e12, 3.7e12, 798e12)


def is_h100(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.get_device_name(device) == H100


def rates(device: torch.device) -> Rates | None:
    """Of this GPU; of another than the H100 only that of a copy, measured now. None for a CPU."""
    if device.type != "cuda":
        return None
    if is_h100(device):
        return _H100_RATES
    source = torch.empty(2**30, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    return Rates(2 * source.numel() / milliseconds(lambda: target.copy_(source), device).median * 1e3)


def floors(work: Work, rates: Rates | None) -> dict[str, float]:
    """Milliseconds that each kind of work takes at least, without kinds of unknown rate or not needed."""
    if rates is None:
        return {}
    return {
        kind: amount / rate * 1e3
        for kind, amount, rate in zip(Work._fields, work, rates, strict=True)
        if rate and amount
    }
