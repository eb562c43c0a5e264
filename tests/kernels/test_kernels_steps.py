"""Single steps: step by step is the whole, and the state is overwritten in place."""

import pytest
import torch
from interpreter import run_interpreted
from kernel_cases import DEVICES, FORWARD, ROUNDED_FORWARD, error, in_double, scan_inputs
from test_kernels_causal_conv1d import conv_inputs

from ssm_seq.kernels import causal_conv1d_step, selective_step
from ssm_seq.kernels.causal_conv1d import definition as conv_definition
from ssm_seq.kernels.selective_scan import definition as scan_definition

SEQUENCES = ("u", "delta", "z", "B", "C")
OPTIONS = {
    "plain": {},
    "bare": {"D": None, "z": None, "delta_bias": None, "delta_softplus": False},
    "grouped": {"B": 2, "C": 4},
    "invariant": {"B": 0},
}


def step_inputs(batch, length, channels, d_state, options="plain", device="cpu", dtype=torch.float32):
    """Arguments of `selective_scan`; a number for B or C: that many groups, 0: the same at all times."""
    arguments = scan_inputs(batch, length, channels, d_state, device, dtype)
    generator = torch.Generator().manual_seed(2)
    for name, value in OPTIONS[options].items():
        if isinstance(value, int) and name in ("B", "C"):
            shape = (batch, length, value, d_state) if value else (channels, d_state)
            value = torch.randn(shape, generator=generator).to(device, dtype)
        arguments[name] = value
    if not arguments["delta_softplus"]:
        arguments["delta"] = arguments["delta"].exp()
    return arguments


def at(arguments, t):
    """The arguments of step t: a time-invariant matrix has no axis for it."""
    return {
        name: value[:, t] if name in SEQUENCES and value is not None and value.dim() > 2 else value
        for name, value in arguments.items()
    }


def walk(arguments, step=selective_step, state=None):
    """All outputs one step after the other, and the last state."""
    arguments = dict(arguments)
    start = arguments.pop("initial_state")
    state = start.clone() if state is None else state.copy_(start)
    length = arguments["u"].shape[1]
    return torch.stack([step(state, **at(arguments, t)) for t in range(length)], 1), state


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("options", list(OPTIONS))
@pytest.mark.parametrize("shape", [(2, 9, 24, 16), (1, 3, 8, 5), (3, 4, 140, 33), (2, 3, 4, 256)], ids=str)
def test_selective_steps_are_the_scan(shape, options, device, poisoned):
    arguments = step_inputs(*shape, options, device)
    y, state = walk(arguments)
    expected, last = scan_definition.selective_scan(**in_double(arguments))
    assert error(y, expected) <= FORWARD
    assert error(state, last) <= FORWARD


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("state_dtype", [torch.float32, torch.bfloat16])
def test_selective_steps_on_rounded_inputs(state_dtype, device, poisoned):
    arguments = step_inputs(2, 6, 40, 16, device=device, dtype=torch.bfloat16)
    arguments["initial_state"] = arguments["initial_state"].to(state_dtype)
    y, state = walk(arguments)
    expected, last = scan_definition.selective_scan(**in_double(arguments))
    assert y.dtype == torch.bfloat16
    assert state.dtype == state_dtype
    # A state in bfloat16 is rounded once a step.
    assert error(y, expected) <= (ROUNDED_FORWARD if state_dtype == torch.float32 else 2 * ROUNDED_FORWARD)
    assert error(state, last) <= (ROUNDED_FORWARD if state_dtype == torch.float32 else 2 * ROUNDED_FORWARD)


@pytest.mark.parametrize("device", DEVICES)
def test_complex_steps(device):
    arguments = step_inputs(2, 5, 6, 4, device=device)
    generator = torch.Generator().manual_seed(3)
    rates = torch.randn(6, 4, generator=generator).to(device)
    arguments["A"] = torch.complex(arguments["A"], rates)
    arguments["initial_state"] = torch.complex(arguments["initial_state"], arguments["initial_state"].flip(1))
    y, state = walk(arguments)
    x = arguments["initial_state"].to(torch.complex128)
    for t in range(5):
        case = {n: v.double() if n != "A" else v for n, v in at(arguments, t).items() if n in "u delta A B C"}
        step = torch.nn.functional.softplus(case["delta"] + arguments["delta_bias"])[..., None]
        x = torch.exp(step * case["A"]) * x + step * case["B"][:, None] * case["u"][..., None]
        out = 2 * (x * case["C"][:, None]).sum(-1).real + arguments["D"] * case["u"]
        expected = out * torch.nn.functional.silu(arguments["z"][:, t].double())
        assert error(y[:, t], expected) <= FORWARD
    assert error(torch.view_as_real(state), torch.view_as_real(x)) <= FORWARD


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", [(2, 7, 24, 4), (1, 3, 1, 2), (3, 5, 300, 3), (2, 3, 8, 1)], ids=str)
def test_conv_steps_are_the_convolution(shape, activation, device, poisoned):
    arguments = conv_inputs(*shape, device=device, activation=activation)
    expected, last = conv_definition.causal_conv1d(**in_double(arguments))
    x, state = arguments.pop("x"), arguments.pop("initial_state")
    y = torch.stack([causal_conv1d_step(state, x[:, t], **arguments) for t in range(x.shape[1])], 1)
    assert error(y, expected) <= FORWARD
    assert torch.equal(state, last.float())


