"""The selective scan beyond its plain form: packed, walking back, B and C in groups or fixed, complex A."""

from itertools import pairwise

import pytest
import torch
from kernel_cases import (
    DEVICES,
    FORWARD,
    GRADIENT,
    ROUNDED_FORWARD,
    ROUNDED_GRADIENT,
    assert_close,
    error,
    has_gradient,
    in_double,
    scan_inputs,
    with_gradients,
)

from ssm_seq.kernels import selective_scan
from ssm_seq.kernels.selective_scan import definition, op

SEQUENCES = ("u", "delta", "B", "C", "z", "starts")
FORMS = ("shared", "groups", "fixed")
TOLERANCE = {
    torch.float32: (FORWARD, GRADIENT),
    torch.bfloat16: (ROUNDED_FORWARD, ROUNDED_GRADIENT),
}
DTYPES = pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "bfloat16"])
DIRECTIONS = pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "back"])
ON_DEVICES = pytest.mark.parametrize("device", DEVICES)


def inputs(batch, length, channels, d_state, forms=("shared", "shared"), groups=3, firsts=None, **options):
    """Arguments with B and C in these forms.

    firsts: positions at which a packed sequence starts, one later in each next row.
    """
    arguments = scan_inputs(batch, length, channels, d_state, **options)
    generator = torch.Generator().manual_seed(5)
    shapes = {"groups": (batch, length, groups, d_state), "fixed": (channels, d_state)}
    for name, form in zip(("B", "C"), forms, strict=True):
        if form in shapes:
            arguments[name] = torch.randn(*shapes[form], generator=generator).to(arguments["u"])
    if firsts is not None:
        starts = torch.zeros(batch, length, dtype=torch.bool)
        for row in range(batch):
            starts[row, [min(first + row, length - 1) for first in firsts]] = True
        arguments["starts"] = starts.to(arguments["u"].device)
    return arguments


def made_complex(arguments, names=("A", "B", "C", "initial_state"), seed=7):
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        real = arguments[name].to(torch.promote_types(arguments[name].dtype, torch.float32))
        angle = 2 * torch.randn(real.shape, generator=generator, dtype=torch.float64).to(real)
        arguments[name] = torch.complex(real, angle)
    return arguments


def turned(**arguments):
    """A scan of the sequences back to front."""
    for name in ("u", "delta", "B", "C", "z"):
        arguments[name] = arguments[name].flip(1)
    if "starts" in arguments:  # what lay before a start now lies after it
        arguments["starts"] = torch.nn.functional.pad(arguments["starts"][:, 1:].flip(1), (1, 0))
    y, state = selective_scan(**arguments)
    return y.flip(1), state


@ON_DEVICES
@DTYPES
@pytest.mark.parametrize(
    ("forms", "reverse"),
    [((B, C), reverse) for B in FORMS for C in FORMS for reverse in (False, True) if B != C or reverse],
    ids=str,
)
def test_every_form_agrees_with_the_definition(forms, reverse, dtype, device, poisoned):
    arguments = inputs(2, 75, 84, 5, forms, firsts=[0, 9, 32, 33, 70], device=device, dtype=dtype)
    arguments["reverse"] = reverse
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(with_gradients(selective_scan, arguments), expected, *TOLERANCE[dtype])


@ON_DEVICES
@pytest.mark.parametrize("forms", [("shared", "groups"), ("fixed", "shared")], ids=str)
def test_long_rows_and_many_states(forms, device, poisoned):
    """More than one chunk of any device, starts on and beside the edges of chunks, wide states."""
    for shape, firsts, reverse in (
        ((1, 1300, 6, 16), [64, 127, 128, 129, 512, 1023, 1100], False),
        ((1, 1300, 6, 16), [64, 127, 128, 129, 512, 1023, 1100], True),
        ((2, 140, 3, 256), [1, 128], True),
    ):
        arguments = inputs(*shape, forms, firsts=firsts, device=device) | {"reverse": reverse}
        expected = with_gradients(definition.selective_scan, in_double(arguments))
        assert_close(with_gradients(selective_scan, arguments), expected, FORWARD, GRADIENT)


def each_alone(starts, reverse=False, **arguments):
    """What packing stands for: a call for each sequence of each row."""
    start = arguments.pop("initial_state")
    length = starts.shape[1]
    ys, finals = [], []
    for row in range(len(starts)):
        edges = sorted({0, *starts[row].nonzero().flatten().tolist(), length})
        entered = edges[-2] if reverse else 0
        parts = []
        for first, end in pairwise(edges):
            piece = {
                n: v[row : row + 1, first:end] if n in SEQUENCES and v.dim() > 2 else v
                for n, v in arguments.items()
            }
            lets_in = first == entered and (reverse or not starts[row, 0])
            state = start[row : row + 1] if lets_in else torch.zeros_like(start[:1])
            parts.append(selective_scan(**piece, initial_state=state, reverse=reverse))
        ys.append(torch.cat([y for y, _ in parts], dim=1))
        finals.append(parts[0 if reverse else -1][1])
    return torch.cat(ys), torch.cat(finals)


