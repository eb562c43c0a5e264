"""The diagonal time-invariant scan: against its recurrence in float64, in pieces, and as an operator."""

import math

import pytest
import torch
from graph_capture import replayed
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

from ssm_seq.kernels import lti_scan
from ssm_seq.kernels.lti_scan import cpu, definition, matrices, op

SHAPES = [(2, 1, 3, 2), (1, 63, 24, 4), (2, 64, 1, 1), (1, 1000, 24, 32), (2, 130, 500, 3), (1, 4097, 3, 16)]


def lti_inputs(batch, length, channels, pairs, device="cpu", dtype=torch.float32, scale=1.0):
    """Steps of 0.001 to 0.1 and A around -1/2 + i pi n, as an S4D layer begins with; steps times `scale`."""
    generator = torch.Generator().manual_seed(0)
    wide = torch.promote_types(dtype, torch.float32)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    def complex_normal(*shape):
        return torch.complex(normal(*shape), normal(*shape)).to(device, wide.to_complex())

    steps = scale * torch.exp(
        math.log(1e-3) + math.log(100) * torch.rand(channels, 1, generator=generator, dtype=torch.float64)
    )
    modes = math.pi * torch.arange(pairs, dtype=torch.float64).expand(channels, pairs)
    return {
        "u": normal(batch, length, channels).to(device, dtype),
        "exponent": (steps * torch.complex(-torch.exp(normal(channels, pairs)) / 2, modes)).to(
            device, wide.to_complex()
        ),
        "B": complex_normal(channels, pairs),
        "C": complex_normal(channels, pairs),
        "D": normal(channels).to(device, wide),
        "initial_state": complex_normal(batch, channels, pairs),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(shape, device, poisoned):
    arguments = lti_inputs(*shape, device=device)
    expected = with_gradients(definition.lti_scan, in_double(arguments))
    assert_close(with_gradients(lti_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("scale", [1e-3, 30.0], ids=["weak", "strong"])
def test_weak_and_strong_decay(scale, device, poisoned):
    """Weak: a state outlives the sequence. Strong: hardly a position, and phases turn many times a step."""
    arguments = lti_inputs(1, 2000, 8, 8, device=device, scale=scale)
    expected = with_gradients(definition.lti_scan, in_double(arguments))
    assert_close(with_gradients(lti_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_more_modes_than_a_kernel_takes(device):
    arguments = lti_inputs(1, 100, 4, 70, device=device)
    expected = with_gradients(definition.lti_scan, in_double(arguments))
    assert_close(with_gradients(lti_scan, arguments), expected, FORWARD, GRADIENT)
    assert_close(with_gradients(op._in_parts, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_double_precision(device, poisoned):
    for shape in SHAPES[:4]:
        arguments = in_double(lti_inputs(*shape, device=device))
        expected = with_gradients(definition.lti_scan, arguments)
        assert_close(with_gradients(lti_scan, arguments), expected, 1e-12, 1e-11)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounded_inputs_and_absent_options(dtype, device, poisoned):
    for changes in ({}, {"D": None}, {"initial_state": None}):
        arguments = {**lti_inputs(2, 300, 40, 4, device=device, dtype=dtype), **changes}
        found = with_gradients(lti_scan, arguments)
        expected = with_gradients(definition.lti_scan, in_double(arguments))
        assert_close(found, expected, ROUNDED_FORWARD, ROUNDED_GRADIENT)
        assert (found["y"].dtype, found["state"].dtype) == (dtype, torch.complex64)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_whole_is_chunks_is_steps(dtype, device):
    arguments = lti_inputs(2, 200, 5, 6, device=device)
    arguments = in_double(arguments) if dtype == torch.float64 else arguments
    u, state = arguments.pop("u"), arguments.pop("initial_state")
    whole, last = lti_scan(u, **arguments, initial_state=state)
    bound = 1e-10 if dtype == torch.float64 else 1e-5
    for cuts in ([1, 16, 83], list(range(1, 200))):
        parts, x = [], state
        for part in torch.tensor_split(u, cuts, dim=1):
            y, x = lti_scan(part, **arguments, initial_state=x)
            parts.append(y)
        assert error(torch.cat(parts, 1), whole) < bound
        assert error(x, last) < bound


@pytest.mark.parametrize("device", DEVICES)
def test_it_is_a_convolution(device):
    arguments = lti_inputs(2, 500, 3, 5, device=device)
    arguments.pop("initial_state")
    u, exponent, B, C, D = in_double(arguments).values()
    lags = (
        2 * torch.einsum("hn,hnk->kh", C * B, torch.exp(exponent[..., None] * torch.arange(500).to(u))).real
    )
    product = torch.fft.rfft(u, n=1000, dim=1) * torch.fft.rfft(lags, n=1000, dim=0)
    expected = torch.fft.irfft(product, n=1000, dim=1)[:, :500] + D * u
    assert error(lti_scan(u, exponent, B, C, D)[0], expected) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
def test_inputs_that_are_not_contiguous(device, poisoned):
    arguments = lti_inputs(2, 70, 24, 4, device=device)
    expected = with_gradients(lti_scan, arguments)
    u = arguments["u"]
    wide = torch.full((2, 70, 48), 7.0, device=device)
    wide[..., 24:] = u
    for other in (wide[..., 24:], u.transpose(1, 2).contiguous().transpose(1, 2)):
        y, state = lti_scan(**{**arguments, "u": other})
        assert torch.equal(y, expected["y"]) and torch.equal(state, expected["state"])
    leaf = u.clone().requires_grad_()
    y, _ = lti_scan(**{**arguments, "u": leaf})
    sent = torch.randn(2, 24, 70, device=device).transpose(1, 2)
    (found,) = torch.autograd.grad(y, leaf, sent, retain_graph=True)
    assert torch.equal(found, torch.autograd.grad(y, leaf, sent.contiguous())[0])


@pytest.mark.parametrize("device", DEVICES)
def test_one_result_alone_has_its_gradients(device):
    arguments = lti_inputs(2, 50, 3, 2, device=device)
    tensors = [tensor.requires_grad_() for tensor in arguments.values()]
    for which in (0, 1):
        found, expected = (
            torch.autograd.grad(function(**arguments)[which].abs().square().sum(), tensors, allow_unused=True)
            for function in (lti_scan, definition.lti_scan)
        )
        for gradient, true in zip(found, expected, strict=True):
            gradient = torch.zeros(()) if gradient is None else gradient
            assert error(gradient, torch.zeros_like(gradient) if true is None else true) < GRADIENT


@pytest.mark.parametrize("device", DEVICES)
def test_autocast_rounds_no_product(device):
    arguments = lti_inputs(1, 100, 6, 4, device=device)
    expected = with_gradients(lti_scan, arguments)
    with torch.autocast(device, torch.bfloat16):
        found = with_gradients(lti_scan, arguments)
    assert all(torch.equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_agree_bit_for_bit(device):
    arguments = lti_inputs(2, 3000, 40, 4, device=device)
    first, second = (with_gradients(lti_scan, arguments) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_gradcheck():
    arguments = in_double(lti_inputs(2, cpu.INTERVAL + 3, 2, 1))
    tensors = [tensor.requires_grad_() for tensor in arguments.values()]
    assert torch.autograd.gradcheck(lti_scan, tensors)


def test_sums_along_diagonals():
    matrix = torch.arange(25.0).view(1, 5, 5)
    sums = matrices.diagonal_sums(matrix)
    assert sums.tolist() == [[matrix[0].diagonal(lag).sum().item() for lag in range(5)]]
    assert (matrices.toeplitz(sums).mT * matrix).sum() == (sums * sums).sum()


def test_the_matrices_take_a_chunk_at_once():
    u, exponent, B, C, D, state = lti_inputs(1, 16, 3, 2).values()
    made = matrices.Matrices(exponent, B, C, D, 16)
    expected, last = definition.lti_scan(u, exponent, B, C, D, state)
    y = torch.einsum("hts,bsh->bth", matrices.toeplitz(made.lags), u)
    y = y + torch.einsum("hnt,bhn->bth", made.out.conj(), state).real
    final = matrices.power(exponent, 16) * state + torch.einsum("hnt,bth->bhn", made.into, u.to(made.into))
    assert error(y, expected) < 1e-6
    assert error(final, last) < 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(device):
    *tensors, state = (tensor.requires_grad_() for tensor in lti_inputs(2, 70, 6, 3, device=device).values())
    for initial_state in (state, None):
        torch.library.opcheck(torch.ops.ssm_seq.lti_scan.default, (*tensors, initial_state, True))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("u", torch.zeros(3, 4), "u has shape"),
        ("u", torch.zeros(2, 0, 3), "u has shape .* no axis empty"),
        ("exponent", torch.zeros(3, 2), "exponent has .* dtype torch.float32, expected dtype complex64"),
        ("B", torch.zeros(3, 4, dtype=torch.complex64), r"B has shape \(3, 4\), expected .* = \(3, 2\)"),
        ("C", torch.zeros(2, 2, dtype=torch.complex64), "C has shape"),
        ("D", torch.zeros(4), "D has shape"),
        ("initial_state", torch.zeros(3, 2, dtype=torch.complex64), r"initial_state has .* = \(2, 3, 2\)"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    arguments = {**lti_inputs(2, 7, 3, 2), name: value}
    with pytest.raises(ValueError, match=message):
        lti_scan(**arguments)


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_without_a_break_and_for_every_length(device):
    arguments = lti_inputs(2, 40, 3, 2, device=device)
    u, *system, state = arguments.values()

    def run(u, exponent, B, C, D, state):
        y, last = lti_scan(u, exponent, B.conj(), C.conj(), D, state.conj())
        return y.sin(), last

    compiled = torch.compile(run, fullgraph=True, dynamic=True, backend="aot_eager")
    leaves = [u.requires_grad_(), *(tensor.requires_grad_() for tensor in system)]
    for length in (40, 33, 64):
        results = []
        for function in (run, compiled):
            y, last = function(u[:, :length], *system, state)
            gradients = torch.autograd.grad(y.sum() + last.abs().sum(), leaves)
            results.append((y.detach(), last.detach(), *gradients))
        assert all(error(*pair) < 1e-6 for pair in zip(*results, strict=True))


@pytest.mark.gpu
@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["as a layer begins", "strong decay"])
def test_rows_change_rounding_only(scale, monkeypatch):
    """Rows as short and as long as the rule makes them."""
    from ssm_seq.kernels.lti_scan import gpu

    arguments = lti_inputs(2, 1111, 24, 20, device="cuda", scale=scale)
    expected = with_gradients(definition.lti_scan, in_double(arguments))
    for chunks in (1, 2, 16, gpu.LONGEST):
        monkeypatch.setattr(gpu, "cut", lambda u, chunks=chunks: gpu.cut_in(u.shape[1], chunks))
        assert_close(with_gradients(lti_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.gpu
def test_rows_as_long_as_there_are_stay_exact():
    """Against the recurrence in float64 on the host, more than 100 rows of 32 chunks."""
    from ssm_seq.kernels.lti_scan import gpu

    host = lti_inputs(1, 70_001, 256, 2)
    arguments = {name: tensor.cuda() for name, tensor in host.items()}
    assert gpu.cut(arguments["u"]).chunks == gpu.LONGEST
    found = {name: tensor.cpu() for name, tensor in with_gradients(lti_scan, arguments).items()}
    assert_close(found, with_gradients(lti_scan, in_double(host)), FORWARD, GRADIENT)


@pytest.mark.gpu
def test_a_state_that_outlives_a_million_positions():
    """Its decay is met tens of thousands of times; in the end it must be that of the exponent."""
    arguments = lti_inputs(1, 1, 8, 4, device="cuda")
    exponent, state = arguments["exponent"] * 1e-4, arguments["initial_state"]
    u = torch.zeros(1, 1 << 20, 8, device="cuda")
    zero = torch.zeros_like(arguments["B"])
    y, last = lti_scan(u, exponent, zero, arguments["C"], None, state)
    wide = exponent.to(torch.complex128)
    assert error(last, torch.exp(wide * (1 << 20)) * state) < FORWARD
    t = torch.arange(1, (1 << 20) + 1, device="cuda")[:, None, None]
    for piece in (slice(0, 100), slice(500_000, 500_100), slice((1 << 20) - 100, None)):
        true = 2 * (arguments["C"] * torch.exp(wide * t[piece]) * state[0]).sum(-1).real
        assert error(y[0, piece], true) < FORWARD


@pytest.mark.gpu
def test_a_new_length_is_no_new_kernel():
    from ssm_seq.kernels.lti_scan import gpu_kernels

    counts = []
    for length in (33, 1, 48, 5000, 1 << 17):
        with_gradients(lti_scan, lti_inputs(1, length, 40, 4, device="cuda"))
        device = torch.cuda.current_device()
        counts.append(
            [len(k.device_caches[device][0]) for k in (gpu_kernels.walk_kernel, gpu_kernels.pass_kernel)]
        )
    assert all(count == counts[0] for count in counts), counts


@pytest.mark.gpu
def test_captured_in_a_graph():
    arguments = lti_inputs(2, 300, 24, 4, device="cuda")
    leaves = [tensor.requires_grad_() for tensor in arguments.values()]

    def run():
        y, last = lti_scan(*leaves)
        return y, last, *torch.autograd.grad((y, last), leaves, (torch.ones_like(y), torch.ones_like(last)))

    captured, eager = replayed(run)
    assert all(torch.equal(*pair) for pair in zip(captured, eager, strict=True))


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    length, channels = 2**22 + 11, 520
    arguments = lti_inputs(1, 1, channels, 2, device="cuda")
    arguments.pop("u"), arguments.pop("initial_state")
    arguments["exponent"] = arguments["exponent"] - 0.05  # what is 1,000 positions away has decayed
    generator = torch.Generator(device="cuda").manual_seed(0)
    u = torch.randn(1, length, channels, device="cuda", dtype=torch.bfloat16, generator=generator)
    leaf, tail = u.requires_grad_(), u[:, -2000:].detach().clone().requires_grad_()
    y, last = lti_scan(leaf, **arguments)
    part, end = lti_scan(tail, **arguments)
    assert error(y[:, -1000:], part[:, -1000:]) < ROUNDED_FORWARD
    assert error(last, end) < ROUNDED_FORWARD
    (du,) = torch.autograd.grad(y, leaf, u.detach())
    (dtail,) = torch.autograd.grad(part, tail, tail.detach())
    assert error(du[:, -1000:], dtail[:, -1000:]) < ROUNDED_GRADIENT


_INTERPRETED = """
from kernel_cases import assert_close, in_double, with_gradients
from test_kernels_lti_scan import lti_inputs
from ssm_seq.kernels.lti_scan import definition, gpu, op

op._device_path = lambda u: gpu
for shape, chunks in [((1, 85, 3, 3), 2), ((2, 21, 5, 17), 1)]:
    gpu.cut = lambda u: gpu.cut_in(u.shape[1], chunks)
    arguments = lti_inputs(*shape)
    expected = with_gradients(definition.lti_scan, in_double(arguments))
    assert_close(with_gradients(op.lti_scan, arguments), expected, 2e-6, 1e-5)
"""


def test_gpu_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    run_interpreted(_INTERPRETED)