@pytest.mark.parametrize("device", DEVICES)
def test_strides_are_free(device):
    """A state with channels first, inputs that are slices."""
    arguments = step_inputs(2, 4, 24, 16, device=device)
    expected = walk(arguments)
    wide = torch.cat([arguments["u"], arguments["delta"], arguments["z"]], -1)
    arguments |= dict(zip(("u", "delta", "z"), wide.split(24, dim=-1), strict=True))
    matrices = torch.cat([arguments["B"], arguments["C"]], -1)
    arguments |= dict(zip(("B", "C"), matrices.split(16, dim=-1), strict=True))
    found = walk(arguments, state=torch.empty(16, 24, 2, device=device).permute(2, 1, 0))
    for pair in zip(found, expected, strict=True):
        assert error(*pair) < 1e-6

    case = conv_inputs(2, 1, 24, 4, device=device)
    state, x = case.pop("initial_state"), case.pop("x")[:, 0]
    turned = state.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(causal_conv1d_step(turned, x, **case), causal_conv1d_step(state, x, **case))
    assert torch.equal(turned, state)


@pytest.mark.parametrize("device", DEVICES)
def test_steps_are_differentiable(device):
    arguments = step_inputs(2, 3, 6, 4, device=device)
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
    results = []
    for whole in (scan_definition.selective_scan, lambda **case: walk(case)):
        leaves = [arguments[name].clone().requires_grad_() for name in names]
        y, state = whole(**{**arguments, **dict(zip(names, leaves, strict=True))})
        results.append(torch.autograd.grad(y.square().sum() + state.square().sum(), leaves))
    for found, expected in zip(*results, strict=True):
        assert error(found, expected) < 1e-5

    case = conv_inputs(1, 4, 3, 4, device=device)
    leaf, x, start = case.pop("weight").requires_grad_(), case.pop("x"), case.pop("initial_state")
    state = start.clone()
    steps = torch.stack([causal_conv1d_step(state, x[:, t], leaf, **case) for t in range(4)], 1)
    whole, _ = conv_definition.causal_conv1d(x, leaf, **case, initial_state=start)
    pair = [torch.autograd.grad(y.square().sum(), leaf)[0] for y in (steps, whole)]
    assert error(*pair) < 1e-5


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(device):
    case = at(step_inputs(2, 1, 6, 4, device=device), 0)
    state = case.pop("initial_state")
    case |= {name: case[name][:, None] for name in ("B", "C")}
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "delta_softplus")
    torch.library.opcheck(torch.ops.ssm_seq.selective_step.default, (state, *[case[name] for name in names]))
    case = conv_inputs(2, 1, 6, 4, device=device)
    tensors = (case["initial_state"], case["x"][:, 0], case["weight"], case["bias"])
    torch.library.opcheck(torch.ops.ssm_seq.causal_conv1d_step.default, (*tensors, True))


def decode(conv, ssm, weight, arguments):
    u = causal_conv1d_step(conv, arguments["u"], weight, None, "silu")
    return selective_step(ssm, **{**arguments, "u": u})


def decode_inputs(device):
    arguments = at(step_inputs(2, 1, 8, 4, device=device), 0)
    ssm = arguments.pop("initial_state")
    generator = torch.Generator().manual_seed(4)
    conv, weight = (torch.randn(shape, generator=generator).to(device) for shape in ((2, 3, 8), (8, 4)))
    return conv, ssm, weight, arguments


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device):
    torch.compiler.reset()
    compiled = torch.compile(decode, fullgraph=True, backend="aot_eager")
    conv, ssm, weight, arguments = decode_inputs(device)
    conv2, ssm2 = conv.clone(), ssm.clone()
    with torch.no_grad():
        for _ in range(2):
            found, expected = compiled(conv, ssm, weight, arguments), decode(conv2, ssm2, weight, arguments)
            assert error(found, expected) < 1e-6
    assert error(conv, conv2) < 1e-6
    assert error(ssm, ssm2) < 1e-6


