"""FLAC's size of codes: silence, noise, and the same samples read back."""

import io

import numpy as np
import pytest
import soundfile

from ssm_seq.evaluation.flac import flac_bits


def test_silence_costs_next_to_nothing_and_noise_its_eight_bits():
    random = np.random.default_rng(0)
    windows = np.stack([np.full(4096, 128), random.integers(0, 256, 4096)]).astype(np.uint8)
    silence, noise = flac_bits(windows, 8000) / 4096
    assert silence < 0.05
    assert 8 <= noise < 8.1


def test_a_smooth_wave_costs_less_than_its_shuffled_samples():
    wave = (128 + 100 * np.sin(np.arange(4096) / 20)).astype(np.uint8)
    shuffled = np.random.default_rng(0).permutation(wave)
    smooth, rough = flac_bits(np.stack([wave, shuffled]), 8000)
    assert smooth < rough / 3


@pytest.mark.parametrize("length", [1, 15, 100, 5000])
def test_only_the_frames_count(length):
    codes = np.random.default_rng(0).integers(0, 256, (1, length)).astype(np.uint8)
    file = io.BytesIO()
    soundfile.write(file, (codes[0].astype(np.int16) - 128) * 256, 8000, format="FLAC", subtype="PCM_S8")
    assert (
        8 * length <= flac_bits(codes, 8000)[0] < 8 * len(file.getvalue()) - 8 * 38
    )  # less than all but STREAMINFO
    file.seek(0)
    assert ((soundfile.read(file, dtype="int16")[0] >> 8) + 128 == codes[0]).all()  # 8 bit are kept exactly
