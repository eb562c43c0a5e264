import pytest
import torch
import torch.nn.functional as F
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

from ssm_seq.kernels import rms_norm
from ssm_seq.kernels.rms_norm import definition

SHAPES = [
    (2, 63, 24),
    (1, 1, 1),
    (3, 5),
    (7,),
    (1, 300, 256),
    (2, 2, 11, 500),
    (3, 8192),
    (2, 9000),
    (4097, 3),
]
ROUNDED = [
    (torch.bfloat16, torch.float32),
    (torch.bfloat16, torch.bfloat16),
    (torch.float32, torch.bfloat16),
    (torch.float16, torch.float32),
]


def norm_inputs(*shape, device="cpu", dtype=torch.float32, residual_dtype=None):
    generator = torch.Generator().manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return {
        "x": normal(*shape).to(device, dtype),
        "weight": (normal(shape[-1]) + 1).to(device, torch.promote_types(dtype, torch.float32)),
        "residual": normal(*shape).to(device, residual_dtype or dtype),
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(shape, device, poisoned):
    for changes in ({}, {"residual": None}, {"eps": 0.7}):
        arguments = {**norm_inputs(*shape, device=device), **changes}
        expected = with_gradients(definition.rms_norm, in_double(arguments))
        assert_close(with_gradients(rms_norm, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("dtype", "residual_dtype"), ROUNDED, ids=str)
def test_rounded_inputs_of_either_dtype(dtype, residual_dtype, device, poisoned):
    for shape in [(2, 70, 40), (3, 768), (5, 256)]:
        arguments = norm_inputs(*shape, device=device, dtype=dtype, residual_dtype=residual_dtype)
        found = with_gradients(rms_norm, arguments)
        expected = with_gradients(definition.rms_norm, in_double(arguments))
        assert_close(found, expected, ROUNDED_FORWARD, ROUNDED_GRADIENT)
        assert (found["y"].dtype, found["dx"].dtype) == (dtype, dtype)
        assert (found["state"].dtype, found["dresidual"].dtype) == (residual_dtype, residual_dtype)
        assert found["dweight"].dtype == torch.float32
        if residual_dtype == torch.float32:  # the sum that goes on through the network is not rounded
            assert error(found["state"], expected["state"]) < FORWARD


@pytest.mark.parametrize("device", DEVICES)
def test_it_is_the_norm_of_pytorch(device):
    arguments = norm_inputs(3, 50, device=device)
    normed, summed = rms_norm(**arguments)
    expected = F.rms_norm(arguments["x"] + arguments["residual"], (50,), arguments["weight"], 1e-5)
    assert error(normed, expected) < 1e-6
    assert torch.equal(summed, arguments["x"] + arguments["residual"])
    assert torch.equal(rms_norm(arguments["x"], arguments["weight"])[1], arguments["x"])


@pytest.mark.parametrize("device", DEVICES)
def test_one_result_alone_has_its_gradients(device):
    arguments = norm_inputs(4, 20, device=device)
    tensors = [tensor.requires_grad_() for tensor in arguments.values()]
    for which in (0, 1):
        found = torch.autograd.grad(rms_norm(**arguments)[which].square().sum(), tensors, allow_unused=True)
        expected = torch.autograd.grad(
            definition.rms_norm(**arguments)[which].square().sum(), tensors, allow_unused=True
        )
        for gradient, true in zip(found, expected, strict=True):
            assert error(gradient, torch.zeros_like(gradient) if true is None else true) < GRADIENT


@pytest.mark.parametrize("device", DEVICES)
def test_strided_inputs_and_gradients(device, poisoned):
    generator = torch.Generator().manual_seed(2)
    wide = torch.randn(3, 2, 10, 64, generator=generator).to(device)
    weight = torch.randn(32, generator=generator).to(device)
    views = [
        (wide[0, ..., :32], wide[1, ..., 32:]),  # halves of a projection
        (wide[0, ..., ::2], wide[1, ..., 1::2]),
        (wide[0, :, ::3, :32], wide[1].transpose(0, 1)[:4, :, :32].transpose(0, 1)),
        (wide[0, :1, :1, 0].expand(2, 32), wide[0, :, 0, :32]),
    ]
    for x, residual in views:
        x, residual = x.detach().requires_grad_(), residual.detach().requires_grad_()
        upstream = torch.randn(*x.shape[:-1], 64, generator=generator).to(device)
        sent = (upstream[..., ::2], upstream[..., 32:])
        found = torch.autograd.grad(rms_norm(x, weight, residual=residual), (x, residual), sent)
        double = [t.detach().double().requires_grad_() for t in (x, residual)]
        expected = torch.autograd.grad(
            definition.rms_norm(double[0], weight.double(), residual=double[1]),
            double,
            [t.double() for t in sent],
        )
        assert max(error(a, b) for a, b in zip(found, expected, strict=True)) < GRADIENT


@pytest.mark.parametrize("device", DEVICES)
def test_rows_of_zeros_and_huge_rows_stay_finite(device):
    x = torch.zeros(2, 16, device=device)
    x[1] = 1e15
    x.requires_grad_()
    normed, _ = rms_norm(x, torch.ones(16, device=device))
    (dx,) = torch.autograd.grad(normed.sum(), x)
    assert torch.equal(normed[0], torch.zeros_like(normed[0]))
    assert error(normed[1].detach(), torch.ones_like(normed[1])) < 1e-6
    assert dx.isfinite().all()


def test_gradcheck():
    arguments = norm_inputs(2, 3, 5, dtype=torch.float64)
    tensors = [arguments[name].requires_grad_() for name in ("x", "weight", "residual")]
    assert torch.autograd.gradcheck(lambda x, w, r: rms_norm(x, w, 1e-3, r), tensors)
    assert torch.autograd.gradcheck(lambda x, w: rms_norm(x, w, 1e-3), tensors[:2])


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(device):
    for dtype in (torch.float32, torch.bfloat16):
        arguments = norm_inputs(2, 6, 12, device=device, dtype=dtype, residual_dtype=torch.float32)
        x, weight, residual = (tensor.requires_grad_() for tensor in arguments.values())
        for past in (residual, None):
            torch.library.opcheck(torch.ops.ssm_seq.rms_norm.default, (x, weight, 1e-5, past))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("has_residual", [True, False])
def test_one_compiled_graph(has_residual, device):
    torch.compiler.reset()
    compiled = torch.compile(rms_norm, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (6, 9):
        arguments = norm_inputs(2, length, 12, device=device)
        if not has_residual:
            arguments["residual"] = None
        expected = with_gradients(definition.rms_norm, in_double(arguments))
        assert_close(with_gradients(compiled, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.gpu
def test_captured_in_a_graph():
    arguments = norm_inputs(600, 64, device="cuda", dtype=torch.bfloat16, residual_dtype=torch.float32)
    leaves = [tensor.requires_grad_() for tensor in arguments.values()]

    def run():
        results = rms_norm(**arguments)
        return *results, *torch.autograd.grad(results, leaves, [torch.ones_like(r) for r in results])

    assert all(torch.equal(*pair) for pair in zip(*replayed(run), strict=True))


@pytest.mark.gpu
def test_two_runs_agree_bit_for_bit():
    arguments = norm_inputs(50_000, 96, device="cuda")
    first, again = (with_gradients(rms_norm, arguments) for _ in range(2))
    assert all(torch.equal(first[name], again[name]) for name in first)


@pytest.mark.gpu
def test_more_than_2_to_31_elements():
    rows, width = 2**23 + 3, 256
    x = torch.ones(rows, width, device="cuda", dtype=torch.bfloat16)
    x[-1] = torch.arange(width, device="cuda")
    weight = torch.ones(width, device="cuda", requires_grad=True)
    x.requires_grad_()
    normed, _ = rms_norm(x, weight)
    expected, _ = definition.rms_norm(x[-1:].double(), weight.double())
    assert error(normed[-1:], expected) < ROUNDED_FORWARD
    upstream = torch.zeros_like(normed)
    upstream[-1] = 1
    dx, dweight = torch.autograd.grad(normed, (x, weight), upstream)
    last = torch.autograd.grad(expected.sum(), (x, weight))
    assert error(dx[-1], last[0][-1]) < ROUNDED_GRADIENT and not dx[:-1].any()
    assert error(dweight, last[1]) < GRADIENT


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("x", torch.zeros(3, 0), r"x has shape \(3, 0\), expected \(..., d\) with no axis empty"),
        ("x", torch.zeros(()), r"x has shape \(\), expected \(..., d\)"),
        ("x", torch.zeros(2, 6, dtype=torch.int64), r"x has shape \(2, 6\) and dtype torch.int64"),
        ("weight", torch.zeros(5), r"weight has shape \(5,\), expected \(d\) = \(6,\)"),
        ("residual", torch.zeros(6), r"residual has shape \(6,\), expected \(..., d\) = \(2, 6\)"),
        ("eps", -1.0, "eps is -1.0, expected a number of at least 0"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        rms_norm(**{**norm_inputs(2, 6), name: value})


_INTERPRETED = """
import torch
from kernel_cases import assert_close, in_double, with_gradients
from test_kernels_rms_norm import norm_inputs
from ssm_seq.kernels.rms_norm import definition, gpu, op

op.device_path = lambda tensor: gpu
gpu.TILE, gpu.PROGRAMS = 64, 2
for shape in [(2, 19, 24), (1,), (3, 100), (70, 2)]:
    for changes in ({}, {"residual": None}):
        arguments = {**norm_inputs(*shape), **changes}
        expected = with_gradients(definition.rms_norm, in_double(arguments))
        assert_close(with_gradients(op.rms_norm, arguments), expected, 2e-6, 1e-5)
for dtypes in [(torch.bfloat16, torch.float32), (torch.bfloat16, torch.bfloat16)]:
    arguments = norm_inputs(9, 40, dtype=dtypes[0], residual_dtype=dtypes[1])
    expected = with_gradients(definition.rms_norm, in_double(arguments))
    assert_close(with_gradients(op.rms_norm, arguments), expected, 5e-3, 1e-2)
wide = torch.randn(2, 10, 64)
x, residual = wide[0, :, :32].requires_grad_(), wide[1, :, ::2]
normed, summed = op.rms_norm(x, torch.ones(32), residual=residual)
(dx,) = torch.autograd.grad(normed, x, wide[0, :, 32:])  # the sum alone has no gradient
double = x.detach().double().requires_grad_()
expected, _ = definition.rms_norm(double, torch.ones(32), residual=residual)
(true,) = torch.autograd.grad(expected, double, wide[0, :, 32:].double())
assert_close({"y": normed, "dx": dx}, {"y": expected, "dx": true}, 2e-6, 1e-5)
"""


def test_gpu_kernels_in_the_interpreter():
    pytest.importorskip("triton")
    run_interpreted(_INTERPRETED)
