"""What the drop-in's tests share: rounding, gradients and the measure of error."""

import inspect

import pytest
import torch
from torch import Tensor

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
HALVES = [torch.float16, torch.bfloat16]
FORWARD = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
GRADIENT = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def error(value: Tensor, expected: Tensor) -> float:
    """Relative RMS error; NaN never passes a comparison."""
    wide = torch.complex128 if expected.is_complex() else torch.float64
    value, expected = value.to(wide), expected.to(wide)
    return float((value - expected).norm() / (expected.norm() if expected.norm() > 0 else 1.0))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    assert found.keys() == expected.keys()
    errors = {name: error(found[name], expected[name]) for name in expected}
    limits = {name: (GRADIENT if name.startswith("d/") else FORWARD)[dtype] for name in errors}
    missed = {name: value for name, value in errors.items() if not value <= limits[name]}
    assert not missed, missed


def wide(value):
    """The same rounded numbers in double precision."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return value
    return value.detach().to(torch.complex128 if value.is_complex() else torch.float64)


def with_gradients(function, arguments: dict, *, final: bool = False) -> dict[str, Tensor]:
    """Outputs, and "d/" + name of every floating argument for fixed gradients of the outputs."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        else value
        for name, value in arguments.items()
    }
    result = function(**leaves)
    results = result if isinstance(result, tuple) else (result,)
    generator = torch.Generator().manual_seed(7)
    sent = []
    for output in results[: 2 if final else 1]:
        random = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(torch.bfloat16)
        sent.append(random.to(output.device, output.dtype))
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor) and leaf.requires_grad}
    gradients = torch.autograd.grad(results[: len(sent)], list(tensors.values()), sent)
    found = {f"out {index}": output.detach() for index, output in enumerate(results)}
    found.update({f"d/{name}": value for name, value in zip(tensors, gradients, strict=True)})
    return found


def assert_compiles_whole(function, arguments: dict) -> None:
    """Compiled without a break it gives the same outputs and leaves the same states."""
    results = []
    for call in (function, torch.compile(function, fullgraph=True, backend="aot_eager")):
        own = {n: v.clone() if isinstance(v, Tensor) else v for n, v in arguments.items()}
        result = call(**own)
        states = [own[name] for name in ("state", "conv_state") if name in own]
        results.append([*(result if isinstance(result, tuple) else (result,)), *states])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


def signature(function) -> str:
    """Names and defaults."""
    return ", ".join(
        name if value.default is value.empty else f"{name}={value.default}"
        for name, value in inspect.signature(function).parameters.items()
    )