@ON_DEVICES
@DTYPES
@DIRECTIONS
@pytest.mark.parametrize("firsts", [[0, 20, 21, 90], [5, 64, 128]], ids=str)
def test_packed_is_each_sequence_alone(firsts, reverse, dtype, device):
    arguments = inputs(2, 140, 24, 16, ("shared", "groups"), firsts=firsts, device=device, dtype=dtype)
    arguments["reverse"] = reverse
    expected = with_gradients(each_alone, arguments)
    found = with_gradients(selective_scan, arguments)
    assert_close(found, expected, *TOLERANCE[dtype])
    if firsts[0] == 0 and not reverse:
        assert not found["dinitial_state"][0].any()
        assert found["dinitial_state"][1].any()


@ON_DEVICES
@DIRECTIONS
@pytest.mark.parametrize("scale", [1, 7])  # within one chunk of a GPU, and over several
def test_what_is_not_a_number_stays_in_its_sequence(scale, reverse, device):
    first, last = 40 * scale, 60 * scale
    arguments = inputs(1, 100 * scale, 8, 4, firsts=[first, last], device=device) | {"reverse": reverse}
    clean = with_gradients(selective_scan, arguments)
    arguments["u"][:, 45 * scale] = float("nan")
    arguments["delta"][:, 50 * scale] = float("inf")
    found = with_gradients(selective_scan, arguments)
    assert not torch.isfinite(found["y"][:, first:last]).all()
    for part in (slice(0, first), slice(last, None)):
        for name in ("y", "du", "ddelta", "dB", "dC", "dz"):
            assert torch.equal(found[name][:, part], clean[name][:, part]), name
    assert torch.equal(found["state"], clean["state"])
    assert torch.equal(found["dinitial_state"], clean["dinitial_state"])


@ON_DEVICES
@DTYPES
@pytest.mark.parametrize("firsts", [None, [0, 1, 77]], ids=["whole", "packed"])
def test_forward_of_reversed_is_reverse(firsts, dtype, device):
    arguments = inputs(2, 150, 24, 5, ("groups", "shared"), firsts=firsts, device=device, dtype=dtype)
    found = with_gradients(selective_scan, arguments | {"reverse": True})
    expected = with_gradients(turned, arguments)
    assert_close(found, expected, *TOLERANCE[dtype])


@ON_DEVICES
def test_pieces_from_the_last_to_the_first_are_the_walk_back(device):
    arguments = inputs(2, 97, 8, 16, device=device) | {"reverse": True}
    whole, last = selective_scan(**arguments)
    state, parts = arguments["initial_state"], []
    for start, end in [(90, 97), (34, 90), (33, 34), (0, 33)]:
        piece = {n: v[:, start:end] if n in SEQUENCES else v for n, v in arguments.items()}
        y, state = selective_scan(**piece | {"initial_state": state})
        parts.append(y)
    assert error(torch.cat(parts[::-1], 1), whole) < 1e-6
    assert error(state, last) < 1e-6


