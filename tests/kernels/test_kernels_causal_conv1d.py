from itertools import pairwise

import pytest
import torch
from interpreter import run_interpreted
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
from ssm_seq.kernels.causal_conv1d import definition, op

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
@pytest.mark.parametrize("width", [4, 16])
def test_rounded_inputs_are_summed_in_float32_at_every_width(width, device):
    """The definition too, which widths over 4 take on a GPU: weights are not rounded to x's dtype."""
    arguments = conv_inputs(2, 100, 24, width, device=device)
    arguments["x"] = arguments["x"].bfloat16()
    expected = with_gradients(definition.causal_conv1d, in_double(arguments))
    for function in (causal_conv1d, definition.causal_conv1d):
        found = with_gradients(function, arguments)
        assert found["y"].dtype == torch.bfloat16
        assert error(found["y"], expected["y"]) < ROUNDED_FORWARD / 2
        for name in ("dweight", "dbias"):
            assert error(found[name], expected[name]) < ROUNDED_GRADIENT / 4


def random_starts(batch, length, device="cpu"):
    """Sequences of a few steps; the first row begins with one, the others go on from the initial state."""
    starts = torch.rand(batch, length, generator=torch.Generator().manual_seed(1)) < 0.3
    starts[:, 0] = torch.arange(batch) == 0
    return starts.to(device)


