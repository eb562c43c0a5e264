"""selective_scan_fn and selective_state_update against plain reference code in their own layout."""

import pytest
import torch
import torch.nn.functional as F
from compat_cases import (
    DEVICES,
    FORWARD,
    HALVES,
    assert_close,
    assert_compiles_whole,
    error,
    signature,
    wide,
    with_gradients,
)
from torch import Tensor

from ssm_seq.compat.mamba_ssm import selective_scan_fn, selective_state_update

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


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dim", [24, 64])  # less and no less than whole vectors of a CPU
def test_scan_outputs_may_be_added_to_in_place(dim, device):
    arguments = scan_arguments(length=9, dim=dim, device=device)
    u = arguments["u"].requires_grad_()
    out, state = selective_scan_fn(**arguments)
    out += state.sum(-1, keepdim=True)
    out.sum().backward()
    assert u.grad.abs().min() > 0


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


# Compilation, signatures and mistakes


def test_compiled_without_a_break():
    assert_compiles_whole(selective_scan_fn, scan_arguments(length=20, groups=2))
    assert_compiles_whole(selective_state_update, step_arguments(torch.bfloat16, (4, 6), groups=2))


def test_signatures_are_those_of_the_library():
    assert signature(selective_scan_fn) == (
        "u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False"
    )
    assert signature(selective_state_update) == (
        "state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None"
    )


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


@pytest.mark.parametrize("weights", [torch.float32, torch.complex64], ids=str)
@pytest.mark.parametrize("name", ["B", "C"])
def test_matrices_of_integers_are_named_in_their_own_layout(name, weights):
    arguments = scan_arguments(length=10, weights=weights)
    length = arguments[name].shape[-1]
    arguments[name] = torch.zeros(2, 8, length, dtype=torch.int64)
    with pytest.raises(ValueError) as caught:
        selective_scan_fn(**arguments)
    assert f"{name} has shape (2, 8, {length}) and dtype torch.int64, expected" in str(caught.value)


def test_complex_matrices_come_as_pairs():
    arguments = scan_arguments(length=10, weights=torch.complex64)
    with pytest.raises(ValueError, match=r"B has shape .* 2 \* length"):
        selective_scan_fn(**arguments | {"B": arguments["B"][..., :10]})
    with pytest.raises(ValueError, match=r"B has shape .* dtype torch\.complex64, expected real"):
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
