"""Mamba against the paper's equations written once more, and its initial values."""

import math

import numpy as np
import torch
import torch.nn.functional as F

from ssm_seq.layers import Mamba


def mamba_by_hand(layer, x):
    """Figure 3 and algorithm 2 in numpy, one position after another."""
    w = {name: parameter.detach().numpy() for name, parameter in layer.named_parameters()}
    sigmoid, batch, length = (lambda v: 1 / (1 + np.exp(-v))), x.shape[0], x.shape[1]
    d_inner, d_state = w["A_log"].shape
    d_conv, dt_rank = w["conv1d.weight"].shape[2], w["dt_proj.weight"].shape[1]
    xz = x @ w["in_proj.weight"].T
    u, z = xz[..., :d_inner], xz[..., d_inner:]
    h, outputs = np.zeros((batch, d_inner, d_state)), []
    for t in range(length):
        v = w["conv1d.bias"] + np.zeros((batch, d_inner))
        for k in range(d_conv):
            if t - k >= 0:
                v = v + w["conv1d.weight"][:, 0, d_conv - 1 - k] * u[:, t - k]
        v = v * sigmoid(v)
        selected = v @ w["x_proj.weight"].T
        low, B, C = np.split(selected, [dt_rank, dt_rank + d_state], axis=-1)
        delta = np.log1p(np.exp(low @ w["dt_proj.weight"].T + w["dt_proj.bias"]))
        A_bar = np.exp(delta[..., None] * -np.exp(w["A_log"]))
        h = A_bar * h + delta[..., None] * B[:, None] * v[..., None]
        y = (h * C[:, None]).sum(-1) + w["D"] * v
        outputs.append((y * z[:, t] * sigmoid(z[:, t])) @ w["out_proj.weight"].T)
    return np.stack(outputs, axis=1)


def test_agrees_with_the_equations():
    torch.manual_seed(0)
    layer = Mamba(20, d_state=5, d_conv=3, expand=2).double()
    x = torch.randn(2, 33, 20, dtype=torch.float64)
    expected = torch.from_numpy(mamba_by_hand(layer, x.numpy()))
    torch.testing.assert_close(layer(x)[0], expected, rtol=1e-9, atol=1e-11)


def test_parameters_have_the_names_and_shapes_of_the_authors_block():
    shapes = {name: tuple(p.shape) for name, p in Mamba(64).named_parameters()}
    assert shapes == {
        "A_log": (128, 16),
        "D": (128,),
        "in_proj.weight": (256, 64),
        "conv1d.weight": (128, 1, 4),
        "conv1d.bias": (128,),
        "x_proj.weight": (36, 128),
        "dt_proj.weight": (128, 4),
        "dt_proj.bias": (128,),
        "out_proj.weight": (64, 128),
    }


def test_initial_values():
    torch.manual_seed(0)
    layer = Mamba(256, d_state=8, dt_min=0.002, dt_max=0.05)
    torch.testing.assert_close(layer.A_log.exp(), torch.arange(1.0, 9).repeat(512, 1))
    assert (layer.D == 1).all()
    dt = F.softplus(layer.dt_proj.bias)
    assert 0.002 * 0.999 <= dt.min() < 0.0025 and 0.04 < dt.max() <= 0.05 * 1.001
    assert abs(dt.log().mean() - (math.log(0.002) + math.log(0.05)) / 2) < 0.15  # uniform in the logarithm
    bound = 16**-0.5
    assert 0.9 * bound < layer.dt_proj.weight.abs().max() <= bound
