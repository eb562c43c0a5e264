"""causal_conv1d_fn and causal_conv1d_update against plain reference code in their own layout."""

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

from ssm_seq.compat.mamba_ssm import causal_conv1d_fn, causal_conv1d_update

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
def test_conv_outputs_may_be_added_to_in_place(dim, device):
    arguments = conv_arguments(torch.float32, 9, 4, dim, device=device)
    x = arguments["x"].detach().clone().requires_grad_()
    out, final = causal_conv1d_fn(**arguments | {"x": x})
    out += final.sigmoid().sum(-1, keepdim=True)
    out.sum().backward()
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


def test_compiled_without_a_break():
    assert_compiles_whole(causal_conv1d_fn, conv_arguments(torch.float32, 9, 4))
    assert_compiles_whole(causal_conv1d_update, update_arguments(torch.float32, 3, 4, 5, True, "cpu"))


def test_signatures_are_those_of_the_library():
    assert signature(causal_conv1d_fn) == (
        "x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, "
        "final_states_out=None, activation=None"
    )
    assert signature(causal_conv1d_update) == (
        "x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None"
    )


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
