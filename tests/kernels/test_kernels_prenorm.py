"""The mixer behind its norm: the two calls in one, that save one sequence less."""

import pytest
import torch
from kernel_cases import (
    DEVICES,
    FORWARD,
    GRADIENT,
    ROUNDED_FORWARD,
    ROUNDED_GRADIENT,
    error,
    in_double,
    sent_gradients,
)

from ssm_seq.kernels import mamba_mixer, prenorm_mamba_mixer
from ssm_seq.kernels.mamba_mixer import definition, pieces
from ssm_seq.kernels.mamba_mixer.arguments import new_layer
from ssm_seq.kernels.rms_norm import definition as norm
from ssm_seq.kernels.rms_norm import rms_norm

ON_DEVICES = pytest.mark.parametrize("device", DEVICES)


def inputs(batch=2, length=70, d_model=12, device="cpu", dtype=torch.float32, residual=True, states=True):
    arguments = new_layer(batch, length, d_model, 4, device=device, dtype=dtype)
    generator = torch.Generator(device=device).manual_seed(3)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, device=device)

    first = {"x": arguments.pop("x"), "residual": None, "norm_weight": 1 + 0.1 * normal(d_model), "eps": 1e-5}
    if residual:
        first["residual"] = normal(batch, length, d_model).to(dtype)
    if states:
        arguments["conv_state"] = normal(batch, 3, 2 * d_model).to(dtype)
        arguments["ssm_state"] = normal(batch, 2 * d_model, 4)
    return first | arguments


def two_calls(norm, mixer):
    def composed(x, residual, norm_weight, eps, **arguments):
        normed, summed = norm(x, norm_weight, eps, residual)
        out, conv_state, ssm_state = mixer(normed, **arguments)
        return out, summed, conv_state, ssm_state

    return composed


def results(function, arguments):
    leaves = {
        n: v.clone().requires_grad_() if isinstance(v, torch.Tensor) else v for n, v in arguments.items()
    }
    outputs = function(**leaves)
    tensors = {n: v for n, v in leaves.items() if isinstance(v, torch.Tensor)}
    gradients = torch.autograd.grad(outputs, list(tensors.values()), sent_gradients(*outputs))
    found = dict(zip(("out", "summed", "conv", "ssm"), (v.detach() for v in outputs), strict=True))
    return found | {f"d{name}": v for name, v in zip(tensors, gradients, strict=True)}


def assert_close(found, expected, forward, gradient):
    errors = {name: error(found[name], expected[name]) for name in expected}
    missed = {n: e for n, e in errors.items() if not e <= (gradient if n.startswith("d") else forward)}
    assert not missed, missed


@ON_DEVICES
@pytest.mark.parametrize("residual", [True, False], ids=["residual", "first"])
@pytest.mark.parametrize("small", [False, True], ids=["whole", "pieces"])
def test_it_is_the_two_definitions(small, residual, device, monkeypatch, poisoned):
    if small:
        monkeypatch.setattr(pieces, "STEP", 32)  # whole intervals of every device's scan
        monkeypatch.setattr(pieces, "FORWARD", 24 * 64)
        monkeypatch.setattr(pieces, "BACKWARD", 24 * 32)
    arguments = inputs(length=150, device=device, residual=residual)
    expected = results(two_calls(norm.rms_norm, definition.mamba_mixer), in_double(arguments))
    # Norm, four products, convolution and scan: their roundings add up.
    assert_close(results(prenorm_mamba_mixer, arguments), expected, 2 * FORWARD, GRADIENT)


@ON_DEVICES
@pytest.mark.parametrize("residual_dtype", [torch.bfloat16, torch.float32], ids=str)
def test_rounded_inputs(residual_dtype, device, poisoned):
    arguments = inputs(device=device, dtype=torch.bfloat16, d_model=32)
    arguments["residual"] = arguments["residual"].to(residual_dtype)
    expected = results(two_calls(norm.rms_norm, definition.mamba_mixer), in_double(arguments))
    # The norm's result is rounded once more than the definition's, before all products.
    assert_close(results(prenorm_mamba_mixer, arguments), expected, 2 * ROUNDED_FORWARD, 2 * ROUNDED_GRADIENT)
    apart = results(two_calls(rms_norm, mamba_mixer), arguments)
    assert torch.equal(results(prenorm_mamba_mixer, arguments)["out"], apart["out"])


@ON_DEVICES
def test_products_follow_autocast(device):
    arguments = inputs(device=device, d_model=32)
    with torch.autocast(device, torch.bfloat16):
        found = results(prenorm_mamba_mixer, arguments)
        apart = results(two_calls(rms_norm, mamba_mixer), arguments)
    assert found["out"].dtype == torch.bfloat16
    assert found["summed"].dtype == torch.float32
    assert torch.equal(found["out"], apart["out"])
    assert_close(found, apart, 1e-6, ROUNDED_GRADIENT)


def test_the_norms_result_is_not_saved():
    arguments = inputs(length=512, d_model=16, states=False)
    arguments["x"].requires_grad_()

    def saved_bytes(function):
        saved = {}

        def pack(tensor):
            saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            outputs = function(**arguments)
        del outputs
        return sum(saved.values())

    apart = saved_bytes(two_calls(rms_norm, mamba_mixer))
    assert saved_bytes(prenorm_mamba_mixer) == apart - arguments["x"].numel() * 4


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("residual", torch.zeros(2, 70, 5), "residual has shape"),
        ("norm_weight", torch.zeros(5), "norm_weight has shape"),
        ("in_proj", torch.zeros(5, 5), "in_proj has shape"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        prenorm_mamba_mixer(**{**inputs(), name: value})
