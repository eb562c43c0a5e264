"""EMA against the equations of MEGA, and the moving average that it contains."""

import pytest
import torch

from ssm_seq.layers import EMA
from ssm_seq.ssm import ema, recurrent


def test_agrees_with_the_equations():
    """Ma et al. 2022, section 3.1, position by position."""
    torch.manual_seed(0)
    layer = EMA(3, 4).double()
    alpha, delta = torch.sigmoid(layer.alpha), torch.sigmoid(layer.delta)
    x = torch.randn(2, 80, 3, dtype=torch.float64)
    y, final = layer.ssm(x, layer.initial_state(2))
    h = torch.zeros(2, 3, 4, dtype=torch.float64)
    for t in range(80):
        h = alpha * (layer.beta * x[:, t, :, None]) + (1 - alpha * delta) * h
        torch.testing.assert_close(y[:, t], (layer.eta / 2 * h).sum(-1), rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(final.h, h, rtol=1e-10, atol=1e-11)


def test_with_one_state_it_is_the_smallest_ssm():
    """delta = beta = eta = 1: x_k = (1 - alpha) x_(k-1) + alpha u_k."""
    torch.manual_seed(0)
    layer = EMA(5, 1).double()
    with torch.no_grad():
        layer.delta.fill_(60.0)
        layer.beta.fill_(1.0)
        layer.eta.fill_(1.0)
    u = torch.randn(2, 70, 5, dtype=torch.float64)
    y, _ = layer.ssm(u, layer.initial_state(2))
    average = ema(torch.sigmoid(layer.alpha[:, 0]))
    expected, _ = recurrent(average, u.mT[..., None])
    torch.testing.assert_close(y, expected[..., 0].mT, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("logit", [-200.0, -30.0, 30.0, 200.0])
def test_weights_at_their_limits_stay_finite(logit):
    """At alpha = delta = 1 nothing is remembered, log Abar is far below 0; at 0 nothing is forgotten."""
    layer = EMA(2, 3)
    with torch.no_grad():
        layer.alpha.fill_(logit)
        layer.delta.fill_(logit)
    y, state = layer(torch.randn(1, 90, 2))
    (y.sum() + state.h.sum()).backward()
    assert y.isfinite().all() and state.h.isfinite().all()
    assert all(parameter.grad.isfinite().all() for parameter in layer.parameters())


def test_no_states_are_refused():
    with pytest.raises(ValueError, match="d_state=0: expected 1 or more"):
        EMA(4, 0)
