"""The drop-in functions against plain reference code in that library's layout, over its own tests' grids."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.compat.mamba_ssm import (
    causal_conv1d_fn,
    causal_conv1d_update,
    selective_scan_fn,
    selective_state_update,
)

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
HALVES = [torch.float16, torch.bfloat16]
FORWARD = {torch.float32: 2e-6, torch.float16: 1e-3, torch.bfloat16: 5e-3}
GRADIENT = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1e-2}


def error(value: Tensor, expected: Tensor) -> float:
    """Relative RMS error; NaN never passes a comparison."""
    wide = torch.complex128 if expected.is_complex() else torch.float64
    value, expected = value.to(wide), expected.to(wide)
    return float((value - expected).norm() / (expected.norm() if expected.norm() > 0 else 1.0))


def assert_close(found: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    assert found.keys() == expected.keys()
    errors = {name: error(found[name], expected[name]) for name in expected}
    limits = {name: (GRADIENT if name.startswith("d/") else FORWARD)[dtype] for name in errors}
    missed = {name: value for name, value in errors.items() if not value <= limits[name]}
    assert not missed, missed


def wide(value):
    """The same rounded numbers in double precision."""
    if not isinstance(value, Tensor) or not (value.is_floating_point() or value.is_complex()):
        return value
    return value.detach().to(torch.complex128 if value.is_complex() else torch.float64)


def with_gradients(function, arguments: dict, *, final: bool = False) -> dict[str, Tensor]:
    """Outputs, and "d/" + name of every floating argument for fixed gradients of the outputs."""
    leaves = {
        name: value.detach().clone().requires_grad_()
        if isinstance(value, Tensor) and (value.is_floating_point() or value.is_complex())
        else value
        for name, value in arguments.items()
    }
    result = function(**leaves)
    results = result if isinstance(result, tuple) else (result,)
    generator = torch.Generator().manual_seed(7)
    sent = []
    for output in results[: 2 if final else 1]:
        random = torch.randn(output.shape, generator=generator, dtype=torch.float64).to(torch.bfloat16)
        sent.append(random.to(output.device, output.dtype))
    tensors = {name: leaf for name, leaf in leaves.items() if isinstance(leaf, Tensor) and leaf.requires_grad}
    gradients = torch.autograd.grad(results[: len(sent)], list(tensors.values()), sent)
    found = {f"out {index}": output.detach() for index, output in enumerate(results)}
    found.update({f"d/{name}": value for name, value in zip(tensors, gradients, strict=True)})
    return found


# The scan


def reference_scan(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """x_t = exp(delta_t A) x_(t-1) + delta_t B_t u_t, y_t = <C_t, x_t> (twice the real part if complex)."""
    dim, length = u.shape[1:]

    def at(matrix: Tensor, t: int) -> Tensor:
        """(batch or 1, dim, d_state)"""
        if matrix.dim() == 2:
            return matrix[None]
        matrix = matrix[:, None] if matrix.dim() == 3 else matrix
        if A.is_complex():
            matrix = torch.complex(matrix[..., 0::2], matrix[..., 1::2])
        return matrix[..., t].repeat_interleave(dim // matrix.shape[1], dim=1)

    if delta_bias is not None:
        delta = delta + delta_bias[:, None]
    if delta_softplus:
        delta = F.softplus(delta)
    state, outs = 0, []
    for t in range(length):
        step = delta[:, :, t, None]
        state = torch.exp(step * A) * state + step * u[:, :, t, None] * at(B, t)
        y = (state * at(C, t)).sum(-1)
        outs.append(2 * y.real if y.is_complex() else y)
    out = torch.stack(outs, dim=2)
    if D is not None:
        out = out + D[:, None] * u
    if z is not None:
        out = out * F.silu(z)
    return (out, state) if return_last_state else out


def scan_arguments(
    dtype=torch.float32,
    weights=torch.float32,
    length=128,
    groups=1,
    variable=(True, True),
    device="cpu",
    batch=2,
    dim=4,
    d_state=8,
    **given,
) -> dict:
    """What the library's own test draws: A in -[0, 0.5], small positive steps, everything else normal."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=dtype):
        kind = torch.complex128 if dtype.is_complex else torch.float64
        return torch.randn(*shape, generator=generator, dtype=kind).to(device, dtype)

    def uniform(*shape, dtype=dtype):
        kind = torch.complex128 if dtype.is_complex else torch.float64
        return (0.5 * torch.rand(*shape, generator=generator, dtype=kind)).to(device, dtype)

    row = 2 * length if weights.is_complex else length
    changing = (batch, d_state, row) if groups == 1 else (batch, groups, d_state, row)
    B, C = (normal(*changing) if varies else normal(dim, d_state, dtype=weights) for varies in variable)
    arguments = {
        "u": normal(batch, dim, length),
        "delta": uniform(batch, dim, length),
        "A": -uniform(dim, d_state, dtype=weights),
        "B": B,
        "C": C,
        "D": normal(dim, dtype=torch.float32),
        "z": normal(batch, dim, length),
        "delta_bias": uniform(dim, dtype=torch.float32),
        "delta_softplus": True,
        "return_last_state": True,
    }
    return arguments | given


