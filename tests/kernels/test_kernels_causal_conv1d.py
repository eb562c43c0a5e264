import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from kernel_cases import (
    DEVICES,
    FORWARD,
    GRADIENT,
    ROUNDED_FORWARD,
    ROUNDED_GRADIENT,
    assert_close,
    error,
    in_double,
    with_gradients,
)

from ssm_seq.kernels import causal_conv1d, causal_conv1d_step
from ssm_seq.kernels.causal_conv1d import definition

SHAPES = [(2, 63, 24, 4), (1, 1, 1, 2), (2, 300, 70, 3), (1, 2, 64, 4), (1, 129, 130, 4)]


def conv_inputs(batch, length, channels, width, device="cpu", dtype=torch.float32, activation="silu"):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64).to(device, dtype)

    return {
        "x": normal(batch, length, channels),
        "weight": normal(channels, width),
        "bias": normal(channels),
        "activation": activation,
        "initial_state": normal(batch, width - 1, channels),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(shape, activation, device, poisoned):
    arguments = conv_inputs(*shape, device=device, activation=activation)
    expected = with_gradients(definition.causal_conv1d, in_double(arguments))
    assert_close(with_gradients(causal_conv1d, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_rounded_inputs_and_absent_options(device, poisoned):
    arguments = conv_inputs(2, 140, 40, 4, device=device, dtype=torch.bfloat16)
    for changes in ({}, {"bias": None}, {"initial_state": None}):
        case = {**arguments, **changes}
        expected = with_gradients(definition.causal_conv1d, in_double(case))
        assert_close(with_gradients(causal_conv1d, case), expected, ROUNDED_FORWARD, ROUNDED_GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_chunks_with_carried_state_and_steps_are_the_whole(device):
    arguments = conv_inputs(2, 50, 24, 4, device=device)
    x = arguments.pop("x")
    whole, last = causal_conv1d(x, **arguments)
    state, parts = arguments.pop("initial_state"), []
    stepped, steps = state.clone(), []
    for start, end in [(0, 1), (1, 3), (3, 40), (40, 50)]:
        y, state = causal_conv1d(x[:, start:end], **arguments, initial_state=state)
        parts.append(y)
    for t in range(50):
        steps.append(causal_conv1d_step(stepped, x[:, t], **arguments))
    assert error(torch.cat(parts, 1), whole) < 1e-6
    assert error(torch.stack(steps, 1), whole) < 1e-6
    assert torch.equal(state, last)
    assert torch.equal(stepped, last)


def test_gradcheck():
    arguments = conv_inputs(1, 5, 3, 4, dtype=torch.float64)
    names = ("x", "weight", "bias", "initial_state")

    def function(*tensors):
        return causal_conv1d(**dict(zip(names, tensors, strict=True)), activation="silu")

    assert torch.autograd.gradcheck(function, [arguments[name].requires_grad_() for name in names])


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(device):
    arguments = conv_inputs(2, 20, 12, 4, device=device)
    tensors = [arguments[name].requires_grad_() for name in ("x", "weight", "bias", "initial_state")]
    torch.library.opcheck(torch.ops.ssm_seq.causal_conv1d.default, (*tensors[:3], True, tensors[3]))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.zeros(3, 4), "x has shape"),
        ("weight", torch.zeros(5, 4), r"weight has shape \(5, 4\), expected \(channels, width\) = \(6, 4\)"),
        ("bias", torch.zeros(4), "bias has shape"),
        ("initial_state", torch.zeros(2, 4, 6), r"initial_state has shape .* = \(2, 3, 6\)"),
        ("activation", "relu", "activation is 'relu', expected None or 'silu'"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    arguments = {**conv_inputs(2, 7, 6, 4), name: value}
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**arguments)


_INTERPRETED = """
import torch
from kernel_cases import assert_close, with_gradients
from test_kernels_causal_conv1d import conv_inputs
from ssm_seq.kernels.causal_conv1d import definition, gpu, op

gpu.BLOCK, gpu.CHUNK = 32, 8
op._device_path = lambda tensor: gpu
for shape in [(2, 19, 24, 4), (1, 1, 1, 2), (2, 10, 40, 3), (1, 2, 8, 4)]:
    for changes in ({}, {"activation": None}, {"bias": None}, {"initial_state": None}):
        arguments = {**conv_inputs(*shape), **changes}
        expected = with_gradients(definition.causal_conv1d, arguments)
        assert_close(with_gradients(op.causal_conv1d, arguments), expected, 2e-6, 1e-5)
print("agreed")
"""


def test_gpu_kernels_in_the_interpreter():
    """In a process of its own: TRITON_INTERPRET counts when a kernel is defined."""
    pytest.importorskip("triton")
    here = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-c", _INTERPRETED],
        env={**os.environ, "TRITON_INTERPRET": "1", "PYTHONPATH": os.pathsep.join([str(here), *sys.path])},
        capture_output=True,
        text=True,
    )
    assert result.stdout.strip() == "agreed", result.stderr