@ON_DEVICES
@DTYPES
@pytest.mark.parametrize(("channels", "groups"), [(6, 6), (40, 2), (384, 3)])
def test_groups_are_a_call_each(channels, groups, dtype, device):
    arguments = inputs(2, 50, channels, 8, ("groups", "groups"), groups, device=device, dtype=dtype)

    def each_group(**arguments):
        results = []
        for group in range(groups):
            c = slice(group * channels // groups, (group + 1) * channels // groups)
            piece = {n: arguments[n][..., c] for n in ("u", "delta", "z", "D", "delta_bias")}
            piece |= {n: arguments[n][:, :, group] for n in ("B", "C")}
            piece |= {"A": arguments["A"][c], "initial_state": arguments["initial_state"][:, c]}
            results.append(selective_scan(**piece, delta_softplus=True))
        return torch.cat([y for y, _ in results], -1), torch.cat([state for _, state in results], 1)

    expected = with_gradients(each_group, arguments)
    assert_close(with_gradients(selective_scan, arguments), expected, *TOLERANCE[dtype])


@ON_DEVICES
def test_groups_of_different_size(device):
    arguments = inputs(1, 40, 12, 4, ("groups", "groups"), groups=4, device=device)
    arguments["B"] = arguments["B"][:, :, :3].contiguous()
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(with_gradients(selective_scan, arguments), expected, FORWARD, GRADIENT)


@ON_DEVICES
@DTYPES
def test_fixed_is_one_matrix_repeated(dtype, device):
    arguments = inputs(2, 60, 10, 8, ("fixed", "fixed"), device=device, dtype=dtype)

    def repeated(**arguments):
        batch, length, _ = arguments["u"].shape
        for name in ("B", "C"):
            arguments[name] = arguments[name].expand(batch, length, -1, -1)  # a group for each channel
        return selective_scan(**arguments)

    expected = with_gradients(repeated, arguments)
    assert_close(with_gradients(selective_scan, arguments), expected, *TOLERANCE[dtype])


@ON_DEVICES
@DTYPES
@DIRECTIONS
@pytest.mark.parametrize(
    ("forms", "names"),
    [
        (("shared", "groups"), ("A", "B", "C", "initial_state")),
        (("fixed", "shared"), ("A", "C")),
        (("groups", "fixed"), ("A", "B")),
    ],
    ids=["all complex", "real B", "real C"],
)
def test_complex_agrees_with_the_definition(forms, names, reverse, dtype, device, poisoned):
    arguments = inputs(2, 261, 6, 5, forms, firsts=[3, 127, 128, 256], device=device, dtype=dtype)
    arguments = made_complex(arguments, names) | {"reverse": reverse}
    found = with_gradients(selective_scan, arguments)
    assert found["state"].dtype == torch.complex64
    assert all(found[f"d{n}"].dtype == v.dtype for n, v in arguments.items() if has_gradient(v))
    expected = with_gradients(definition.selective_scan, in_double(arguments))
    assert_close(found, expected, *TOLERANCE[dtype])


@ON_DEVICES
def test_complex_is_a_real_system_of_twice_the_size(device):
    """Each state with its conjugate is a 2 x 2 real system: decay by Re A, a turn by Im A."""
    arguments = made_complex(scan_inputs(1, 130, 4, 3, device=device, dtype=torch.float64))
    y, state = selective_scan(**arguments)
    assert state.dtype == torch.complex128
    a = arguments
    step = torch.nn.functional.softplus(a["delta"] + a["delta_bias"])[..., None]
    x, expected = torch.view_as_real(a["initial_state"]), []
    for t in range(130):
        angle = step[:, t] * a["A"].imag
        turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).unflatten(-1, (2, 2))
        x = torch.exp(step[:, t] * a["A"].real)[..., None] * (turn @ x[..., None])[..., 0]
        taken = (step[:, t] * a["u"][:, t, :, None])[..., None]
        x = x + taken * torch.view_as_real(a["B"][:, t, None])
        C = torch.view_as_real(a["C"].conj().resolve_conj()[:, t, None])
        expected.append(2 * (C * x).sum((-1, -2)) + a["D"] * a["u"][:, t])
    expected = torch.stack(expected, 1) * torch.nn.functional.silu(a["z"])
    assert error(y, expected) < 1e-12
    assert error(torch.view_as_real(state), x) < 1e-12


@ON_DEVICES
def test_complex_without_an_imaginary_part_is_twice_the_real_scan(device):
    arguments = scan_inputs(2, 150, 6, 4, device=device)
    expected, last = selective_scan(**arguments)
    arguments |= {"A": arguments["A"].to(torch.complex64), "C": arguments["C"] / 2}
    y, state = selective_scan(**arguments)
    assert error(y, expected) < 1e-6
    assert error(state.real, last) < 1e-6


@ON_DEVICES
@DTYPES
@pytest.mark.parametrize("reverse", [False, True], ids=["ahead", "back"])
@pytest.mark.parametrize("forms", [("shared", "shared"), ("groups", "fixed")], ids=str)
@pytest.mark.parametrize("complex_A", [False, True], ids=["real", "complex"])
def test_outputs_come_again_from_the_backward_pass(complex_A, forms, reverse, dtype, device, poisoned):
    arguments = inputs(2, 150, 84, 5, forms, firsts=[0, 33, 149], device=device, dtype=dtype)
    arguments["resets"] = arguments.pop("starts")
    arguments |= {n: arguments[n].unsqueeze(2) for n in ("B", "C") if arguments[n].dim() == 3}
    if complex_A:
        arguments = made_complex(arguments, ("A",))
    for z in (arguments["z"], None):
        arguments |= {"z": z, "reverse": reverse}
        path = op._path(arguments["u"], arguments["A"])
        y, _, kept = path.forward(**arguments, keep=True)
        given = {n: v for n, v in arguments.items() if n != "initial_state"}
        again = path.backward(torch.ones_like(y), None, **given, kept=kept, again=True)[-1]
        assert again.dtype == dtype
        assert error(again, y) < TOLERANCE[dtype][0]
        assert path.backward(torch.ones_like(y), None, **given, kept=kept, again=False)[-1].numel() == 0