def check_scan(dtype=torch.float32, **choices) -> None:
    arguments = scan_arguments(dtype, **choices)
    final = arguments["return_last_state"]
    found = with_gradients(selective_scan_fn, arguments, final=final)
    expected = with_gradients(
        reference_scan, {name: wide(value) for name, value in arguments.items()}, final=final
    )
    assert_close(found, expected, dtype)
    assert found["out 0"].dtype == dtype
    assert all(found[f"d/{n}"].dtype == v.dtype for n, v in arguments.items() if f"d/{n}" in found)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("length", [8, 128, 372])
def test_scan(length, dtype, groups, device):
    check_scan(dtype, length=length, groups=groups, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("softplus", [False, True])
@pytest.mark.parametrize("left_out", [(), ("D",), ("z",), ("delta_bias",), ("D", "z", "delta_bias")], ids=str)
@pytest.mark.parametrize("last_state", [False, True])
def test_scan_with_parts_left_out(last_state, left_out, softplus, device):
    given = dict.fromkeys(left_out) | {"delta_softplus": softplus, "return_last_state": last_state}
    check_scan(length=63, device=device, **given)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("variable", [(False, False), (False, True), (True, False)], ids=str)
def test_scan_with_constant_matrices(variable, weights, device):
    check_scan(length=40, weights=weights, variable=variable, device=device)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_scan_complex(dtype, groups, device):
    check_scan(dtype, length=40, weights=torch.complex64, groups=groups, device=device)


def test_scan_of_views():
    arguments = scan_arguments(length=20, groups=2)
    views = {
        name: value.transpose(-1, -2).contiguous().transpose(-1, -2)
        if isinstance(value, Tensor) and value.dim() > 1
        else value
        for name, value in arguments.items()
    }
    assert not views["u"].is_contiguous()
    for found, expected in zip(selective_scan_fn(**views), selective_scan_fn(**arguments), strict=True):
        assert error(found, expected) < 1e-6


# One step


def reference_step(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    """out, next state; every axis explicit: (batch, heads, dim, d_state)."""
    heads = state.dim() == 4
    if not heads:
        state, x, dt, z = (None if part is None else part[:, None] for part in (state, x, dt, z))
        A, D, dt_bias = (None if part is None else part[None] for part in (A, D, dt_bias))
    B, C = (m if m.dim() == 3 else m[:, None] for m in (B, C))
    B, C = (m.repeat_interleave(state.shape[1] // m.shape[1], dim=1)[:, :, None] for m in (B, C))
    step = dt if dt_bias is None else dt + dt_bias
    step = F.softplus(step) if dt_softplus else step
    state = torch.exp(step[..., None] * A) * state + step[..., None] * B * x[..., None]
    out = (state * C).sum(-1)
    if D is not None:
        out = out + D * x
    if z is not None:
        out = out * F.silu(z)
    return (out, state) if heads else (out[:, 0], state[:, 0])


def step_arguments(dtype, inner, d_state=16, batch=2, groups=None, tied=False, device="cpu") -> dict:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    matrix = (batch, d_state) if groups is None else (batch, groups, d_state)
    dt, dt_bias, A, D = (
        normal(batch, *inner, dtype=dtype),
        -3.5 + normal(*inner),
        -1 - normal(*inner, d_state).abs(),
        normal(*inner),
    )
    if tied:
        dt, dt_bias, D = (part[..., :1].expand(part.shape) for part in (dt, dt_bias, D))
        A = A[:, :1, :1].expand(A.shape)
    return {
        "state": normal(batch, *inner, d_state, dtype=dtype),
        "x": normal(batch, *inner, dtype=dtype),
        "dt": dt,
        "A": A,
        "B": normal(*matrix),
        "C": normal(*matrix),
        "D": D,
        "z": normal(batch, *inner, dtype=dtype),
        "dt_bias": dt_bias,
        "dt_softplus": True,
    }


def check_step(dtype: torch.dtype, arguments: dict) -> None:
    out, state = reference_step(**{name: wide(value) for name, value in arguments.items()})
    found = selective_state_update(**arguments)
    assert found.dtype == dtype and found.shape == arguments["x"].shape
    assert_close({"out": found, "state": arguments["state"]}, {"out": out, "state": state}, dtype)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("left_out", [(), ("z",), ("D", "dt_bias")], ids=str)
@pytest.mark.parametrize("d_state", [16, 33])
def test_step(d_state, left_out, dtype, device):
    arguments = step_arguments(dtype, (48,), d_state, device=device)
    check_step(dtype, arguments | dict.fromkeys(left_out))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("groups", [1, 2, 4])
def test_step_with_heads(groups, tied, dtype, device):
    check_step(dtype, step_arguments(dtype, (4, 24), groups=groups, tied=tied, device=device))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inner, groups", [((48,), None), ((4, 12), 2)])
def test_step_with_batch_indices(inner, groups, dtype, device):
    arguments = step_arguments(dtype, inner, batch=5, groups=groups, device=device)
    indices = torch.tensor([7, 2, 11, 0, 4], dtype=torch.int32, device=device)
    pool = torch.randn(12, *inner, 16, device=device).to(dtype)
    before, pool[indices.long()] = pool.clone(), arguments["state"]
    before[indices.long()] = arguments["state"]
    out, state = reference_step(**{name: wide(value) for name, value in arguments.items()})
    found = selective_state_update(**arguments | {"state": pool, "state_batch_indices": indices})
    assert_close({"out": found, "state": pool[indices.long()]}, {"out": out, "state": state}, dtype)
    others = [row for row in range(12) if row not in indices.tolist()]
    assert torch.equal(pool[others], before[others])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("inner", [(6,), (4, 6)])
def test_step_of_a_state_that_is_a_view(inner, dtype, device):
    arguments = step_arguments(dtype, inner, device=device)
    wider = torch.randn(2, 16, 12, *inner[:-1], device=device).to(dtype)
    before, view = wider.clone(), wider.movedim(1, -1)[:, 3:9].movedim(1, -2)
    view.copy_(arguments["state"])
    assert view.shape == arguments["state"].shape and not view.is_contiguous()
    found = selective_state_update(**arguments | {"state": view})
    expected = selective_state_update(**arguments)
    limit = FORWARD[dtype]
    assert error(found, expected) < limit and error(view, arguments["state"]) < limit
    before.movedim(1, -1)[:, 3:9].movedim(1, -2).copy_(view)
    assert torch.equal(wider, before)


# The convolution


def reference_conv(
    x,
    weight,
    bias=None,
    seq_idx=None,
    initial_states=None,
    return_final_states=False,
    activation=None,
):
    """Position by position; a tap counts where it is of the same sequence."""
    batch, dim, length = x.shape
    width = weight.shape[1]
    past = x.new_zeros(batch, dim, width - 1) if initial_states is None else initial_states
    numbers = x.new_zeros(batch, length).long() if seq_idx is None else seq_idx.long()
    padded = torch.cat([past, x], dim=2)
    owners = torch.cat([numbers[:, :1].expand(-1, width - 1), numbers], dim=1)
    outs = []
    for t in range(length):
        same = (owners[:, t : t + width] == numbers[:, t, None])[:, None]
        y = (padded[:, :, t : t + width] * weight * same).sum(-1)
        y = y if bias is None else y + bias
        y = F.silu(y) if activation else y
        outs.append(torch.where((numbers[:, t] < 0)[:, None], 0, y))
    out = torch.stack(outs, dim=2)
    return (out, padded[:, :, length:]) if return_final_states else out


def conv_arguments(dtype, length, width, dim=24, batch=2, device="cpu", channels_last=True) -> dict:
    generator = torch.Generator().manual_seed(0)

    def normal(*shape, dtype=torch.float32):
        return torch.randn(*shape, generator=generator).to(device, dtype)

    x = normal(batch, length, dim + 8, dtype=dtype)[:, :, 3 : dim + 3].transpose(1, 2)
    return {
        "x": x if channels_last else x.contiguous(),
        "weight": normal(dim, width),
        "bias": normal(dim),
        "initial_states": normal(batch, width - 1, dim, dtype=dtype).transpose(1, 2),
        "return_final_states": True,
        "activation": "silu",
    }


def check_conv(dtype: torch.dtype, arguments: dict) -> None:
    final = arguments["return_final_states"]
    found = with_gradients(causal_conv1d_fn, arguments, final=final)
    expected = with_gradients(
        reference_conv, {name: wide(value) for name, value in arguments.items()}, final=final
    )
    assert_close(found, expected, dtype)
    assert found["out 0"].dtype == dtype


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, *HALVES], ids=str)
@pytest.mark.parametrize("width", [2, 3, 4])
@pytest.mark.parametrize("length", [1, 2, 8, 129])
def test_conv(length, width, dtype, channels_last, device):
    check_conv(dtype, conv_arguments(dtype, length, width, device=device, channels_last=channels_last))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(
    "given",
    [
        {"bias": None},
        {"activation": None},
        {"activation": "swish"},
        {"initial_states": None},
        {"return_final_states": False},
        {"bias": None, "activation": None, "initial_states": None, "return_final_states": False},
    ],
    ids=str,
)
def test_conv_with_parts_left_out(given, device):
    check_conv(torch.float32, conv_arguments(torch.float32, 33, 4, device=device) | given)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("initial", [False, True])
@pytest.mark.parametrize("width", [2, 4])
def test_conv_packed_and_padded(width, initial, dtype, device):
    arguments = conv_arguments(dtype, 12, width, device=device) | {"return_final_states": False}
    if not initial:
        arguments["initial_states"] = None
    rows = [[3, 5, 5, 5, 9, 9, 9, 9, 9, -1, -1, -1], [4, 4, 6, 6, 6, 6, 8, 7, 7, 7, 7, 7]]
    arguments["seq_idx"] = torch.tensor(rows, dtype=torch.int32, device=device)
    check_conv(dtype, arguments)


def test_conv_writes_final_states_where_asked():
    arguments = conv_arguments(torch.float32, 9, 4)
    given = torch.full((2, 24, 3), torch.nan)
    out, final = causal_conv1d_fn(**arguments, final_states_out=given)
    assert final is given and torch.equal(given, arguments["x"][..., -3:])
    assert torch.equal(out, causal_conv1d_fn(**arguments)[0])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [24, 64])  # less and no less than whole vectors of a CPU
def test_outputs_may_be_added_to_in_place(dim, device):
    arguments = conv_arguments(torch.float32, 9, 4, dim, device=device)
    x = arguments["x"].detach().clone().requires_grad_()
    out, final = causal_conv1d_fn(**arguments | {"x": x})
    out += final.sigmoid().sum(-1, keepdim=True)
    arguments = scan_arguments(length=9, dim=dim, device=device)
    y, state = selective_scan_fn(**arguments | {"u": out})
    y += state.sum(-1, keepdim=True)
    y.sum().backward()
    assert x.grad.abs().min() > 0


# The convolution's update


def reference_update(x, conv_state, weight, bias=None, activation=None, cache_seqlens=None):
    """out, next state, position by position: a shift register, or a ring that is written at its turn."""
    state, width, outs = conv_state.clone(), weight.shape[1], []
    for t in range(x.shape[2]):
        if cache_seqlens is None:
            state = torch.cat([state, x[:, :, t, None]], dim=2)
            window, state = state[:, :, -width:], state[:, :, 1:]
        else:
            rows = []
            for b, turn in enumerate((cache_seqlens + t).tolist()):
                places = [(turn - back) % state.shape[2] for back in range(width - 1, 0, -1)]
                rows.append(torch.cat([state[b][:, places], x[b, :, t, None]], dim=1))
            window = torch.stack(rows)
            for b, turn in enumerate((cache_seqlens + t).tolist()):
                state[b, :, turn % state.shape[2]] = x[b, :, t]
        y = (window * weight).sum(-1)
        y = y if bias is None else y + bias
        outs.append(F.silu(y) if activation else y)
    return torch.stack(outs, dim=2), state


def update_arguments(dtype, length, width, state_len, ring, device, batch=5, dim=24) -> dict:
    arguments = conv_arguments(dtype, length, width, dim, batch, device)
    state = torch.randn(batch, state_len, dim, generator=torch.Generator().manual_seed(3))
    turns = torch.tensor([0, 1, 2, 700, 1023], dtype=torch.int32, device=device)
    return {
        "x": arguments["x"],
        "conv_state": state.to(device, dtype).transpose(1, 2),
        "weight": arguments["weight"],
        "bias": arguments["bias"],
        "activation": "silu",
        "cache_seqlens": turns if ring else None,
    }


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize("more", [0, 1, 6])
@pytest.mark.parametrize("width", [2, 4])
@pytest.mark.parametrize("length", [1, 4, 5])
def test_update(length, width, more, ring, dtype, device):
    # A ring just as long as the past has each input fall on the oldest tap, which was read before.
    arguments = update_arguments(dtype, length, width, width - 1 + more, ring, device)
    out, state = reference_update(**{name: wide(value) for name, value in arguments.items()})
    found = causal_conv1d_update(**arguments)
    assert found.dtype == dtype
    assert_close({"out": found}, {"out": out}, dtype)
    assert torch.equal(arguments["conv_state"].double(), state)


def test_update_by_one_position_without_a_length_axis():
    arguments = update_arguments(torch.float32, 1, 4, 4, False, "cpu") | {"bias": None, "activation": None}
    before = arguments["conv_state"].clone()
    out = causal_conv1d_update(**arguments)
    after = arguments["conv_state"].clone()
    arguments |= {"x": arguments["x"][..., 0], "conv_state": before}
    assert torch.equal(causal_conv1d_update(**arguments), out[..., 0]) and torch.equal(before, after)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("ring", [False, True])
@pytest.mark.parametrize(
    "indices", [[9, 3, 0, 7, 1], [-1, 3, -1, 0, 6], [2, -1, -1, -1, -1], [-1] * 5], ids=str
)
@pytest.mark.parametrize("length", [1, 4])
def test_update_with_indices_and_padding(length, indices, ring, device):
    arguments = update_arguments(torch.float32, length, 4, 5, ring, device)
    pool = torch.randn(10, 5, 24, device=device).transpose(1, 2)
    expected = pool.clone()
    indices = torch.tensor(indices, dtype=torch.int32, device=device)
    real = indices >= 0
    of_real = {
        name: value[real]
        for name, value in arguments.items()
        if name in ("x", "cache_seqlens") and value is not None
    }
    if real.any():
        out, after = reference_update(
            **{
                name: wide(value)
                for name, value in (arguments | of_real | {"conv_state": pool[indices[real].long()]}).items()
            }
        )
        expected[indices[real].long()] = after.float()
    found = causal_conv1d_update(**arguments | {"conv_state": pool, "conv_state_indices": indices})
    assert torch.all(found[~real] == 0)
    assert torch.equal(pool, expected)
    if real.any():
        assert error(found[real], out) < FORWARD[torch.float32]


# Compilation, signatures and mistakes


@pytest.mark.parametrize(
    ("function", "arguments"),
    [
        (selective_scan_fn, scan_arguments(length=20, groups=2)),
        (selective_state_update, step_arguments(torch.bfloat16, (4, 6), groups=2)),
        (causal_conv1d_fn, conv_arguments(torch.float32, 9, 4)),
        (causal_conv1d_update, update_arguments(torch.float32, 3, 4, 5, True, "cpu")),
    ],
)
def test_compiled_without_a_break(function, arguments):
    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    results = []
    for call in (function, compiled):
        own = {n: v.clone() if isinstance(v, Tensor) else v for n, v in arguments.items()}
        result = call(**own)
        states = [own[name] for name in ("state", "conv_state") if name in own]
        results.append([*(result if isinstance(result, tuple) else (result,)), *states])
    assert all(torch.equal(one, other) for one, other in zip(*results, strict=True))


@pytest.mark.parametrize(
    ("function", "signature"),
    [
        (
            selective_scan_fn,
            "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, "
            "return_last_state=False",
        ),
        (
            selective_state_update,
            "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, "
            "state_batch_indices=None",
        ),
        (
            causal_conv1d_fn,
            "x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, "
            "final_states_out=None, activation=None",
        ),
        (
            causal_conv1d_update,
            "x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None",
        ),
    ],
)
def test_signatures_are_those_of_the_library(function, signature):
    found = [
        name if value.default is value.empty else f"{name}={value.default}"
        for name, value in inspect.signature(function).parameters.items()
    ]
    assert ", ".join(found) == signature


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("u", (2, 4), "u has shape (2, 4), expected (batch, dim, length)"),
        ("delta", (2, 10, 4), "delta has shape (2, 10, 4), expected (batch, dim, length) = (2, 4, 10)"),
        ("A", (5, 8), "A has shape (5, 8), expected (dim, d_state) with dim = 4"),
        ("B", (2, 10, 8), "B has shape (2, 10, 8), expected (dim, d_state) = (4, 8)"),
        ("C", (2, 3, 8, 10), "C has shape (2, 3, 8, 10)"),
        ("D", (4, 1), "D has shape (4, 1), expected (dim) = (4,)"),
        ("delta_bias", (3,), "delta_bias has shape (3,), expected (dim) = (4,)"),
    ],
)
def test_a_wrong_shape_of_the_scan(name, shape, said):
    with pytest.raises(ValueError) as caught:
        selective_scan_fn(**scan_arguments(length=10) | {name: torch.zeros(shape)})
    assert said in str(caught.value)


