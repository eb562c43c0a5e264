"""Values kept on disk in any order, bedGraph lines and NPY files made of them; whole or not at all."""

import errno

import numpy as np
import pytest

from ssm_seq.inference import tracks
from ssm_seq.inference.tracks import Stored, write_bedgraph, write_npy


def test_stored_values_come_back_in_any_order(tmp_path):
    values = np.random.default_rng(0).normal(size=(100, 3)).astype(np.float32)
    with Stored(tmp_path / "a", 100, 3) as stored:
        for start in (60, 0, 30):
            stored.write(start, values[start : start + 30])
        stored.write(90, values[:-11:-1][::-1])
        np.testing.assert_array_equal(stored.read(0, 100), values)
    with Stored(tmp_path / "a", 100, 3) as again:
        np.testing.assert_array_equal(again.read(41, 58), values[41:58])


def test_a_working_file_that_was_cut_is_noticed(tmp_path):
    with Stored(tmp_path / "a", 100, 1) as stored:
        stored.write(0, np.zeros(50, np.float32))
        with pytest.raises(OSError, match="shorter than it was written"):
            stored.read(40, 60)


@pytest.mark.parametrize("lines", [1, 3, 1000])
def test_bedgraph_lines(tmp_path, monkeypatch, lines):
    monkeypatch.setattr(tracks, "_LINES", lines)
    values = [np.float32([-1.25, -1.25, -1.25, 0.1, 2e-7]), np.float32([7])]
    records = [("b", 5), ("a", 1)]
    write_bedgraph(tmp_path / "a.bedGraph", records, lambda record, start, end: values[record][start:end])
    expected = ["b\t0\t3\t-1.25", "b\t3\t4\t0.1", "b\t4\t5\t2e-07", "a\t0\t1\t7"]
    assert (tmp_path / "a.bedGraph").read_text().splitlines() == expected


def test_npy_of_one_and_of_the_mean_of_two(tmp_path, monkeypatch):
    monkeypatch.setattr(tracks, "_BLOCK", 10)
    first, second = np.random.default_rng(0).normal(size=(2, 50, 4)).astype(np.float32)
    with Stored(tmp_path / "a", 50, 4) as a, Stored(tmp_path / "b", 50, 4) as b:
        a.write(0, first)
        b.write(0, second)
        write_npy(tmp_path / "a.npy", [a])
        write_npy(tmp_path / "both.npy", [a, b])
    np.testing.assert_array_equal(np.load(tmp_path / "a.npy"), first)
    np.testing.assert_allclose(np.load(tmp_path / "both.npy"), (first + second) / 2, rtol=1e-6)


def test_an_interrupted_bedgraph_does_not_appear(tmp_path):
    def full(record, start, end):
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_bedgraph(tmp_path / "a.bedGraph", [("a", 5)], full)
    assert not list(tmp_path.iterdir())