@pytest.mark.gpu
def test_captured_in_a_graph():
    conv, ssm, weight, arguments = decode_inputs("cuda")
    conv2, ssm2 = conv.clone(), ssm.clone()
    expected = [decode(conv2, ssm2, weight, arguments) for _ in range(3)]
    start = conv.clone(), ssm.clone()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y = decode(conv, ssm, weight, arguments)
    conv.copy_(start[0])
    ssm.copy_(start[1])
    for t in range(3):
        graph.replay()
        assert torch.equal(y, expected[t])
    assert torch.equal(conv, conv2)
    assert torch.equal(ssm, ssm2)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", torch.zeros(2, 6), "state has shape .* expected .batch, channels, d_state"),
        ("state", torch.zeros(2, 6, 4, dtype=torch.int64), "state has .* dtype torch.int64"),
        ("u", torch.zeros(2, 5), r"u has shape \(2, 5\), expected \(batch, channels\) = \(2, 6\)"),
        ("delta", torch.zeros(6), "delta has shape"),
        ("A", torch.zeros(6, 3), r"A has shape \(6, 3\), expected \(channels, d_state\) = \(6, 4\)"),
        ("A", torch.zeros(6, 4, dtype=torch.complex64), "A has .* dtype torch.complex64"),
        ("B", torch.zeros(2, 5), r"B has shape \(2, 5\), expected \(batch, d_state\) = \(2, 4\)"),
        ("B", torch.zeros(6, 5), r"B has shape \(6, 5\), expected \(channels, d_state\) = \(6, 4\)"),
        ("C", torch.zeros(3, 2, 4), r"C has shape .* expected \(batch, groups, d_state\) = \(2, 2, 4\)"),
        ("C", torch.zeros(2, 4, 4), r"C has shape \(2, 4, 4\), expected groups that divide 6 channels"),
        ("D", torch.zeros(4), "D has shape"),
        ("z", torch.zeros(2, 1, 6), "z has shape"),
        ("delta_bias", torch.zeros(6, 1), "delta_bias has shape"),
    ],
)
def test_what_does_not_fit_the_selective_step_is_named(name, value, message):
    arguments = at(step_inputs(2, 1, 6, 4), 0)
    arguments["state"] = arguments.pop("initial_state")
    with pytest.raises(ValueError, match=message):
        selective_step(**{**arguments, name: value})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("state", torch.zeros(2, 4, 6), r"state has shape .* = \(2, 3, 6\)"),
        ("x", torch.zeros(2, 1, 6), r"x has shape .* expected \(batch, channels\)"),
        ("weight", torch.zeros(5, 4), r"weight has shape \(5, 4\), expected \(channels, width\) = \(6, 4\)"),
        ("bias", torch.zeros(4), "bias has shape"),
        ("activation", "relu", "activation is 'relu', expected None or 'silu'"),
    ],
)
def test_what_does_not_fit_the_conv_step_is_named(name, value, message):
    arguments = conv_inputs(2, 1, 6, 4)
    arguments |= {"state": arguments.pop("initial_state"), "x": arguments["x"][:, 0]}
    with pytest.raises(ValueError, match=message):
        causal_conv1d_step(**{**arguments, name: value})


_INTERPRETED = """
from kernel_cases import error
from test_kernels_causal_conv1d import conv_inputs
from test_kernels_steps import OPTIONS, at, step_inputs
from ssm_seq.kernels.causal_conv1d import step as conv_step, step_gpu as conv_gpu
from ssm_seq.kernels.selective_scan import step, step_gpu

plain, plain_conv = step.definition, conv_step.definition
for shape in [(2, 1, 24, 16), (1, 1, 8, 5), (1, 1, 4, 256)]:
    for options in OPTIONS:
        arguments = at(step_inputs(*shape, options), 0)
        states = [arguments.pop("initial_state")]
        states.append(states[0].clone())
        outputs = []
        for state, function in zip(states, (plain, step_gpu.step), strict=True):
            step.definition = function
            outputs.append(step.selective_step(state, **arguments))
        assert error(*outputs) < 2e-6 and error(*states) < 2e-6, (shape, options)
for shape in [(2, 1, 24, 4), (1, 1, 140, 2), (1, 1, 1, 1)]:
    arguments = conv_inputs(*shape)
    states, x = [arguments.pop("initial_state")], arguments.pop("x")[:, 0]
    states.append(states[0].clone())
    outputs = []
    for state, function in zip(states, (plain_conv, conv_gpu.step), strict=True):
        conv_step.definition = function
        outputs.append(conv_step.causal_conv1d_step(state, x, **arguments))
    assert error(*outputs) < 2e-6 and error(*states) < 2e-6, shape
"""


def test_the_batch_lies_along_the_axis_of_the_grid_that_takes_any_number(monkeypatch):
    """A grid has 2^31 - 1 programs along its first axis, 65,535 along the others."""
    pytest.importorskip("triton")
    from ssm_seq.kernels.causal_conv1d import step_gpu as conv_gpu
    from ssm_seq.kernels.selective_scan import step_gpu

    grids = []
    for module in (conv_gpu, step_gpu):
        monkeypatch.setattr(module, "launch", lambda _, grid, *__, **___: grids.append(grid))
    batch = 2**17
    x, rows = torch.zeros(batch, 1), torch.zeros(batch, 1, 1)
    conv_gpu.step(rows, x, torch.zeros(1, 2), None, silu=False)
    step_gpu.step(rows, x, x, torch.zeros(1, 1), rows, rows, None, None, None, delta_softplus=False)
    assert grids == [(batch, 1), (batch, 1)]


def test_gpu_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    run_interpreted(_INTERPRETED)
