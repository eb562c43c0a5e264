"""H3 against its two state spaces written as matrices, and the task that it was made for."""

import pytest
import torch
import torch.nn.functional as F

from ssm_seq.layers import H3


def h3_by_hand(layer, x):
    """A shift matrix that moves the state down by one place, and every mode of the diagonal system."""
    d_model, _, places = layer.conv1d.weight.shape
    q, k, v = F.linear(x, layer.in_proj.weight, layer.in_proj.bias).chunk(3, dim=-1)
    shift = torch.diag(torch.ones(places - 1, dtype=x.dtype), -1)
    first = torch.eye(places, dtype=x.dtype)[0]
    taps = layer.conv1d.weight[:, 0].flip(-1)  # C of the shift system: the newest input comes first
    half = torch.complex(-layer.log_A_real.exp(), layer.A_imag)
    A, C = torch.cat([half, half.conj()], 1), torch.view_as_complex(layer.C)
    C, dt = torch.cat([C, C.conj()], 1), layer.log_dt.exp()[:, None]
    s, h = x.new_zeros(len(x), d_model, places), torch.zeros(len(x), *A.shape, dtype=A.dtype)
    outputs = []
    for t in range(x.shape[1]):
        s = s @ shift.mT + first * k[:, t, :, None]
        kv = (s * taps).sum(-1) * v[:, t]
        h = torch.exp(dt * A) * h + (torch.exp(dt * A) - 1) / A * kv[..., None]
        outputs.append(q[:, t] * ((C * h).sum(-1).real + layer.D * kv))
    return F.linear(torch.stack(outputs, 1), layer.out_proj.weight, layer.out_proj.bias)


@pytest.mark.parametrize("length", [1, 3, 90])
def test_agrees_with_the_equations(length):
    torch.manual_seed(length)
    layer = H3(5, d_state=6, d_conv=4, dt_min=0.01, dt_max=0.5).double()
    x = torch.randn(2, length, 5, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], h3_by_hand(layer, x), rtol=1e-9, atol=1e-11)


def test_states_come_in_pairs():
    with pytest.raises(ValueError, match="N=5: the states come in pairs"):
        H3(4, d_state=5)
