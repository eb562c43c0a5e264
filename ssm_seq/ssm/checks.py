"""What every function of this package refuses, in one sentence that says what and why."""

import torch
from torch import Tensor


def check_size(name: str, value: int) -> None:
    """Raises ValueError unless `value`, a number of states, steps or the like, is 1 or more."""
    if value < 1:
        raise ValueError(f"{name}={value}: expected 1 or more")


def check_pairs(N: int) -> None:
    """Raises ValueError for a number of states that can't be split into pairs."""
    check_size("N", N)
    if N % 2:
        raise ValueError(f"N={N}: the states come in pairs, expected an even number")


def time_step(delta: Tensor | float, dtype: torch.dtype, device: torch.device) -> Tensor:
    """delta as a tensor of the (real) dtype; ValueError unless every one is a positive, finite number."""
    _check_positive("delta", delta, "time steps go forward")
    if isinstance(delta, Tensor):
        return delta.to(device, dtype)
    return torch.tensor(delta, dtype=dtype, device=device)


def check_rate(rate: Tensor | float) -> None:
    """Raises ValueError unless the ratio of two time steps is a positive, finite number."""
    _check_positive("rate", rate, "it is the new time step divided by the old one")


def _check_positive(name: str, value: Tensor | float, why: str) -> None:
    values = value if isinstance(value, Tensor) else torch.tensor(value, dtype=torch.float64)
    values = values.detach().flatten()
    wrong = values[~((values > 0) & torch.isfinite(values))]
    if len(wrong):
        raise ValueError(f"{name}={wrong[0].item():g}: expected a positive number, {why}")
