"""The Cauchy product: every path against the definition in float64."""

from functools import partial

import pytest
import torch
from graph_capture import replayed
from interpreter import run_interpreted
from kernel_cases import DEVICES, FORWARD, GRADIENT, error, in_double, sent_gradients

from ssm_seq.kernels import cauchy
from ssm_seq.kernels.cauchy import definition

# heads, rows, pairs, points
SHAPES = [
    (2, 3, 5, 77),
    (1, 1, 1, 1),
    (3, 4, 32, 1000),
    (1, 9, 33, 130),
    (2, 1, 2, 64),
    (1, 17, 3, 300),
    (70_000, 1, 1, 2),
]
EXACT = 1e-12


def product_inputs(*sizes, device="cpu", dtype=torch.complex64):
    """Poles left of the imaginary axis, some of the points close to it and to them, as S4 has them."""
    heads, rows, pairs, points = sizes
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    w = torch.complex(-0.02 - normal(heads, pairs).abs(), 5 * normal(heads, pairs))
    z = torch.complex(0.1 * normal(points).abs(), 5 * normal(points))
    v = torch.complex(normal(heads, rows, pairs), normal(heads, rows, pairs))
    return {name: value.to(device, dtype) for name, value in {"v": v, "w": w, "z": z}.items()}


def results(function, v, w, z, sent=None):
    """k, dv and dw for the gradient `sent` of k, fixed random numbers if None."""
    v, w = (tensor.detach().clone().requires_grad_() for tensor in (v, w))
    k = function(v, w, z)
    dv, dw = torch.autograd.grad(k, (v, w), sent or sent_gradients(k))
    return {"k": k.detach(), "dv": dv, "dw": dw}


def errors(found, arguments):
    expected = results(definition.cauchy, **in_double(arguments))
    return {name: error(found[name], expected[name]) for name in expected}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("sizes", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(sizes, device, poisoned):
    for dtype, forward, gradient in ((torch.complex64, FORWARD, GRADIENT), (torch.complex128, EXACT, EXACT)):
        arguments = product_inputs(*sizes, device=device, dtype=dtype)
        found = results(cauchy, **arguments)
        missed = errors(found, arguments)
        assert missed.pop("k") <= forward
        assert max(missed.values()) <= gradient
        assert all(tensor.dtype == dtype for tensor in found.values())


@pytest.mark.parametrize("device", DEVICES)
def test_digits_stay_close_to_a_pole(device):
    """Points at a distance of 1e-6 |w|: z^2 - 2 a z + |w|^2 in float32 would be nothing but rounding."""
    w = torch.tensor([[complex(-1e-5, 10)]], device=device)
    z = torch.complex(torch.full((50,), 1e-6), torch.linspace(9.99995, 10.00005, 50)).to(device)
    v = torch.tensor([[[complex(0.5, -2)]]], device=device)
    assert max(errors(results(cauchy, v, w, z), {"v": v, "w": w, "z": z}).values()) <= GRADIENT


@pytest.mark.parametrize("device", DEVICES)
def test_strided_conjugated_and_leading_axes(device):
    arguments = product_inputs(6, 4, 5, 40, device=device)
    v, w, z = arguments.values()
    wide = torch.stack([v, v], dim=-1).conj()[..., 0].unflatten(0, (2, 3))
    found = cauchy(wide, w.unflatten(0, (2, 3)), z[::2])
    expected = definition.cauchy(v.to(torch.complex128).conj(), w, z[::2])
    assert found.shape == (2, 3, 4, 20)
    assert error(found.flatten(0, 1), expected) <= FORWARD


def test_gradcheck():
    v, w, z = product_inputs(2, 3, 4, 7, dtype=torch.complex128).values()
    assert torch.autograd.gradcheck(partial(cauchy, z=z), (v.requires_grad_(), w.requires_grad_()))


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(device):
    v, w, z = product_inputs(2, 3, 4, 9, device=device).values()
    torch.library.opcheck(torch.ops.ssm_seq.cauchy.default, (v.requires_grad_(), w.requires_grad_(), z))


@pytest.mark.parametrize("device", DEVICES)
def test_one_compiled_graph(device):
    torch.compiler.reset()
    compiled = torch.compile(cauchy, fullgraph=True, backend="aot_eager", dynamic=True)
    for points in (6, 9):
        arguments = product_inputs(2, 3, 4, points, device=device)
        assert max(errors(results(compiled, **arguments), arguments).values()) <= GRADIENT


@pytest.mark.gpu
def test_captured_in_a_graph():
    arguments = product_inputs(3, 2, 5, 900, device="cuda")
    sent = sent_gradients(cauchy(**arguments))  # before: a graph holds no copies from the host
    captured, eager = replayed(lambda: tuple(results(cauchy, **arguments, sent=sent).values()))
    assert all(torch.equal(*pair) for pair in zip(captured, eager, strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_agree_bit_for_bit(device):
    arguments = product_inputs(4, 4, 32, 20_000, device=device)
    first, again = (results(cauchy, **arguments) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.gpu
def test_memory_is_that_of_the_result():
    v, w, z = product_inputs(16, 4, 32, 100_000, device="cuda").values()
    cauchy(v, w, z[:5])
    before = torch.cuda.memory_allocated()
    torch.cuda.reset_peak_memory_stats()
    k = cauchy(v, w, z)
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
        ("w", good["w"][:1], r"w has shape \(1, 4\), expected \(..., pairs\) = \(2, 4\)"),
        (
            "w",
            good["w"].to(torch.complex128),
            r"w has shape \(2, 4\) and dtype torch.complex128, expected dtype c",
        ),
        ("z", good["z"][:0], r"z has shape \(0,\), expected \(points\) with no axis empty"),
        ("z", good["z"].clone().requires_grad_(), "z has a gradient, expected points that are constant"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        cauchy(**{**good, name: value})


_INTERPRETED = """
import torch
from kernel_cases import FORWARD, GRADIENT
from test_kernels_cauchy import errors, product_inputs, results
from ssm_seq.kernels.cauchy import gpu, op

op.device_path = lambda tensor: gpu
gpu.TILE, gpu.PROGRAMS, gpu.POINTS, gpu.MAX_ROWS = (4, 16), 4, 32, 4
for dtype, sizes in ((torch.complex64, (1, 5, 6, 40)), (torch.complex128, (2, 3, 2, 35))):
    arguments = product_inputs(*sizes, dtype=dtype)
    missed = errors(results(op.cauchy, **arguments), arguments)
    assert missed.pop("k") <= FORWARD and max(missed.values()) <= GRADIENT, missed
"""


def test_gpu_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    run_interpreted(_INTERPRETED)
