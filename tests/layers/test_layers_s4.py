"""S4 against the recurrence of the HiPPO matrix itself, and its initial values."""

import pytest
import torch
import torch.nn.functional as F

from ssm_seq.layers import S4
from ssm_seq.ssm import System, bilinear, conjugate_half, hippo, nplr, recurrent


def s4_by_hand(layer, x):
    """Dense LegS matrices in HiPPO's own coordinates, never diagonalised, step by step; C as in the layer."""
    d_model, pairs = layer.A_imag.shape
    A, B = hippo("legs", 2 * pairs)
    V = conjugate_half(nplr("legs", 2 * pairs)).V
    C = 2 * (torch.view_as_complex(layer.C) @ V.mH).real
    channels = []
    for h in range(d_model):
        bars = bilinear(A, B, layer.log_dt.exp()[h])
        channels.append(recurrent(System(*bars, C[h : h + 1]), x[..., h : h + 1])[0])
    y = F.gelu(torch.cat(channels, dim=-1) + layer.D * x)
    a, b = layer.out_proj(y).chunk(2, dim=-1)
    return a * torch.sigmoid(b)


@pytest.mark.parametrize("length", [1, 2, 17, 100])
def test_the_layer_is_hippo(length):
    """The initial Lambda, P and B are rounded to float32: so close, no closer, is the layer to LegS."""
    torch.manual_seed(length)
    layer = S4(4, d_state=16, dt_min=0.01, dt_max=0.5).double()
    x = torch.randn(2, length, 4, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], s4_by_hand(layer, x), rtol=1e-5, atol=1e-6)


def test_float32_layers_are_exact_to_1e_5():
    torch.manual_seed(0)
    layer = S4(4, d_state=64)
    x = torch.randn(1, 3000, 4)
    y = layer(x)[0]
    exact = layer.double()(x.double())[0]
    assert (y - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_layers_of_16_bits_keep_their_system_in_float32(dtype):
    """Parameters, inputs and outputs are rounded; states are not."""
    torch.manual_seed(0)
    layer = S4(4, d_state=16)
    x = torch.randn(2, 150, 4)
    exact = layer(x)[0]
    layer, x = layer.to(dtype), x.to(dtype)
    y, state = layer(x)
    step, after = layer.step(x[:, 0], layer.initial_state(2))
    assert y.dtype == step.dtype == dtype
    assert state.x.dtype == after.x.dtype == layer.initial_state(2).x.dtype == torch.complex64
    assert (y.float() - exact).norm() < 0.05 * exact.norm()
    assert (step.float() - exact[:, 0]).norm() < 0.05 * exact[:, 0].norm()
    y.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.fixture
def fresh_compiler():
    """Lengths seen before, here or after, would make it compile for any length."""
    torch.compiler.reset()
    yield
    torch.compiler.reset()


def test_one_compiled_graph(fresh_compiler):
    torch.manual_seed(0)
    layer = S4(3, d_state=8)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x, state = torch.randn(2, 130, 3), S4(3, d_state=8).initial_state(2)
    for found, expected in zip(compiled(x, state), layer(x, state), strict=True):
        torch.testing.assert_close(found, expected)
    gradients = [
        torch.autograd.grad(f(x)[0].square().sum(), list(layer.parameters())) for f in (compiled, layer)
    ]
    torch.testing.assert_close(*gradients)


@pytest.mark.gpu
def test_captured_in_a_graph():
    """Nothing in a forward and a backward pass looks at values."""
    layer = S4(8, d_state=16).cuda()
    x = torch.randn(2, 500, 8, device="cuda")

    def run():
        y, state = layer(x)
        step, _ = layer.step(x[:, 0], state)
        return y, step, *torch.autograd.grad(y.square().sum() + step.sum(), list(layer.parameters()))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        expected = run()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = run()
    graph.replay()
    for ours, eager in zip(captured, expected, strict=True):
        torch.testing.assert_close(ours, eager, rtol=1e-4, atol=1e-4)


def test_one_set_of_weights_serves_every_length():
    """No kernel length is baked into the weights: a prefix has the outputs that it has in the whole."""
    torch.manual_seed(0)
    layer = S4(3, d_state=8).double()
    x = torch.randn(1, 90, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x[:, :37])[0], layer(x)[0][:, :37], rtol=1e-10, atol=1e-11)


def test_initial_values_are_legs():
    layer = S4(5, d_state=8, dt_min=0.002, dt_max=0.05)
    legs = conjugate_half(nplr("legs", 8))
    for h in range(5):
        torch.testing.assert_close(-layer.log_A_real[h].exp(), legs.A.Lambda.real.float())
        torch.testing.assert_close(layer.A_imag[h], legs.A.Lambda.imag.float())
        torch.testing.assert_close(torch.view_as_complex(layer.P[h]), legs.A.P[:, 0].to(torch.complex64))
        torch.testing.assert_close(torch.view_as_complex(layer.B[h]), legs.B[:, 0].to(torch.complex64))
    assert layer.log_dt.exp().min() >= 0.002 and layer.log_dt.exp().max() <= 0.05


def test_an_odd_number_of_states_is_refused():
    with pytest.raises(ValueError, match="d_state=5"):
        S4(4, d_state=5)


def test_a_random_system_is_stable_and_obeys_its_recurrence():
    torch.manual_seed(0)
    layer = S4(3, d_state=8, dt_min=0.01, dt_max=0.5, hippo_init=False).double()
    legs = S4(3, d_state=8)
    assert (layer.A_imag - legs.A_imag).abs().amin() > 1e-3  # none of HiPPO's frequencies
    x = torch.randn(2, 70, 3, dtype=torch.float64)
    y, last = layer(x)
    state, steps = layer.initial_state(2), []
    for x_t in x.unbind(1):
        y_t, state = layer.step(x_t, state)
        steps.append(y_t)
    torch.testing.assert_close(y, torch.stack(steps, dim=1), rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(last.x, state.x, rtol=1e-10, atol=1e-10)
    for _ in range(12):  # 2^12 times the time of a chunk later
        _, last = layer(torch.zeros(2, 4096, 3, dtype=torch.float64), last)
    assert last.x.abs().max() < 1e-3 * state.x.abs().max()
