"""The Vandermonde product: every path against the definition in float64."""

from functools import partial

import pytest
import torch
from graph_capture import replayed
from interpreter import run_interpreted
from kernel_cases import DEVICES, FORWARD, GRADIENT, error, in_double, sent_gradients

from ssm_seq.kernels import vandermonde
from ssm_seq.kernels.vandermonde import definition

# heads, rows, pairs, L
SHAPES = [
    (2, 3, 5, 77),
    (1, 1, 1, 1),
    (3, 4, 32, 1000),
    (1, 2, 33, 1025),
    (2, 1, 70, 64),
    (1, 1, 2, 2),
    (1, 1, 3, 9000),
    (2, 40_000, 1, 2),
]
EXACT = 1e-11


def product_inputs(*sizes, device="cpu", dtype=torch.complex64):
    """Modes that decay over tens to thousands of steps and turn by up to several radians in each."""
    heads, rows, pairs, L = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    a = torch.complex(-torch.exp(2 * normal(heads, pairs) - 5), 2 * normal(heads, pairs))
    v = torch.complex(normal(heads, rows, pairs), normal(heads, rows, pairs))
    return {"v": v.to(device, dtype), "a": a.to(device, dtype), "L": L}


def results(function, v, a, L, sent=None):
    """k, dv and da for the gradient `sent` of k, fixed random numbers if None."""
    v, a = (tensor.detach().clone().requires_grad_() for tensor in (v, a))
    k = function(v, a, L)
    dv, da = torch.autograd.grad(k, (v, a), sent or sent_gradients(k))
    return {"k": k.detach(), "dv": dv, "da": da}


def errors(found, arguments):
    expected = results(definition.vandermonde, **in_double(arguments))
    return {name: error(found[name], expected[name]) for name in expected}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(sizes, device, poisoned):
    for dtype, forward, gradient in ((torch.complex64, FORWARD, GRADIENT), (torch.complex128, EXACT, EXACT)):
        arguments = product_inputs(*sizes, device=device, dtype=dtype)
        found = results(vandermonde, **arguments)
        missed = errors(found, arguments)
        assert missed.pop("k") <= forward
        assert max(missed.values()) <= gradient
        assert found["k"].dtype == dtype.to_real() and found["dv"].dtype == found["da"].dtype == dtype


@pytest.mark.parametrize("device", DEVICES)
def test_phases_keep_their_digits_after_a_million_steps(device):
    """Undamped, up to 3 radians a step: in float32 the phase itself would be off by a tenth of a radian."""
    v = torch.ones(1, 1, 3, dtype=torch.complex64, device=device)
    a = torch.tensor([[3.0j, -0.7j, 0.001j]], dtype=torch.complex64, device=device)
    k = vandermonde(v, a, 1_000_003)
    steps = torch.arange(1_000_003, dtype=torch.float64, device=device)[:, None]
    expected = 2 * torch.cos(steps * a.imag.double()).sum(-1)
    assert error(k[0, 0], expected) <= FORWARD


@pytest.mark.parametrize("device", DEVICES)
def test_modes_that_grow_past_the_length_do_no_harm(device):
    """exp(0.4 * 300) is infinite in float32, but nothing asks for it."""
    arguments = {**product_inputs(1, 2, 3, 40, device=device)}
    arguments["a"] = arguments["a"] + 0.4
    assert max(errors(results(vandermonde, **arguments), arguments).values()) <= GRADIENT


@pytest.mark.parametrize("device", DEVICES)
def test_strided_conjugated_and_leading_axes(device):
    v, a, L = product_inputs(6, 4, 5, 40, device=device).values()
    wide = torch.stack([v, v], dim=-1).conj()[..., 0].unflatten(0, (2, 3))
    found = vandermonde(wide, a.unflatten(0, (2, 3)).conj(), L)
    assert found.shape == (2, 3, 4, 40)
    assert (
        error(found.flatten(0, 1), definition.vandermonde(*in_double({"v": v, "a": a}).values(), L))
        <= FORWARD
    )


def test_gradcheck():
    v, a, L = product_inputs(2, 3, 4, 7, dtype=torch.complex128).values()
    assert torch.autograd.gradcheck(partial(vandermonde, L=L), (v.requires_grad_(), a.requires_grad_()))


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(device):
    v, a, L = product_inputs(2, 3, 4, 9, device=device).values()
    torch.library.opcheck(torch.ops.ssm_seq.vandermonde.default, (v.requires_grad_(), a.requires_grad_(), L))


@pytest.mark.parametrize("device", DEVICES)
def test_one_compiled_graph(device):
    torch.compiler.reset()
    compiled = torch.compile(vandermonde, fullgraph=True, backend="aot_eager", dynamic=True)
    for L in (6, 9):
        arguments = product_inputs(2, 3, 4, L, device=device)
        assert max(errors(results(compiled, **arguments), arguments).values()) <= GRADIENT


@pytest.mark.gpu
def test_captured_in_a_graph():
    arguments = product_inputs(3, 2, 5, 5000, device="cuda")
    sent = sent_gradients(vandermonde(**arguments))  # before: a graph holds no copies from the host
    captured, eager = replayed(lambda: tuple(results(vandermonde, **arguments, sent=sent).values()))
    assert all(torch.equal(*pair) for pair in zip(captured, eager, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_agree_bit_for_bit(device):
    arguments = product_inputs(4, 2, 32, 20_000, device=device)
    first, again = (results(vandermonde, **arguments) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.gpu
def test_memory_is_that_of_the_result():
    v, a, L = product_inputs(16, 1, 32, 100_000, device="cuda").values()
    vandermonde(v, a, 5)
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    k = vandermonde(v, a, L)
    assert torch.cuda.max_memory_allocated() - before <= 1.1 * k.nbytes


good = product_inputs(2, 3, 4, 9)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "v",
            torch.zeros(3, 0, dtype=torch.complex64),
            r"v has shape \(3, 0\), expected \(..., rows, pairs\) with",
        ),
        (
            "v",
            torch.zeros(2, 3, 4),
            r"v has shape \(2, 3, 4\) and dtype torch.float32, expected dtype complex64",
        ),
        ("a", good["a"][:1], r"a has shape \(1, 4\), expected \(..., pairs\) = \(2, 4\)"),
        (
            "a",
            good["a"].to(torch.complex128),
            r"a has shape \(2, 4\) and dtype torch.complex128, expected dtype c",
        ),
        ("L", 0, "L is 0, expected 1 or more"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        vandermonde(**{**good, name: value})


_INTERPRETED = """
import torch
from kernel_cases import FORWARD, GRADIENT
from test_kernels_vandermonde import errors, product_inputs, results
from ssm_seq.kernels.vandermonde import gpu, op

op.device_path = lambda tensor: gpu
gpu.FORWARD = gpu.BACKWARD = (16, 16)
for sizes in [(2, 3, 5, 77), (1, 1, 20, 530), (1, 1, 3, 40)]:
    arguments = product_inputs(*sizes)
    arguments["a"] += 0.4 * (sizes[3] == 40)  # grows to infinity past the length
    missed = errors(results(op.vandermonde, **arguments), arguments)
    assert missed.pop("k") <= FORWARD and max(missed.values()) <= GRADIENT, missed
"""


def test_gpu_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    run_interpreted(_INTERPRETED)
