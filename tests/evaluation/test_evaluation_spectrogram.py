"""Pooled spectra tell pitch and loudness."""

import numpy as np
import pytest

from ssm_seq.evaluation.spectrogram import log_mel_statistics

RATE = 8000


def tone(hertz: float, length: int = 4096, loudness: float = 0.5) -> np.ndarray:
    return (loudness * np.sin(2 * np.pi * hertz * np.arange(length) / RATE)).astype(np.float32)


def test_a_tone_is_loudest_in_its_band():
    low, high = log_mel_statistics(np.stack([tone(300), tone(3000)]), RATE)
    assert low[:32].argmax() < 8
    assert high[:32].argmax() > 24


def test_twice_as_loud_is_four_times_the_power():
    quiet, loud = log_mel_statistics(np.stack([tone(1000, loudness=0.25), tone(1000, loudness=0.5)]), RATE)
    band = loud[:32].argmax()
    assert loud[band] - quiet[band] == pytest.approx(np.log(4), rel=1e-3)


def test_deviation_tells_a_steady_sound_from_a_pulsing_one():
    steady, pulsing = tone(1000), tone(1000) * (np.arange(4096) // 1024 % 2)
    features = log_mel_statistics(np.stack([steady, pulsing]).astype(np.float32), RATE)
    band = features[0, :32].argmax()
    assert features[0, 32 + band] < 0.1 < 1 < features[1, 32 + band]


@pytest.mark.filterwarnings("ignore:At least one mel filterbank has all zero values")
@pytest.mark.parametrize("length", [1, 7, 64, 255, 256])
def test_short_windows_and_silence_are_finite(length):
    features = log_mel_statistics(np.zeros((2, length), np.float32), RATE)
    assert features.shape == (2, 64)
    assert np.isfinite(features).all()
