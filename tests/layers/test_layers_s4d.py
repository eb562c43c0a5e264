"""S4D against its recurrence written once more, and its initial values."""

import math

import pytest
import torch
import torch.nn.functional as F

from ssm_seq.layers import S4D, map_state
from ssm_seq.ssm import s4d_inv, s4d_legs, s4d_lin


def s4d_by_hand(layer, x):
    """Every state of every channel, conjugates too, by the recurrence with zero-order hold."""
    half = torch.complex(-layer.log_A_real.exp(), layer.A_imag)
    A = torch.cat([half, half.conj()], dim=1)
    C = torch.view_as_complex(layer.C)
    C = torch.cat([C, C.conj()], dim=1)
    dt = layer.log_dt.exp()[:, None]
    A_bar = (dt * A).exp()
    B_bar = (A_bar - 1) / A
    state, outputs = torch.zeros(len(x), *A.shape, dtype=A.dtype), []
    for u in x.unbind(1):
        state = A_bar * state + B_bar * u[..., None]
        y = (C * state).sum(-1)
        assert y.imag.abs().max() < 1e-12
        a, b = layer.out_proj(F.gelu(y.real + layer.D * u)).chunk(2, dim=-1)
        outputs.append(a * torch.sigmoid(b))
    return torch.stack(outputs, dim=1)


@pytest.mark.parametrize("length", [1, 2, 16, 17, 100])
def test_convolution_agrees_with_the_recurrence(length):
    torch.manual_seed(length)
    layer = S4D(5, d_state=8, dt_min=0.01, dt_max=0.5).double()
    x = torch.randn(2, length, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], s4d_by_hand(layer, x), rtol=1e-9, atol=1e-11)


def test_gradients_agree_with_the_recurrence():
    torch.manual_seed(0)
    layer = S4D(3, d_state=6).double()
    x = torch.randn(2, 37, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn_like(x)
    targets = [x, *layer.parameters()]
    ours = torch.autograd.grad((weights * layer(x)[0]).sum(), targets)
    expected = torch.autograd.grad((weights * s4d_by_hand(layer, x)).sum(), targets)
    torch.testing.assert_close(ours, expected, rtol=1e-8, atol=1e-9)


def test_initial_values_are_s4d_lin():
    torch.manual_seed(0)
    layer = S4D(64, d_state=8, dt_min=0.002, dt_max=0.05)
    torch.testing.assert_close(layer.log_A_real.exp(), torch.full((64, 4), 0.5))
    torch.testing.assert_close(layer.A_imag, math.pi * torch.arange(4.0).repeat(64, 1))
    assert layer.log_dt.exp().min() >= 0.002 and layer.log_dt.exp().max() <= 0.05


@pytest.mark.parametrize(
    ("init", "expected"),
    [
        ("lin", s4d_lin(8)),
        ("inv", s4d_inv(8)),
        ("legs", s4d_legs(8)[0]),
        ("real", torch.tensor([-1, -2, -3, -4], dtype=torch.complex128)),
    ],
)
def test_initial_values_are_what_was_asked_for(init, expected):
    layer = S4D(3, d_state=8, init=init)
    for h in range(3):
        found = torch.complex(-layer.log_A_real[h].exp(), layer.A_imag[h])
        torch.testing.assert_close(found, expected.to(torch.complex64))
    torch.manual_seed(0)
    x = torch.randn(2, 40, 3, dtype=torch.float64)
    layer = layer.double()
    torch.testing.assert_close(layer(x)[0], s4d_by_hand(layer, x), rtol=1e-9, atol=1e-11)


def test_an_unknown_start_is_refused():
    with pytest.raises(ValueError, match="init='hippo': there is no such initialisation; known: lin, inv"):
        S4D(3, 8, init="hippo")


def test_parameter_count():
    d_model, d_state = 10, 8
    count = sum(parameter.numel() for parameter in S4D(d_model, d_state).parameters())
    assert count == d_model * (2 + 4 * (d_state // 2)) + 2 * d_model * (d_model + 1)


def test_an_odd_number_of_states_is_refused():
    with pytest.raises(ValueError, match="d_state=5"):
        S4D(4, d_state=5)


def test_long_float32_chunks_stay_exact():
    """Phases of Abar^l reach 10^4 radians; the outputs must not lose more than float32 has to."""
    torch.manual_seed(0)
    layer = S4D(4, d_state=64)
    x = torch.randn(1, 5000, 4)
    y = layer(x)[0]
    exact = layer.double()(x.double())[0]
    assert (y - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_a_model_of_rounded_parameters_computes_in_float32(dtype):
    torch.manual_seed(0)
    layer, x = S4D(6, d_state=8), torch.randn(2, 40, 6)
    expected, _ = layer(x)
    layer, x = layer.to(dtype), x.to(dtype)
    y, state = layer(x[:, :20])
    y_next, state = layer(x[:, 20:39], state)
    y_last, state = layer.step(x[:, 39], state)
    assert (y.dtype, y_last.dtype, state.x.dtype) == (dtype, dtype, torch.complex64)
    assert layer.initial_state(2).x.dtype == torch.complex64
    found = torch.cat([y, y_next, y_last[:, None]], dim=1)
    assert (found.float() - expected).norm() < 0.03 * expected.norm()
    found.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_compiled_for_every_length():
    torch.manual_seed(0)
    layer = S4D(4, d_state=6)
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (5, 40, 33):
        x = torch.randn(2, length, 4)
        state = map_state(torch.Tensor.detach, layer(x)[1])
        results = []
        for function in (layer, compiled):
            y, after = function(x, state)
            gradients = torch.autograd.grad(y.sum() + after.x.abs().sum(), layer.parameters())
            results.append((y, after.x, *gradients))
        for found, expected in zip(*results, strict=True):
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(("dt_min", "dt_max"), [(0.0, 0.1), (-1.0, 0.1), (0.2, 0.1)])
def test_time_steps_go_forward(dt_min, dt_max):
    with pytest.raises(ValueError, match=f"dt_min={dt_min}, dt_max={dt_max}: time steps go forward"):
        S4D(4, 4, dt_min, dt_max)