def test_complex_matrices_come_as_pairs():
    arguments = scan_arguments(length=10, weights=torch.complex64)
    with pytest.raises(ValueError, match=r"B has shape .* 2 \* length"):
        selective_scan_fn(**arguments | {"B": arguments["B"][..., :10]})
    with pytest.raises(ValueError, match=r"B has dtype torch\.complex64, expected real"):
        selective_scan_fn(**arguments | {"B": arguments["B"].to(torch.complex64)})


@pytest.mark.parametrize(
    ("name", "shape", "said"),
    [
        ("state", (2, 6), "state has shape (2, 6), expected (batch, dim, d_state)"),
        ("x", (2, 6), "x has shape (2, 6), expected (batch, heads, dim) = (2, 4, 6)"),
        ("A", (6, 16), "A has shape (6, 16), expected (heads, dim, d_state) = (4, 6, 16)"),
        ("B", (2, 3, 16), "B has shape (2, 3, 16), expected groups to divide heads = 4"),
        ("C", (2, 16), "C has shape (2, 16), expected (batch, groups, d_state) = (2, 2, 16)"),
        ("D", (24,), "D has shape (24,), expected (heads, dim) = (4, 6)"),
        ("state_batch_indices", (2,), "expected dtype int32, int64"),
    ],
)
def test_a_wrong_shape_of_the_step(name, shape, said):
    with pytest.raises(ValueError) as caught:
        selective_state_update(**step_arguments(torch.float32, (4, 6), groups=2) | {name: torch.zeros(shape)})
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"x": torch.zeros(2, 24)}, "x has shape (2, 24), expected (batch, dim, length)"),
        ({"weight": torch.zeros(23, 4)}, "weight has shape (23, 4), expected (dim, width) = (24, 4)"),
        ({"bias": torch.zeros(4)}, "bias has shape (4,), expected (dim) = (24,)"),
        ({"initial_states": torch.zeros(2, 3, 24)}, "expected (batch, dim, width - 1) = (2, 24, 3)"),
        ({"activation": "relu"}, "activation is 'relu', expected None, 'silu' or 'swish'"),
        ({"seq_idx": torch.zeros(2, 9)}, "expected dtype int32, int64"),
        ({"seq_idx": torch.zeros(2, 9).int()}, "return_final_states is True, expected False"),
    ],
    ids=str,
)
def test_a_wrong_argument_of_the_convolution(given, said):
    with pytest.raises(ValueError) as caught:
        causal_conv1d_fn(**conv_arguments(torch.float32, 9, 4) | given)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"conv_state": torch.zeros(5, 24, 2)}, "with state_len >= width - 1 = 3"),
        ({"conv_state": torch.zeros(4, 24, 3)}, "expected (batch, dim, state_len) = (5, 24, 3)"),
        ({"cache_seqlens": torch.zeros(5)}, "expected dtype int32, int64"),
        ({"conv_state_indices": torch.zeros(4).int()}, "expected (batch) = (5,)"),
    ],
    ids=str,
)
def test_a_wrong_argument_of_the_update(given, said):
    with pytest.raises(ValueError) as caught:
        causal_conv1d_update(**update_arguments(torch.float32, 1, 4, 4, False, "cpu") | given)
    assert said in str(caught.value)
