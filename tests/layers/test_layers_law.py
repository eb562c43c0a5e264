"""Every causal layer: whole = any chunks = step by step; no output knows the future; gradients pass through
the state."""

import copy
from functools import partial

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.layers import (
    CNN,
    DSS,
    EMA,
    GRU,
    H3,
    LSSL,
    LSTM,
    S4,
    S4D,
    S5,
    Gated,
    Mamba,
    Transformer,
    blocks,
    map_state,
    scan,
)

LAYERS = {
    "mamba": partial(Mamba, 6, d_state=3, d_conv=4, expand=2),
    "mamba_wide_steps": partial(Mamba, 20, d_state=16, d_conv=2, expand=1, dt_min=0.1, dt_max=1.0),
    "s4": partial(S4, 6, d_state=4),
    "s4_wide_steps": partial(S4, 3, d_state=64, dt_min=0.1, dt_max=1.0),
    "s4d": partial(S4D, 6, d_state=4),
    "s4d_wide_steps": partial(S4D, 3, d_state=64, dt_min=0.1, dt_max=1.0),
    "transformer": partial(Transformer, 12, heads=3),
    "lstm": partial(LSTM, 6),
    "gru": partial(GRU, 6),
    "cnn": partial(CNN, 6, width=3, depth=4),
    "lssl": partial(LSSL, 6, d_state=5),
    "lssl_wide_steps_per_channel": partial(LSSL, 3, d_state=64, dt_min=0.1, dt_max=1.0, per_channel=True),
    "dss": partial(DSS, 6, d_state=4, horizon=32),
    "dss_wide_steps": partial(DSS, 3, d_state=64, dt_min=0.1, dt_max=1.0),
    "s5": partial(S5, 6, d_state=4),
    "s5_wide_steps": partial(S5, 3, d_state=64, dt_min=0.1, dt_max=1.0, blocks=4),
    "ema": partial(EMA, 6, d_state=3),
    "h3": partial(H3, 6, d_state=4, d_conv=3),
    "h3_wide_steps": partial(H3, 3, d_state=64, dt_min=0.1, dt_max=1.0),
    "gated_s5": lambda: Gated(6, S5(9, d_state=4), d_inner=9),
    "gated_mamba": lambda: Gated(6, Mamba(5, d_state=3), d_inner=5),
}
SMALL = [name for name in LAYERS if "wide" not in name]
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5}  # relative RMS error
every_layer = pytest.mark.parametrize("name", LAYERS)


def width(name):
    return LAYERS[name].args[0] if isinstance(LAYERS[name], partial) else 6


def assert_close(found, expected):
    """By relative RMS error, each part of a tuple for itself."""
    if isinstance(expected, tuple):
        for part, whole in zip(found, expected, strict=True):
            assert_close(part, whole)
        return
    assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
    error, size = (found - expected).norm(), expected.norm()
    assert error <= TOLERANCE[size.dtype] * size, f"relative error {error / size:.2g}"


def layer_and_input(name, batch, length, seed, dtype):
    torch.manual_seed(seed)
    layer = LAYERS[name]().to(dtype)
    return layer, torch.randn(batch, length, width(name), dtype=dtype)


def in_chunks(layer, x, cuts):
    state, outputs = None, []
    for part in torch.tensor_split(x, sorted(cuts), dim=1):
        y, state = layer(part, state)
        outputs.append(y)
    return torch.cat(outputs, dim=1), state


