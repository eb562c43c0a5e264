"""Signals are what they are said to be, and so are the answers."""

import math

import pytest
import torch

from ssm_seq.errors import InputError
from ssm_seq.tasks.signals import Signals, noise
from ssm_seq.tasks.task import numbered_generator


def draw(asked, length, count=3, **values):
    task = Signals(asked, **{"band": 0.05, "lag": 7, "samples": 11} | values)
    return task.draw("train", count, length, numbered_generator(0, "train", 0, "cpu"))


def test_noise_is_band_limited_and_of_unit_power():
    signal = noise(400, 300, 0.1, numbered_generator(0, "train", 1, "cpu"))[..., 0].double()
    assert signal.square().mean() == pytest.approx(1, abs=0.02)
    power = torch.fft.rfft(signal).abs().square().mean(0)
    assert power[31:].max() < 1e-9 * power[1:31].min() and power[0] < 1e-9 * power[1]
    assert power[1:31].max() < 1.5 * power[1:31].min()  # white


def test_a_delay_is_the_signal_a_lag_ago():
    signal, answers = draw("delay", 50)
    assert answers.shape == (3, 43, 1)
    for position in range(7, 50):
        assert torch.equal(answers[:, position - 7], signal[:, position - 7])


def test_integration_is_the_sum_so_far():
    signal, answers = draw("integration", 60)
    scale = 2 * math.pi * 0.05 / math.sqrt(3)
    for position in (0, 1, 33, 59):
        expected = scale * signal[:, : position + 1].double().sum(1)
        torch.testing.assert_close(answers[:, position].double(), expected, rtol=1e-4, atol=1e-5)


def test_reconstruction_asks_once_for_the_whole():
    signal, answers = draw("reconstruction", 101)
    assert answers.shape == (3, 1, 11)
    assert torch.equal(answers[:, 0], signal[:, ::10, 0])


@pytest.mark.parametrize(("asked", "length"), [("delay", 7), ("integration", 19), ("reconstruction", 10)])
def test_too_short(asked, length):
    with pytest.raises(InputError, match=f"length {length}: expected"):
        draw(asked, length)