@ON_DEVICES
@pytest.mark.parametrize("complex_A", [False, True], ids=["real", "complex"])
def test_two_runs_of_every_feature_give_the_same_bits(complex_A, device):
    for forms in (("groups", "fixed"), ("fixed", "groups")):
        arguments = inputs(3, 200, 132, 16, forms, firsts=[0, 100], device=device) | {"reverse": True}
        arguments = made_complex(arguments) if complex_A else arguments
        first, second = (with_gradients(selective_scan, arguments) for _ in range(2))
        assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("forms", [("groups", "fixed"), ("fixed", "groups")], ids=str)
@pytest.mark.parametrize("complex_A", [False, True], ids=["real", "complex"])
def test_gradcheck(complex_A, forms):
    arguments = inputs(1, 5, 3, 2, forms, firsts=[2], dtype=torch.float64) | {"reverse": True}
    arguments = made_complex(arguments, ("A", "B", "initial_state")) if complex_A else arguments
    names = [name for name, value in arguments.items() if has_gradient(value)]

    def function(*tensors):
        return selective_scan(**arguments | dict(zip(names, tensors, strict=True)))

    assert torch.autograd.gradcheck(function, [arguments[name].requires_grad_() for name in names])


@ON_DEVICES
@pytest.mark.parametrize("complex_A", [False, True], ids=["real", "complex"])
def test_operator_contract_with_every_feature(complex_A, device):
    arguments = inputs(2, 33, 6, 4, ("groups", "fixed"), firsts=[9], device=device)
    arguments["resets"] = arguments.pop("starts")
    arguments = made_complex(arguments, ("A", "C")) if complex_A else arguments
    given = [value.requires_grad_() if has_gradient(value) else value for value in arguments.values()]
    torch.library.opcheck(torch.ops.ssm_seq.selective_scan.default, (*given, True, True))


@ON_DEVICES
@DIRECTIONS
@pytest.mark.parametrize("complex_A", [False, True], ids=["real", "complex"])
def test_compiles_as_one_graph_with_every_feature(complex_A, reverse, device):
    def function(weight, arguments):
        y, state = selective_scan(**arguments | {"u": arguments["u"] * weight})
        return y.square().sum() + state.abs().square().sum()

    torch.compiler.reset()
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager", dynamic=True)
    for length in (20, 33):
        arguments = inputs(2, length, 6, 4, ("groups", "fixed"), firsts=[9], device=device)
        arguments = made_complex(arguments, ("A",)) if complex_A else arguments
        arguments["reverse"] = reverse
        weight = torch.randn(6, device=device, requires_grad=True)
        expected, found = (torch.autograd.grad(f(weight, arguments), weight)[0] for f in (function, compiled))
        assert error(found, expected) < 1e-6


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "B",
            torch.zeros(2, 5, 4, 3),
            r"B has shape \(2, 5, 4, 3\), expected .* groups divide the 6 channels",
        ),
        ("C", torch.zeros(2, 5, 0, 3), r"C has shape \(2, 5, 0, 3\), expected .* groups divide"),
        (
            "C",
            torch.zeros(2, 4, 2, 3),
            r"C has shape .* expected \(batch, length, groups, d_state\) = \(2, 5, 2",
        ),
        ("B", torch.zeros(3, 6), r"B has shape \(3, 6\), expected \(channels, d_state\) = \(6, 3\)"),
        ("B", torch.zeros(3), r"B has shape \(3,\), expected \(batch, length, d_state\) = \(2, 5, 3\)"),
        (
            "starts",
            torch.zeros(2, 5),
            r"starts has shape \(2, 5\) and dtype torch.float32, expected dtype bool",
        ),
        ("starts", torch.zeros(2, 6, dtype=torch.bool), r"starts has shape .* \(batch, length\) = \(2, 5\)"),
        ("B", torch.zeros(2, 5, 3, dtype=torch.complex64), r"B has .*complex64, expected dtype float32"),
        ("initial_state", torch.zeros(2, 6, 3, dtype=torch.complex64), "initial_state has .*complex64"),
        ("u", torch.zeros(2, 5, 6, dtype=torch.complex64), r"u has .*complex64, expected dtype float32"),
        ("A", torch.zeros(6, 3, dtype=torch.int32), r"A has .*int32, expected dtype .*complex128"),
    ],
)
def test_what_does_not_fit_is_named(name, value, message):
    with pytest.raises(ValueError, match=message):
        selective_scan(**scan_inputs(2, 5, 6, 3) | {name: value})