@every_layer
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@settings(deadline=None, max_examples=6)
@given(
    batch=st.integers(1, 3),
    length=st.integers(1, 80),
    cuts=st.sets(st.integers(1, 79)),
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
    assert_close(y_chunks, y)
    assert_close(final_chunks, final)
    assert_close(torch.stack(steps, dim=1), y)
    assert_close(state, final)


@every_layer
def test_initial_state_is_no_state(name):
    layer, x = layer_and_input(name, 2, 9, 0, torch.float64)
    initial = layer.initial_state(2)
    torch.testing.assert_close(layer(x, initial), layer(x))
    _, final = layer(x)
    assert [part.dtype for part in initial] == [part.dtype for part in final]
    if name != "transformer":  # whose state grows
        assert [part.shape for part in initial] == [part.shape for part in final]
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


@pytest.mark.parametrize(("name", "module"), [("lssl", blocks), ("s4", blocks), ("s5", scan)])
@pytest.mark.parametrize(("block", "length"), [(2, 9), (3, 50), (5, 50), (16, 15)])
def test_the_width_of_blocks_does_not_matter(monkeypatch, name, module, block, length):
    layer, x = layer_and_input(name, 2, length, 5, torch.float64)
    y, final = layer(x)
    monkeypatch.setattr(module, "WIDTH", block)
    assert_close(layer(x), (y, final))


@pytest.mark.parametrize("name", ["mamba", "s4", "s4d", "lssl", "dss", "s5", "ema", "h3", "gated_s5"])
def test_bfloat16_weights_keep_states_in_float32(name):
    layer, x = layer_and_input(name, 2, 21, 4, torch.float32)
    layer = layer.bfloat16()
    expected, _ = copy.deepcopy(layer).float()(x)
    y, state = layer(x.bfloat16())
    y_step, state = layer.step(x[:, 0].bfloat16(), state)
    assert y.dtype == y_step.dtype == torch.bfloat16
    assert {part.dtype for part in state} <= {torch.float32, torch.complex64}
    assert (y.float() - expected).norm() < 0.03 * expected.norm()


@every_layer
def test_float32_is_exact_over_long_sequences(name):
    """Against the same weights in float64: phases reach 10^3 radians and more."""
    layer, x = layer_and_input(name, 1, 3000, 7, torch.float32)
    with torch.no_grad():
        y, _ = layer(x)
        exact, _ = layer.double()(x.double())
    assert (y - exact).norm() < 1e-5 * exact.norm()


@pytest.mark.parametrize("name", SMALL)
def test_gradients_are_right(name):
    """Of input, incoming state and weights, by outputs and the state after, against finite differences."""
    layer, x = layer_and_input(name, 1, 5, 8, torch.float64)
    names, weights = zip(*layer.named_parameters(), strict=True)
    _, start = layer(torch.randn_like(x))
    start = map_state(lambda part: part.detach().requires_grad_(), start)

    def run(x, *values):
        state, named = type(start)(*values[: len(start)]), dict(zip(names, values[len(start) :], strict=True))
        y, state = torch.func.functional_call(layer, named, (x, state))
        return y, *state

    assert torch.autograd.gradcheck(run, (x.requires_grad_(), *start, *weights), fast_mode=True)


@every_layer
def test_an_empty_chunk_is_refused(name):
    with pytest.raises(ValueError, match="expected"):
        LAYERS[name]()(torch.zeros(2, 0, width(name)))


@pytest.mark.parametrize("name", ["lssl", "s5", "ema", "h3"])
def test_layers_compile_whole(name):
    layer, x = layer_and_input(name, 2, 70, 9, torch.float32)
    y, state = layer(x)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")(x)
    assert_close(compiled, (y, state))
    weights = list(layer.parameters())
    expected = torch.autograd.grad(y.square().sum(), weights)
    assert_close(torch.autograd.grad(compiled[0].square().sum(), weights), expected)


@pytest.mark.parametrize("name", ["s5", "ema"])
def test_layers_compile_for_every_length(name):
    torch.compiler.reset()  # all layers share `forward`, and how often it may be compiled has a limit
    layer = LAYERS[name]()
    weights = list(layer.parameters())
    compiled = torch.compile(layer, fullgraph=True, dynamic=True, backend="aot_eager")
    for length in (5, 12):
        x = torch.randn(2, length, 6)
        results = []
        for function in (layer, compiled):
            y, state = function(x)
            results.append((y, *state, *torch.autograd.grad(y.square().sum(), weights)))
        assert_close(*results)


@every_layer
def test_a_state_keeps_no_more_than_itself(name):
    """No view of the chunk's tensors: a stream's memory would grow with its chunks."""
    layer, x = layer_and_input(name, 1, 400, 4, torch.float32)
    with torch.no_grad():
        _, short = layer(x[:, :200])
        _, long = layer(x)
    if name != "transformer":  # its state is its past
        for a, b in zip(short, long, strict=True):
            assert a.untyped_storage().nbytes() == b.untyped_storage().nbytes()


@pytest.mark.gpu
@pytest.mark.parametrize("name", ["mamba", "s4", "s4d", "lssl", "dss", "s5", "ema", "h3", "gated_s5"])
def test_a_training_step_can_be_recorded(name):
    """Nothing in it waits for the host: `ssm_seq.training.gradients` replays small steps as CUDA graphs."""
    layer, x = layer_and_input(name, 2, 70, 9, torch.float32)
    layer, x = layer.cuda(), x.cuda()
    weights = list(layer.parameters())

    def gradients():
        return torch.autograd.grad(layer(x)[0].square().sum(), weights)

    expected = gradients()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        recorded = gradients()
    graph.replay()
    assert_close(recorded, expected)


@pytest.mark.gpu
@every_layer
def test_gpu_agrees_with_cpu(name, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # of torch's own convolutions and cells
    layer, x = layer_and_input(name, 2, 300, 6, torch.float32)
    y, final = layer(x)
    layer, x = layer.cuda(), x.cuda()
    y_gpu, state = in_chunks(layer, x, {1, 130})
    assert_close(y_gpu.cpu(), y)
    assert_close(map_state(torch.Tensor.cpu, state), final)
    assert_close(layer.step(x[:, 0], state)[0], layer(x[:, :1], state)[0][:, 0])
    with torch.autocast("cuda", torch.bfloat16):
        y_half, state = layer(x)
    assert {part.dtype for part in state} <= {torch.float32, torch.complex64}
    assert (y_half.float().cpu() - y).norm() < 0.03 * y.norm()
    y_half.float().square().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


@pytest.mark.parametrize("kind", [S4, S4D, S5, DSS, LSSL, EMA, H3])
def test_many_short_steps_stay_exact(kind):
    """Time steps of 1e-5 change a state by as much; over thousands of steps nothing of it may be lost."""
    torch.manual_seed(0)
    layer = kind(2, 8) if kind is EMA else kind(2, 8, dt_min=1e-5, dt_max=1e-5)
    if kind is EMA:
        with torch.no_grad():
            layer.alpha.fill_(-6.0)
            layer.delta.fill_(-6.0)
    x = torch.randn(1, 2000, 2)
    with torch.no_grad():
        state = layer.initial_state(1)
        for x_t in x.unbind(1):
            _, state = layer.step(x_t, state)
        _, exact = layer.double()(x.double())
    for part, whole in zip(state, exact, strict=True):
        assert (part - whole).norm() < 5e-6 * whole.norm()
