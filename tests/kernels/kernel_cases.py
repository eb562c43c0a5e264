"""What the kernel tests share: inputs, the definition in float64 and the measure of error."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
FORWARD, GRADIENT = 2e-6, 1e-5  # relative RMS error in float32
ROUNDED_FORWARD, ROUNDED_GRADIENT = 5e-3, 1e-2  # with bfloat16 inputs and outputs


def scan_inputs(
    batch: int,
    length: int,
    channels: int,
    d_state: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    shift: float = -2.0,
    seed: int = 0,
) -> dict[str, Tensor | bool]:
    """Arguments of `selective_scan`, all of them; delta is softplus(normal + shift)."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, rounded: bool = True) -> Tensor:
        values = torch.randn(*shape, generator=generator, dtype=torch.float64)
        return values.to(device, dtype if rounded else torch.promote_types(dtype, torch.float32))

    sequence, matrix = (batch, length, channels), (batch, length, d_state)
    return {
        "u": normal(*sequence),
        "delta": normal(*sequence) + shift,
        "A": -torch.exp(normal(channels, d_state, rounded=False)),
        "B": normal(*matrix),
        "C": normal(*matrix),
        "D": normal(channels, rounded=False),
        "z": normal(*sequence),
        "delta_bias": normal(channels, rounded=False),
        "delta_softplus": True,
        "initial_state": normal(batch, channels, d_state, rounded=False),
    }


def error(value: Tensor, expected: Tensor) -> float:
    """Relative RMS error; the plain norm where the expected value is zero. NaN never passes a comparison."""
    wide = torch.complex128 if expected.is_complex() else torch.float64
    assert value.is_complex() == expected.is_complex()
    value, expected = value.to(wide), expected.to(wide)
    return float((value - expected).norm() / (expected.norm() if expected.norm() > 0 else 1.0))


def with_gradients(
    function: Callable[..., tuple[Tensor, Tensor]], arguments: dict[str, Tensor | bool | None], seed: int = 1
) -> dict[str, Tensor]:
    """y, state, and "d" + name of every tensor with a gradient, for fixed random gradients of y and state."""
    leaves = {
        name: value.detach().clone().requires_grad_() if has_gradient(value) else value
        for name, value in arguments.items()
    }
    y, state = function(**leaves)
    sent = sent_gradients(y, state, seed=seed)
    tensors = {name: leaf for name, leaf in leaves.items() if has_gradient(leaf)}
    gradients = torch.autograd.grad((y, state), list(tensors.values()), sent)
    found = {"y": y.detach(), "state": state.detach()}
    found.update({f"d{name}": gradient for name, gradient in zip(tensors, gradients, strict=True)})
    return found


def sent_gradients(*results: Tensor, seed: int = 1) -> list[Tensor]:
    """Fixed random gradients of the results, exact in bfloat16 too."""
    generator, sent = torch.Generator().manual_seed(seed), []
    for result in results:
        numbers = torch.randn(*result.shape, 2 if result.is_complex() else 1, generator=generator)
        numbers = numbers.to(torch.bfloat16).float()
        numbers = torch.view_as_complex(numbers) if result.is_complex() else numbers.squeeze(-1)
        sent.append(numbers.to(result))
    return sent


def has_gradient(value: Tensor | bool | None) -> bool:
    return isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())


def in_double(arguments: dict[str, Tensor | bool | None]) -> dict[str, Tensor | bool | None]:
    """The same rounded inputs in float64 or complex128."""
    return {
        name: value.to(torch.complex128 if value.is_complex() else torch.float64)
        if has_gradient(value)
        else value
        for name, value in arguments.items()
    }


def assert_close(
    found: dict[str, Tensor], expected: dict[str, Tensor], forward: float, gradient: float
) -> None:
    errors = {name: error(found[name], expected[name]) for name in expected}
    outputs = ("y", "state")
    missed = {n: e for n, e in errors.items() if not e <= (forward if n in outputs else gradient)}
    assert not missed, missed
