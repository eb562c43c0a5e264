"""Layers and models at another sampling rate."""

import pytest
import torch

from ssm_seq.config import ModelConfig
from ssm_seq.layers import (
    CNN,
    DSS,
    EMA,
    H3,
    LSSL,
    LSTM,
    S4,
    S4D,
    S5,
    Bidirectional,
    Gated,
    Mamba,
    Transformer,
    map_state,
)
from ssm_seq.models import Classifier
from ssm_seq.ssm import Diagonal, transfer

HELD = {  # zero-order hold: exact for an input that is constant over a time step
    "s4d": lambda: S4D(3, 6),
    "s5": lambda: S5(3, 6),
    "dss": lambda: DSS(3, 6, horizon=50),
    "ema": lambda: EMA(3, 4),
    "gated": lambda: Gated(3, S5(4, 6), 4),
}
held = pytest.mark.parametrize("name", HELD)


@held
@pytest.mark.parametrize("rate", [2, 3])
def test_every_nth_sample_of_a_held_signal_is_enough(name, rate):
    """Also step by step, and with a state that began at the other rate."""
    torch.manual_seed(0)
    layer = HELD[name]().double()
    coarse = torch.randn(2, 40, 3, dtype=torch.float64)
    fine = coarse.repeat_interleave(rate, dim=1)
    y, final = layer(fine)
    y = y[:, rate - 1 :: rate]  # the ends of the coarse time steps
    slow = layer.resampled(rate)
    y_slow, final_slow = slow(coarse)
    torch.testing.assert_close(y_slow, y, rtol=1e-9, atol=1e-10)
    torch.testing.assert_close(final_slow, final, rtol=1e-9, atol=1e-10)
    _, state = layer(fine[:, : 15 * rate])
    for k in range(15, 40):
        y_k, state = slow.step(coarse[:, k], state)
        torch.testing.assert_close(y_k, y[:, k], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("make", [lambda: S4(3, 6), lambda: LSSL(3, 6)], ids=["s4", "lssl"])
def test_the_bilinear_rule_comes_close_as_steps_shrink(make):
    """It answers a held signal with an error of the order of the step, a smooth one with its square."""
    torch.manual_seed(0)
    layer = make().double()
    with torch.no_grad():
        layer.log_dt.copy_(torch.tensor([0.02, 0.05, 0.1]).log())

    def response(rate):
        t = torch.arange(0, 4, 0.1 * rate, dtype=torch.float64)[None, :, None] + 0.05 * rate
        y, _ = layer.resampled(rate)(torch.sin(t).expand(1, -1, 3))
        return y[:, -1]

    errors = [(response(rate) - response(1 / 64)).norm() for rate in (1, 1 / 2, 1 / 4)]
    assert errors[0] > 1.7 * errors[1] > 1.7 * 1.7 * errors[2]


@pytest.mark.parametrize("name", [*HELD, "lssl", "s4"])
def test_there_and_back(name):
    torch.manual_seed(0)
    layer = (HELD | {"lssl": lambda: LSSL(3, 6), "s4": lambda: S4(3, 6)})[name]().double()
    x = torch.randn(1, 30, 3, dtype=torch.float64)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    other = layer.resampled(4.0)
    assert all(torch.equal(layer.state_dict()[key], value) for key, value in before.items())
    assert (other(x)[0] - layer(x)[0]).abs().max() > 1e-3
    torch.testing.assert_close(other.resampled(0.25)(x), layer(x), rtol=1e-9, atol=1e-10)


def test_ema_is_transferred_exactly():
    torch.manual_seed(0)
    layer = EMA(3, 4).double()
    for rate in (0.3, 2.5):
        log_Abar, Bbar, _ = layer._system()
        Abar, expected = transfer(Diagonal(torch.exp(log_Abar)), Bbar[..., None], rate)
        log_Abar, Bbar, _ = layer.resampled(rate)._system()
        torch.testing.assert_close(torch.exp(log_Abar), Abar.Lambda, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(Bbar, expected[..., 0], rtol=1e-10, atol=1e-12)


@held
@pytest.mark.parametrize("rate", [0, -2.0, float("nan"), float("inf")])
def test_a_rate_that_is_none_is_refused(name, rate):
    with pytest.raises(ValueError, match=r"rate=.*: expected a positive number"):
        HELD[name]().resampled(rate)


@pytest.mark.parametrize(
    "layer",
    [
        Mamba(4),
        H3(4, 4),
        LSTM(4),
        CNN(4),
        Transformer(4),
        Gated(4, Mamba(4), 4),
        Bidirectional(4, S5(4, 4), H3(4, 4)),
    ],
    ids=lambda layer: type(layer).__name__,
)
def test_layers_tied_to_samples_refuse(layer):
    with pytest.raises(ValueError, match="tied to"):
        layer.resampled(2.0)


def test_both_directions_are_resampled():
    torch.manual_seed(0)
    layer = Bidirectional(3, S5(3, 6), S4D(3, 6)).double()
    slow = layer.resampled(2)
    torch.testing.assert_close(slow.forwards.log_dt, layer.forwards.log_dt + torch.tensor(2.0).log())
    torch.testing.assert_close(slow.backwards.log_dt, layer.backwards.log_dt + torch.tensor(2.0).log())


def test_a_model_follows_with_its_sample_rate(tmp_path):
    torch.manual_seed(0)
    config = ModelConfig(layer="s5", d_model=6, d_state=4)
    model = Classifier(config, 256, ["one", "two"], "mu_law", 16000).double()
    coarse = torch.randint(256, (2, 50))
    _, state = model(coarse.repeat_interleave(2, dim=1))
    slow = model.resampled(2.0)
    assert (model.sample_rate, slow.sample_rate) == (16000, 8000)
    _, slow_state = slow(coarse)
    torch.testing.assert_close(slow_state.layers[0], state.layers[0], rtol=1e-9, atol=1e-10)
    stepped, _ = slow.step(coarse[:, 0], slow.initial_state(2))
    torch.testing.assert_close(stepped, slow(coarse[:, :1])[0])
    assert map_state(torch.Tensor.detach, slow_state).count.tolist() == [50, 50]
    with pytest.raises(ValueError, match="tied to"):
        Classifier(ModelConfig(d_model=6), 15, ["one", "two"], "dna").resampled(2.0)
