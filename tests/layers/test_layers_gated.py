"""The gate beside a layer."""

import torch
import torch.nn.functional as F

from ssm_seq.layers import S5, Gated, Mamba


def test_the_layer_is_multiplied_by_its_gate():
    torch.manual_seed(0)
    inner = S5(8, 6)
    layer = Gated(5, inner, d_inner=8).double()
    x = torch.randn(2, 30, 5, dtype=torch.float64)
    u = F.linear(x, layer.in_proj.weight, layer.in_proj.bias)
    z = F.linear(x, layer.gate_proj.weight, layer.gate_proj.bias)
    expected = F.linear(inner(u)[0] * (z * torch.sigmoid(z)), layer.out_proj.weight, layer.out_proj.bias)
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-10, atol=1e-12)


def test_a_closed_gate_lets_nothing_through():
    layer = Gated(4, Mamba(6), d_inner=6)
    with torch.no_grad():
        layer.gate_proj.weight.zero_()
        layer.gate_proj.bias.fill_(-200)
        layer.out_proj.bias.zero_()
    assert layer(torch.randn(1, 9, 4))[0].abs().max() == 0
