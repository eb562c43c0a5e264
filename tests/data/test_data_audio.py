"""Sound of any rate and channel count against one-shot resampling, and every kind of bad file."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.data.audio import read_audio
from ssm_seq.errors import InputError


def read(path, rate=8000):
    return np.concatenate(list(read_audio(path, rate)))


def tone(n, rate, channels=1):
    time = np.arange(n) / rate
    return np.stack([0.5 * np.sin(2 * np.pi * (300 + 100 * c) * time) for c in range(channels)], axis=1)


@settings(max_examples=25, deadline=None)
@given(
    n=st.integers(2000, 20_000),
    rate=st.sampled_from([8000, 11_025, 16_000, 22_050, 44_100, 48_000]),
    target=st.sampled_from([8000, 16_000]),
    channels=st.integers(1, 3),
    kind=st.sampled_from(
        [("wav", "PCM_16"), ("wav", "FLOAT"), ("wav", "PCM_U8"), ("flac", "PCM_16"), ("ogg", "VORBIS")]
    ),
)
def test_blocks_are_the_resampled_mean_of_the_channels(tmp_path_factory, n, rate, target, channels, kind):
    path = tmp_path_factory.mktemp("audio") / f"x.{kind[0]}"
    soundfile.write(path, tone(n, rate, channels), rate, subtype=kind[1])
    samples, _ = soundfile.read(path, dtype="float32", always_2d=True)
    expected = soxr.resample(samples.mean(axis=1), rate, target)
    got = read(path, target)
    assert got.dtype == np.float32 and len(got) == len(expected)
    np.testing.assert_allclose(got, expected, atol=1e-6)


def test_loudness_and_an_offset_are_kept(tmp_path):
    soundfile.write(tmp_path / "x.wav", np.full(4000, 0.125), 8000, subtype="FLOAT")
    assert (read(tmp_path / "x.wav") == np.float32(0.125)).all()


def test_the_content_counts_not_the_extension(tmp_path):
    soundfile.write(tmp_path / "x.flac", tone(3000, 8000), 8000)
    (tmp_path / "x.flac").rename(tmp_path / "x.wav")
    assert len(read(tmp_path / "x.wav")) == 3000


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "x.wav: the file is empty"),
        (b"just some text, nothing to hear\n" * 20, "x.wav: the content is not sound"),
        (b">a\nACGT\n", "x.wav: the content is not sound"),
        (b"RIFF\x00\x00", "x.wav: the content is not sound or is truncated"),
    ],
)
def test_files_that_are_no_sound(tmp_path, content, message):
    (tmp_path / "x.wav").write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(tmp_path / "x.wav")


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match="there is no such file"):
        read(tmp_path / "none.wav")


@pytest.mark.parametrize("kind", ["wav", "ogg"])
def test_no_samples(tmp_path, kind):
    soundfile.write(tmp_path / f"x.{kind}", np.zeros(0), 8000)
    with pytest.raises(InputError, match="has no samples"):
        read(tmp_path / f"x.{kind}")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("position", [0, 4999, 5000])
def test_a_sample_that_is_no_number_is_named(tmp_path, bad, position):
    samples = tone(9000, 8000, 2)
    samples[position, 1] = bad
    soundfile.write(tmp_path / "x.wav", samples, 8000, subtype="FLOAT")
    with pytest.raises(InputError, match=rf"x\.wav: sample {position} "):
        read(tmp_path / "x.wav")


@pytest.mark.parametrize("kind", ["wav", "flac", "ogg"])
def test_truncated_wherever_it_is_cut(tmp_path, kind):
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, tone(20_000, 16_000, 2), 16_000)
    data = path.read_bytes()
    assert len(read(path)) == 10_000
    for length in [len(data) - 4, *range(len(data) - 40, 0, -len(data) // 23)]:
        path.write_bytes(data[:length])
        with pytest.raises(InputError, match=rf"x\.{kind}: .*truncated"):
            read(path)


@pytest.mark.parametrize("kind, cut", [("wav", 40_044), ("flac", 9000)])
def test_truncation_names_both_numbers(tmp_path, kind, cut):
    path = tmp_path / f"x.{kind}"
    soundfile.write(path, np.random.default_rng(0).uniform(-1, 1, 40_000), 16_000)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(InputError, match=r"\d+ samples, where its header promises 40000$") as error:
        read(path)
    assert kind == "flac" or ": 20000 samples" in str(error.value)


def test_a_stream_with_an_open_length_is_read_to_its_end(tmp_path):
    path = tmp_path / "x.wav"
    soundfile.write(path, tone(5000, 8000), 8000)
    data = bytearray(path.read_bytes())
    at = data.index(b"data") + 4
    data[at : at + 4] = b"\xff\xff\xff\xff"
    path.write_bytes(data)
    assert len(read(path)) == 5000


_MEMORY = """
import resource, sys
from ssm_seq.data.audio import read_audio
list(read_audio(sys.argv[1], 8000))
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
total = sum(len(block) for block in read_audio(sys.argv[2], 8000))
print(total, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""


def test_memory_does_not_grow_with_the_file(tmp_path):
    for name, n in (("short", 10_000), ("long", 10_000_000)):
        soundfile.write(tmp_path / f"{name}.wav", np.zeros(n, np.int16), 16_000)
    command = [sys.executable, "-c", _MEMORY, tmp_path / "short.wav", tmp_path / "long.wav"]
    total, mebibytes = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    assert int(total) == 5_000_000 and float(mebibytes) < 8
