import pytest
import torch
from graph_capture import replayed
from kernel_cases import (
    DEVICES,
    FORWARD,
    GRADIENT,
    ROUNDED_FORWARD,
    ROUNDED_GRADIENT,
    assert_close,
    error,
    in_double,
    scan_inputs,
    sent_gradients,
    with_gradients,
)

from ssm_seq.kernels import selective_scan, selective_step
from ssm_seq.kernels.selective_scan import definition, op

SHAPES = [
    (2, 63, 24, 5),
    (1, 1, 1, 1),
    (2, 1, 500, 16),
    (2, 100, 65, 16),
    (1, 257, 24, 33),
    (1, 63, 24, 256),
    (1, 1000, 1, 33),
    (1, 1000, 500, 1),
    (1, 4097, 24, 16),
]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_everything_agrees_with_the_definition(shape, device, poisoned):
    arguments = scan_inputs(*shape, device=device)
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(with_gradients(selective_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_rounded_inputs(dtype, device, poisoned):
    arguments = scan_inputs(2, 130, 48, 16, device=device, dtype=dtype)
    found = with_gradients(selective_scan, arguments)
    assert found["y"].dtype == dtype
    assert found["state"].dtype == torch.float32
    assert all(
        found[f"d{name}"].dtype == arguments[name].dtype for name in ("u", "delta", "A", "B", "z", "D")
    )
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(found, expected, ROUNDED_FORWARD, ROUNDED_GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_float64_is_exact(device):
    arguments = scan_inputs(1, 70, 33, 4, device=device, dtype=torch.float64)
    expected = with_gradients(definition.selective_scan, arguments)
    assert_close(with_gradients(selective_scan, arguments), expected, 1e-13, 1e-13)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("shift", [-14.0, -5.0, 3.0, 50.0])
def test_weak_and_strong_decay(shift, device):
    arguments = scan_inputs(1, 300, 16, 16, device=device, shift=shift)
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(with_gradients(selective_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_steps_from_a_millionth_to_fifty(device):
    arguments = scan_inputs(1, 1000, 24, 16, device=device)
    spread = torch.rand(arguments["delta"].shape, generator=torch.Generator().manual_seed(3))
    arguments["delta"] = (1e-6 * (50 / 1e-6) ** spread).to(device)
    arguments |= {"delta_bias": None, "delta_softplus": False}
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(with_gradients(selective_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("names", [("u",), ("delta", "delta_bias"), ("B",), ("C", "D"), ("z",), ("A",), ()])
def test_zeros(names, device, poisoned):
    arguments = scan_inputs(2, 70, 24, 16, device=device)
    arguments["delta_softplus"] = "delta" not in names
    for name in names or [name for name, value in arguments.items() if isinstance(value, torch.Tensor)]:
        arguments[name] = torch.zeros_like(arguments[name])
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(with_gradients(selective_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "sizes",
    [{"u": 1e30}, {"B": 1e15, "C": 1e15}, {"z": 1e4}, {"z": 1e35}, {"delta": 1e4}, {"A": 1e6}],
    ids=str,
)
def test_huge_inputs(sizes, device):
    arguments = scan_inputs(1, 200, 24, 16, device=device)
    for name, size in sizes.items():
        arguments[name] = arguments[name] * size
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    expected = {name: value.float() for name, value in expected.items()}  # zero where float32 has nothing
    assert_close(with_gradients(selective_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("absent", ["D", "z", "delta_bias", "delta_softplus", "initial_state"])
def test_each_option_can_be_left_out(absent, device, poisoned):
    arguments = scan_inputs(2, 45, 24, 8, device=device)
    arguments[absent] = False if absent == "delta_softplus" else None
    if absent == "delta_softplus":
        arguments["delta"] = arguments["delta"].abs() * 0.1
        arguments["delta_bias"] = None
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(with_gradients(selective_scan, arguments), expected, FORWARD, GRADIENT)


@pytest.mark.parametrize("device", DEVICES)
def test_chunks_with_carried_state_and_steps_are_the_whole(device):
    arguments = scan_inputs(2, 97, 40, 16, device=device)
    whole, last = selective_scan(**arguments)
    sequences = ("u", "delta", "B", "C", "z")
    state, parts = arguments["initial_state"], []
    for start, end in [(0, 1), (1, 33), (33, 34), (34, 90), (90, 97)]:
        piece = {n: v[:, start:end] if n in sequences else v for n, v in arguments.items()}
        y, state = selective_scan(**{**piece, "initial_state": state})
        parts.append(y)
    assert error(torch.cat(parts, 1), whole) < 1e-6
    assert error(state, last) < 1e-6
    state, steps = arguments["initial_state"].clone(), []
    constants = {n: v for n, v in arguments.items() if n not in (*sequences, "initial_state")}
    for t in range(97):
        steps.append(selective_step(state, **{n: arguments[n][:, t] for n in sequences}, **constants))
    assert error(torch.stack(steps, 1), whole) < 1e-6
    assert error(state, last) < 1e-6


@pytest.mark.parametrize("device", DEVICES)
def test_two_runs_give_the_same_bits(device):
    arguments = scan_inputs(3, 200, 130, 16, device=device)
    first, second = (with_gradients(selective_scan, arguments) for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_threads_change_no_bit():
    arguments = scan_inputs(3, 70, 130, 16)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = with_gradients(selective_scan, arguments)
        torch.set_num_threads(3)
        three = with_gradients(selective_scan, arguments)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(one[name], three[name]) for name in one)


@pytest.mark.parametrize("device", DEVICES)
def test_strided_inputs(device):
    arguments = scan_inputs(2, 50, 32, 16, device=device)
    expected = with_gradients(selective_scan, arguments)
    strided = dict(arguments)
    both = torch.cat([arguments["u"], arguments["z"]], dim=-1)
    strided["u"], strided["z"] = both[..., :32], both[..., 32:]
    strided["B"] = arguments["B"].transpose(1, 2).contiguous().transpose(1, 2)
    strided["delta"] = arguments["delta"].transpose(0, 1).contiguous().transpose(0, 1)
    strided["A"] = arguments["A"].t().contiguous().t()
    y, state = selective_scan(**strided)
    assert torch.equal(y, expected["y"])
    assert torch.equal(state, expected["state"])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_inputs_and_gradients_in_wider_rows(dtype, device, poisoned):
    """z and dy come from, and dz goes into, one half of a tensor that leaves the other half alone."""
    batch, length, channels = 2, 70, 24
    arguments = scan_inputs(batch, length, channels, 16, device=device, dtype=dtype)
    u, delta, A, B, C, D, z, bias, softplus, start = arguments.values()
    path, dy = op._path(u, A), u.flip(1)

    def run(z, dy, **places):
        scan = (u, delta, A, B[:, :, None], C[:, :, None], D, z, bias, softplus)
        y, final, kept = path.forward(*scan, start, None, False, True)
        return [y, final, *path.backward(dy, None, *scan, None, False, kept, True, **places)]

    expected = run(z, dy)
    wide_z, wide_dy, wide_dz = (torch.full((batch, length, 2 * channels), 7.0).to(u) for _ in range(3))
    wide_z[..., channels:], wide_dy[..., :channels] = z, dy
    dz = wide_dz[..., channels:]
    found = run(wide_z[..., channels:], wide_dy[..., :channels], dz=dz)
    assert found[8] is dz
    assert (wide_dz[..., :channels] == 7).all()
    assert all(torch.equal(a, b.to(a.dtype)) for a, b in zip(found, expected, strict=True))


def test_gradcheck():
    arguments = scan_inputs(1, 4, 3, 2, dtype=torch.float64)
    names = [name for name, value in arguments.items() if isinstance(value, torch.Tensor)]

    def function(*tensors):
        return selective_scan(**dict(zip(names, tensors, strict=True)), delta_softplus=True)

    tensors = [arguments[name].requires_grad_() for name in names]
    assert torch.autograd.gradcheck(function, tensors)


def test_gradient_through_the_final_state_alone_and_through_y_alone():
    arguments = scan_inputs(1, 20, 8, 4, dtype=torch.float64)
    arguments["u"].requires_grad_()
    for choose in (0, 1):
        found, expected = (
            torch.autograd.grad(function(**arguments)[choose].sum(), arguments["u"])[0]
            for function in (selective_scan, definition.selective_scan)
        )
        assert error(found, expected) < 1e-12


@pytest.mark.parametrize("device", DEVICES)
def test_operator_contract(device):
    arguments = scan_inputs(2, 33, 20, 4, device=device)
    tensors = [
        value.requires_grad_() if isinstance(value, torch.Tensor) else value for value in arguments.values()
    ]
    names = list(arguments)
    for name in ("B", "C"):  # in groups, as the operator takes them
        tensors[names.index(name)] = tensors[names.index(name)].detach().unsqueeze(2).requires_grad_()
    starts = torch.zeros(2, 33, dtype=torch.bool, device=device)
    starts[0, 7] = True
    for resets, reverse in ((None, False), (starts, True)):
        torch.library.opcheck(torch.ops.ssm_seq.selective_scan.default, (*tensors, resets, reverse, True))


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("u", torch.zeros(2, 3), r"u has shape \(2, 3\), expected \(batch, length, channels\)"),
        ("u", torch.zeros(2, 0, 4), "no axis empty"),
        ("delta", torch.zeros(2, 5, 3), r"delta has shape \(2, 5, 3\), expected .* = \(2, 5, 4\)"),
        ("A", torch.zeros(5, 3), r"A has shape \(5, 3\), expected \(channels, d_state\) = \(4, 3\)"),
        ("B", torch.zeros(2, 5, 4), r"B has shape"),
        (
            "C",
            torch.zeros(2, 5, 3, dtype=torch.int64),
            r"C has shape .* and dtype torch.int64, expected dtype float32",
        ),
        ("D", torch.zeros(4, 1), "D has shape"),
        ("initial_state", torch.zeros(2, 3, 4), r"initial_state has shape .* = \(2, 4, 3\)"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    arguments = scan_inputs(2, 5, 4, 3)
    arguments[name] = value
    with pytest.raises(ValueError, match=message):
        selective_scan(**arguments)


@pytest.mark.gpu
@pytest.mark.parametrize(
    ("forward", "backward"),
    [
        ((1, 16, 32, 4, 128), (4, 4, 64, 1)),
        ((2, 16, 256, 4, 168), (2, 8, 128, 5)),
        ((1, 8, 1024, 8, 255), (4, 4, 1024, 3)),
    ],
    ids=str,
)
def test_how_the_work_is_cut_changes_rounding_only(forward, backward):
    from ssm_seq.kernels.selective_scan import gpu

    arguments = scan_inputs(2, 1000, 96, 16, device="cuda")
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    dy, dstate = sent_gradients(expected["y"], expected["state"])
    arguments |= {name: arguments[name].unsqueeze(2) for name in ("B", "C")}
    cut = gpu.Cut(*forward)
    y, state, kept = gpu.forward(**arguments, resets=None, reverse=False, keep=True, cut=cut)
    del arguments["initial_state"]
    rest = {"resets": None, "reverse": False, "kept": kept, "again": True}
    found = gpu.backward(dy.float(), dstate.float(), **arguments, **rest, cut=gpu.BackwardCut(*backward))
    names = ("u", "delta", "A", "B", "C", "D", "z", "delta_bias", "initial_state")
    gradients = {f"d{name}": v for name, v in zip(names, found[:9], strict=True)}
    gradients |= {name: gradients[name].squeeze(2) for name in ("dB", "dC")}
    assert_close({"y": y, "state": state, **gradients}, expected, FORWARD, GRADIENT)
    assert error(found[9], expected["y"]) < FORWARD


@pytest.mark.parametrize("device", DEVICES)
def test_compiles_as_one_graph(device):
    from ssm_seq.kernels import causal_conv1d

    def layer(weight, arguments):
        mixed, _ = causal_conv1d(arguments["u"], weight, activation="silu")
        return selective_scan(**{**arguments, "u": mixed})[0]

    torch.compiler.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (20, 33):
        arguments = scan_inputs(2, length, 8, 4, device=device)
        weight = torch.randn(8, 4, device=device, requires_grad=True)
        gradients = [
            torch.autograd.grad(function(weight, arguments).square().sum(), weight)[0]
            for function in (layer, compiled)
        ]
        assert error(gradients[1], gradients[0]) < 1e-6


@pytest.mark.gpu
def test_captured_in_a_graph():
    arguments = scan_inputs(2, 600, 64, 16, device="cuda", dtype=torch.bfloat16)
    expected = with_gradients(selective_scan, arguments)
    leaves = {n: v.requires_grad_() if isinstance(v, torch.Tensor) else v for n, v in arguments.items()}
    dy = torch.ones_like(leaves["u"])

    def run():
        y, _ = selective_scan(**leaves)
        return y, torch.autograd.grad(y, leaves["u"], dy)[0]

    captured, eager = replayed(run)
    assert torch.equal(captured[0], expected["y"])
    assert all(torch.equal(*pair) for pair in zip(captured, eager, strict=True))


@pytest.mark.gpu
def test_more_elements_than_32_bits_count():
    length, cut, channels, d_state = 2**23 + 11, 2**22 + 5, 512, 2
    generator = torch.Generator(device="cuda").manual_seed(0)

    def normal(*shape):
        return torch.randn(*shape, device="cuda", dtype=torch.bfloat16, generator=generator)

    u, delta = normal(1, length, channels), normal(1, length, channels) - 3
    B, C = normal(1, length, d_state), normal(1, length, d_state)
    A = -torch.rand(channels, d_state, device="cuda")
    y, last = selective_scan(u, delta, A, B, C, delta_softplus=True)
    parts, state = [], None
    for part in (slice(0, cut), slice(cut, length)):
        inputs = (u[:, part], delta[:, part], A, B[:, part], C[:, part])
        out, state = selective_scan(*inputs, delta_softplus=True, initial_state=state)
        parts.append(out[:, -1000:])
    assert error(y[:, cut - 1000 : cut], parts[0]) < 1e-3
    assert error(y[:, -1000:], parts[1]) < 1e-3
    # A state that outlives a chunk is rounded in each of millions of steps, or once a chunk.
    assert error(last, state) < 1e-3
