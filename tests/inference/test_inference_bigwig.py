"""bigWig files as another library reads them; on a full disk there is none."""

import errno
from pathlib import Path

import numpy as np
import pyBigWig
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.inference import tracks_bigwig
from ssm_seq.inference.tracks_bigwig import write_bigwig

LONG = 3 * 256 * 4096 + 77  # four batches


def values_of(records, seed=0):
    generator = np.random.default_rng(seed)
    return [generator.normal(-1, 2, length).astype(np.float32) for _, length in records]


def write(path, records, values, **options):
    write_bigwig(path, records, lambda record, start, end: values[record][start:end], **options)
    return pyBigWig.open(str(path))


@settings(max_examples=30, deadline=None, derandomize=True)
@given(lengths=st.lists(st.sampled_from([1, 2, 255, 256, 257, 4096, 4097, 20_000]), min_size=1, max_size=5))
def test_every_value_comes_back(tmp_path_factory, lengths):
    # Against the alphabet: ids go by name, records by their order.
    records = [(f"r{9 - place}", length) for place, length in enumerate(lengths)]
    values = values_of(records)
    file = write(tmp_path_factory.mktemp("track") / "a.bw", records, values)
    assert file.isBigWig() and file.chroms() == dict(records)
    for (name, length), expected in zip(records, values, strict=True):
        np.testing.assert_array_equal(file.values(name, 0, length, numpy=True).astype(np.float32), expected)
    every = np.concatenate(values).astype(np.float64)
    header = file.header()
    assert header["nBasesCovered"] == len(every)
    assert header["sumData"] == pytest.approx(int(every.sum()), abs=1)
    assert (header["minVal"], header["maxVal"]) == (int(every.min()), int(every.max()))


@pytest.mark.parametrize("threads", [1, 2])
def test_a_long_record_and_its_zoom_levels(tmp_path, threads):
    records = [("long", LONG), ("b", 5000)]
    values = values_of(records)
    file = write(tmp_path / "a.bw", records, values, threads=threads)
    places = [(0, 10), (1_048_570, 1_048_590), (LONG - 20, LONG), (123_456, 234_567)]
    for start, end in places:
        np.testing.assert_array_equal(
            file.values("long", start, end, numpy=True).astype(np.float32), values[0][start:end]
        )
    assert file.header()["nLevels"] == 7
    part = values[0][: 3 * 256 * 4096].astype(np.float64)
    for bins in (3, 48, 768):  # from coarse levels to fine ones
        rows = part.reshape(bins, -1)
        for kind, expected in (("mean", rows.mean(1)), ("min", rows.min(1)), ("max", rows.max(1))):
            found = file.stats("long", 0, len(part), type=kind, nBins=bins)
            np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
    assert file.stats("long", 0, LONG, type="std")[0] == pytest.approx(values[0].std(), rel=1e-3)


def test_many_records_make_deeper_trees(tmp_path, monkeypatch):
    monkeypatch.setattr(tracks_bigwig, "_FANOUT", 4)
    records = [(f"read{number}", 1 + number % 7) for number in range(1000)]
    values = values_of(records)
    file = write(tmp_path / "a.bw", records, values)
    assert file.chroms() == dict(records)
    for number, (name, length) in enumerate(records):
        np.testing.assert_array_equal(np.float32(file.values(name, 0, length)), values[number])


def test_the_same_values_make_the_same_bytes(tmp_path):
    records = [("a", 9000)]
    for name, threads in (("one", 1), ("two", 3)):
        write(tmp_path / name, records, values_of(records), threads=threads)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_an_interrupted_write_leaves_what_was_there(tmp_path):
    def stopped(record, start, end):
        if start:
            raise KeyboardInterrupt
        return np.zeros(end - start, np.float32)

    (tmp_path / "a.bw").write_bytes(b"an older one")
    with pytest.raises(KeyboardInterrupt):
        write_bigwig(tmp_path / "a.bw", [("a", LONG)], stopped)
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [b"an older one"]


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(self, *arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    records = [("a", LONG)]
    values = values_of(records)

    def read(record, start, end):
        if start:  # the first batch is on disk
            full(None)
        return values[0][start:end]

    with pytest.raises(OSError, match="No space left"):
        write_bigwig(tmp_path / "a.bw", records, read)
    monkeypatch.setattr(Path, "open", lambda self, mode: open("/dev/full", mode))  # noqa: PTH123, SIM115
    with pytest.raises(OSError, match="No space left"):
        write_bigwig(tmp_path / "a.bw", records, lambda record, start, end: values[0][start:end])
    assert not list(tmp_path.iterdir())
