"""Every layer: whole = any chunks = step by step; causal; differentiable through its state."""

from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.layers import S4, S4D, Mamba, map_state, s4, s4d

LAYERS = {
    "mamba": partial(Mamba, 6, d_state=3, d_conv=4, expand=2),
    "mamba_wide_steps": partial(Mamba, 20, d_state=16, d_conv=2, expand=1, dt_min=0.1, dt_max=1.0),
    "s4": partial(S4, 6, d_state=4),
    "s4_wide_steps": partial(S4, 3, d_state=64, dt_min=0.1, dt_max=1.0),
    "s4d": partial(S4D, 6, d_state=4),
    "s4d_wide_steps": partial(S4D, 3, d_state=64, dt_min=0.1, dt_max=1.0),
}
TOLERANCE = {torch.float64: {"rtol": 1e-9, "atol": 1e-10}, torch.float32: {"rtol": 1e-3, "atol": 1e-4}}
every_layer = pytest.mark.parametrize("name", LAYERS)


def layer_and_input(name, batch, length, seed, dtype):
    torch.manual_seed(seed)
    layer = LAYERS[name]().to(dtype)
    return layer, torch.randn(batch, length, LAYERS[name].args[0], dtype=dtype)


def in_chunks(layer, x, cuts):
    state, outputs = None, []
    for part in torch.tensor_split(x, sorted(cuts), dim=1):
        y, state = layer(part, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@every_layer
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@settings(deadline=None, max_examples=12)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 70),
    cuts=st.sets(st.integers(1, 69)),
    seed=st.integers(0, 99),
)
def test_whole_is_chunks_is_steps(name, dtype, batch, length, cuts, seed):
    layer, x = layer_and_input(name, batch, length, seed, dtype)
    with torch.no_grad():
        y, final = layer(x)
        y_chunks, final_chunks = in_chunks(layer, x, {cut for cut in cuts if cut < length})
        state, steps = layer.initial_state(batch), []
        for t in range(length):
            y_t, state = layer.step(x[:, t], state)
            steps.append(y_t)
    assert y.shape == x.shape and y.dtype == dtype
    torch.testing.assert_close(y_chunks, y, **TOLERANCE[dtype])
    torch.testing.assert_close(final_chunks, final, **TOLERANCE[dtype])
    torch.testing.assert_close(torch.stack(steps, dim=1), y, **TOLERANCE[dtype])
    torch.testing.assert_close(state, final, **TOLERANCE[dtype])


@every_layer
def test_initial_state_is_no_state(name):
    layer, x = layer_and_input(name, 2, 9, 0, torch.float64)
    initial = layer.initial_state(2)
    torch.testing.assert_close(layer(x, initial), layer(x))
    _, final = layer(x)
    assert [(part.shape, part.dtype) for part in initial] == [(part.shape, part.dtype) for part in final]
    assert all(part.shape[0] == 2 for part in initial)


@every_layer
def test_state_takes_the_asked_type(name):
    initial = LAYERS[name]().initial_state(2, "cpu", torch.float64)
    assert {part.dtype for part in initial} <= {torch.float64, torch.complex128}


@every_layer
def test_gradients_flow_through_the_state(name):
    layer, x = layer_and_input(name, 2, 23, 1, torch.float64)
    x.requires_grad_()
    weights = torch.randn_like(x)

    def gradients(y, state):
        loss = (weights * y).sum() + sum(part.abs().sum() for part in state)
        return torch.autograd.grad(loss, [x, *layer.parameters()])

    for whole, chunks in zip(gradients(*layer(x)), gradients(*in_chunks(layer, x, {5, 6, 17})), strict=True):
        torch.testing.assert_close(chunks, whole, rtol=1e-8, atol=1e-9)


@every_layer
def test_detached_state_stops_gradients(name):
    layer, x = layer_and_input(name, 1, 8, 2, torch.float64)
    x.requires_grad_()
    _, state = layer(x[:, :4])
    y, _ = layer(x[:, 4:], map_state(torch.Tensor.detach, state))
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient[:, :4].abs().max() == 0
    assert gradient[:, 4:].abs().max() > 0


@every_layer
@pytest.mark.parametrize("changed", [0, 7, 29])
def test_no_output_knows_the_future(name, changed):
    layer, x = layer_and_input(name, 2, 30, 3, torch.float64)
    other = x.clone()
    other[:, changed] += 1
    with torch.no_grad():
        y, y_other = layer(x)[0], layer(other)[0]
    torch.testing.assert_close(y_other[:, :changed], y[:, :changed], rtol=1e-10, atol=1e-12)
    assert (y_other[:, changed] - y[:, changed]).abs().max() > 1e-3


@every_layer
def test_ssm_parameters_are_parameters_of_the_layer(name):
    layer = LAYERS[name]()
    known = {id(parameter) for parameter in layer.parameters()}
    declared = [id(parameter) for parameter in layer.ssm_parameters()]
    assert set(declared) < known and len(declared) == len(set(declared))


@every_layer
def test_bfloat16_autocast_keeps_states_and_gradients_in_float32(name):
    layer, x = layer_and_input(name, 2, 21, 4, torch.float32)
    expected, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        y, state = layer(x)
        y_next, state = layer(x, state)
        y_step, state = layer.step(x[:, 0], state)
    assert {part.dtype for part in state} <= {torch.float32, torch.complex64}
    assert (y.float() - expected).norm() < 0.03 * expected.norm()
    (y_next.float().sum() + y_step.float().sum()).backward()
    assert all(parameter.grad.dtype == torch.float32 for parameter in layer.parameters())
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize(("name", "module"), [("s4", s4), ("s4d", s4d)])
def test_long_chunks_are_cut(monkeypatch, name, module):
    layer, x = layer_and_input(name, 2, 50, 5, torch.float64)
    y, final = layer(x)
    monkeypatch.setattr(module, "LONGEST", 7)
    torch.testing.assert_close(layer(x), (y, final), rtol=1e-10, atol=1e-11)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@every_layer
def test_gpu_agrees_with_cpu(name):
    layer, x = layer_and_input(name, 2, 300, 6, torch.float32)
    y, final = layer(x)
    layer, x = layer.cuda(), x.cuda()
    y_gpu, state = in_chunks(layer, x, {1, 130})
    torch.testing.assert_close(y_gpu.cpu(), y, **TOLERANCE[torch.float32])
    torch.testing.assert_close(map_state(torch.Tensor.cpu, state), final, **TOLERANCE[torch.float32])
    torch.testing.assert_close(
        layer.step(x[:, 0], state)[0], layer(x[:, :1], state)[0][:, 0], **TOLERANCE[torch.float32]
    )
    with torch.autocast("cuda", torch.bfloat16):
        y_half, state = layer(x)
    assert {part.dtype for part in state} <= {torch.float32, torch.complex64}
    assert (y_half.float().cpu() - y).norm() < 0.03 * y.norm()
    y_half.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())