def of_packed(function, starts):
    """`function` with fixed starts, for `with_gradients`, which differentiates by every tensor."""
    return lambda **arguments: function(**arguments, starts=starts)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", [None, "silu"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(shape, activation, device, poisoned):
    arguments = conv_inputs(*shape, device=device, activation=activation)
    expected = with_gradients(definition.causal_conv1d, in_double(arguments))
    assert_close(with_gradients(causal_conv1d, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_packed_sequences_agree_with_the_definition(shape, device, poisoned):
    arguments = conv_inputs(*shape, device=device)
    starts = random_starts(*shape[:2], device)
    expected = with_gradients(of_packed(definition.causal_conv1d, starts), in_double(arguments))
    found = with_gradients(of_packed(causal_conv1d, starts), arguments)
    assert_close(found, expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("edges", [(0, 30, 60), (0, 1, 2, 3, 60), (0, 20, 58, 60), (0, 59, 60)], ids=str)
def test_packed_sequences_are_the_separate_ones(edges, device, poisoned):
    arguments = conv_inputs(1, 60, 24, 4, device=device)
    initial = {"initial_state": arguments.pop("initial_state")}
    starts = torch.zeros(1, 60, dtype=torch.bool, device=device)
    starts[:, list(edges[1:-1])] = True

    def separately(x, initial_state, **constants):
        parts = [causal_conv1d(x[:, : edges[1]], **constants, initial_state=initial_state)]
        parts += [causal_conv1d(x[:, i:j], **constants) for i, j in pairwise(edges[1:])]
        return torch.cat([y for y, _ in parts], 1), parts[-1][1]

    found = with_gradients(of_packed(causal_conv1d, starts), {**arguments, **initial})
    expected = with_gradients(separately, {**arguments, **initial})
    assert_close(found, expected, FORWARD, GRADIENT)
    # The last sequence goes on where it was cut, inside the row.
    x = arguments.pop("x")
    y, state = causal_conv1d(x, **arguments, **initial, starts=starts)
    for cut in (1, 29, 57, 59):
        before, carried = causal_conv1d(x[:, :cut], **arguments, **initial, starts=starts[:, :cut])
        after, last = causal_conv1d(x[:, cut:], **arguments, initial_state=carried, starts=starts[:, cut:])
        assert error(torch.cat([before, after], 1), y) < 1e-6
        assert torch.equal(last, state)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("width", [2, 4])
def test_no_position_sees_values_outside_its_taps(width, device):
    """Not even infinite ones, which a product with zero would let through."""
    arguments = conv_inputs(1, 12, 8, width, device=device)
    starts = torch.zeros(1, 12, dtype=torch.bool, device=device)
    starts[:, 6] = True
    arguments["x"][:, 4:6] = float("inf")
    initial_state, x = arguments.pop("initial_state"), arguments.pop("x")
    y, state = causal_conv1d(x, **arguments, initial_state=initial_state, starts=starts)
    alone, last = causal_conv1d(x[:, 6:], **arguments)
    assert torch.equal(y[:, 6:], alone)
    assert torch.equal(state, last)
    y, _ = causal_conv1d(x.flip(1), **arguments)
    assert not y[:, 7 + width :].isnan().any()


@pytest.mark.parametrize("device", DEVICES)
def test_rounded_inputs_and_absent_options(device, poisoned):
    arguments = conv_inputs(2, 140, 40, 4, device=device, dtype=torch.bfloat16)
    for changes in ({}, {"bias": None}, {"initial_state": None}):
        case = {**arguments, **changes}
        expected = with_gradients(definition.causal_conv1d, in_double(case))
        assert_close(with_gradients(causal_conv1d, case), expected, ROUNDED_FORWARD, ROUNDED_GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inputs_and_gradients_in_wider_rows(dtype, device, poisoned):
    """x and dy come from, and dx goes into, one half of a tensor that leaves the other half alone."""
    batch, length, channels = 2, 70, 24
    arguments = conv_inputs(batch, length, channels, 4, device=device, dtype=dtype)
    x, weight, bias, _, start = arguments.values()
    constants = (weight, bias, True, start)
    dy = x.flip(1)
    path = op._device_path(x)
    expected_y, expected_state = path.forward(x, *constants)
    expected_dx, *expected = path.backward(dy, None, x, *constants)
    wide_x, wide_dy, wide_dx = (torch.full((batch, length, 2 * channels), 7.0).to(x) for _ in range(3))
    wide_x[..., channels:], wide_dy[..., :channels] = x, dy
    x, dy, dx = wide_x[..., channels:], wide_dy[..., :channels], wide_dx[..., channels:]
    y, state = path.forward(x, *constants)
    written, *found = path.backward(dy, None, x, *constants, dx=dx)
    assert written is dx
    assert (wide_dx[..., :channels] == 7).all()
    found, expected = (y, state, dx, *found), (expected_y, expected_state, expected_dx.to(dtype), *expected)
    assert all(torch.equal(*pair) for pair in zip(found, expected, strict=True))


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
    for starts in (None, random_starts(2, 20, device)):
        torch.library.opcheck(
            torch.ops.ssm_seq.causal_conv1d.default, (*tensors[:3], True, tensors[3], starts)
        )


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.zeros(3, 4), "x has shape"),
        ("weight", torch.zeros(5, 4), r"weight has shape \(5, 4\), expected \(channels, width\) = \(6, 4\)"),
        ("bias", torch.zeros(4), "bias has shape"),
        ("initial_state", torch.zeros(2, 4, 6), r"initial_state has shape .* = \(2, 3, 6\)"),
        ("starts", torch.zeros(2, 6, dtype=torch.bool), r"starts has shape \(2, 6\), expected .* = \(2, 7\)"),
        ("starts", torch.zeros(2, 7), "starts has .* dtype torch.float32, expected dtype bool"),
        ("activation", "relu", "activation is 'relu', expected None or 'silu'"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    arguments = {**conv_inputs(2, 7, 6, 4), name: value}
    with pytest.raises(ValueError, match=message):
        causal_conv1d(**arguments)


@pytest.mark.gpu
def test_the_cut_changes_rounding_only():
    from ssm_seq.kernels.causal_conv1d import gpu

    arguments = conv_inputs(2, 300, 72, 4, device="cuda")
    x, weight, bias, _, start = arguments.values()
    expected = with_gradients(definition.causal_conv1d, in_double(arguments))
    dy = torch.ones_like(x)
    for cut in (gpu.Cut(1, 64, 16, 2, 1, 255), gpu.Cut(4, 32, 8, 4, 2, 128), gpu.Cut(16, 128, 32, 8, 8, 128)):
        y, state = gpu.forward(x, weight, bias, True, start, cut=cut)
        assert error(y, expected["y"]) < FORWARD
        assert torch.equal(state, expected["state"].float())
        found = gpu.backward(dy, None, x, weight, bias, True, start, cut=cut)
        again = gpu.backward(dy, None, x, weight, bias, True, start, cut=gpu.backward_cut(x))
        assert all(error(*pair) < GRADIENT for pair in zip(found, again, strict=True))


@pytest.mark.gpu
def test_a_new_length_is_no_new_kernel():
    from ssm_seq.kernels.causal_conv1d import gpu, gpu_kernels

    kernels = (gpu_kernels.forward_kernel, gpu_kernels.backward_kernel, gpu_kernels.sum_kernel)
    counts = []
    for length in (33, 1, 48, 5000, 1 << 17):
        with_gradients(causal_conv1d, conv_inputs(1, length, 40, 4, device="cuda"))
        device = torch.cuda.current_device()
        counts.append([len(kernel.device_caches[device][0]) for kernel in kernels])
    assert all(count == counts[0] for count in counts), counts
    assert gpu.forward_cut(torch.empty(1, 33, 40, device="cuda")) != gpu.forward_cut(
        torch.empty(1, 1 << 17, 40, device="cuda")
    )


@pytest.mark.gpu
def test_captured_in_a_graph():
    arguments = conv_inputs(2, 300, 64, 4, device="cuda")
    expected = with_gradients(causal_conv1d, arguments)
    leaf = arguments.pop("x").requires_grad_()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        y, state = causal_conv1d(leaf, **arguments)
        (dx,) = torch.autograd.grad(y, leaf, torch.ones_like(y))
    for tensor in (y, state, dx):
        tensor.detach().fill_(float("nan"))
    graph.replay()
    assert torch.equal(y, expected["y"])
    assert torch.equal(state, expected["state"])
    own = causal_conv1d(leaf, **arguments)[0]
    assert torch.equal(dx, torch.autograd.grad(own, leaf, torch.ones_like(own))[0])


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    length, channels = 2**23 + 11, 512
    generator = torch.Generator(device="cuda").manual_seed(0)
    x = torch.randn(1, length, channels, device="cuda", dtype=torch.bfloat16, generator=generator)
    weight = torch.randn(channels, 4, device="cuda", generator=generator)
    leaf, tail = x.requires_grad_(), x[:, -2000:].detach().clone().requires_grad_()
    y, state = causal_conv1d(leaf, weight, activation="silu")
    part, last = causal_conv1d(tail, weight, activation="silu")
    assert torch.equal(state, last)
    assert torch.equal(y[:, -1990:], part[:, -1990:])
    (dx,) = torch.autograd.grad(y, leaf, x.detach())
    (dtail,) = torch.autograd.grad(part, tail, tail.detach())
    assert error(dx[:, -1990:], dtail[:, -1990:]) < 1e-3  # cut at other places


_INTERPRETED = """
import torch
from kernel_cases import assert_close, with_gradients
from test_kernels_causal_conv1d import (
    conv_inputs, of_packed, random_starts, test_inputs_and_gradients_in_wider_rows
)
from ssm_seq.kernels.causal_conv1d import definition, gpu, op

cut = gpu.Cut(rows=2, block=32, span=8, unroll=4, warps=1, registers=128)
gpu.forward_cut = gpu.backward_cut = lambda x: cut
op._device_path = lambda tensor: gpu
for shape, changes, packed in [
    ((2, 19, 24, 4), {}, True),
    ((1, 1, 1, 2), {}, True),
    ((1, 2, 8, 4), {}, False),
    ((1, 10, 40, 3), {"activation": None, "bias": None}, False),
    ((2, 17, 8, 2), {"initial_state": None}, True),
]:
    arguments = {**conv_inputs(*shape), **changes}
    starts = random_starts(*shape[:2]) if packed else None
    expected = with_gradients(of_packed(definition.causal_conv1d, starts), arguments)
    assert_close(with_gradients(of_packed(op.causal_conv1d, starts), arguments), expected, 2e-6, 1e-5)
test_inputs_and_gradients_in_wider_rows(torch.float32, "cpu", None)
"""


def test_gpu_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    run_interpreted(_INTERPRETED)
