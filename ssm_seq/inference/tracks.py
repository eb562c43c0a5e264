"""Values of every position, kept on disk while they come and written as tracks: bigWig, bedGraph, NPY."""

import os
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from ssm_seq.files import whole_file
from ssm_seq.inference.tracks_bigwig import Values

_LINES = 1 << 16
_BLOCK = 1 << 22  # values copied at a time


class Stored:
    """float32 values (length, columns) in a plain file, written and read in any order. A file there is kept.

    Plain writes, not a memory map: on a full disk they raise OSError, where a map kills the process.
    """

    def __init__(self, path: Path, length: int, columns: int) -> None:
        self.length, self.columns = length, columns
        self._row = 4 * columns
        self._file = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._file)

    def write(self, start: int, values: NDArray[np.float32]) -> None:
        """values (n,) or (n, columns) of positions from `start` on."""
        data = memoryview(np.ascontiguousarray(values, "<f4")).cast("B")
        written = 0
        while written < len(data):  # a call writes 2 GiB at most
            written += os.pwrite(self._file, data[written:], start * self._row + written)

    def read(self, start: int, end: int) -> NDArray[np.float32]:
        """Positions start..end-1: (end - start, columns)."""
        data = bytearray((end - start) * self._row)
        view, got = memoryview(data), 0
        while got < len(data):
            got += (count := os.preadv(self._file, [view[got:]], start * self._row + got))
            if not count:
                raise OSError("a working file of the scorer is shorter than it was written")
        return np.frombuffer(data, "<f4").reshape(-1, self.columns)


def write_bedgraph(path: Path | str, records: Sequence[tuple[str, int]], read: Values) -> None:
    """Write lines (name, start, end, value) for all positions of (name, length) records, whole or not at all.

    Positions count from 0, the end is exclusive; values have 6 significant digits; neighbours that are equal
    in them share a line.
    """
    with whole_file(path) as partial, partial.open("w") as file:
        for record, (name, length) in enumerate(records):
            begun, shown = 0, ""
            for start in range(0, length, _LINES):
                lines = []
                for place, value in enumerate(
                    read(record, start, min(start + _LINES, length)).tolist(), start
                ):
                    text = f"{value:.6g}"
                    if text != shown:
                        if place:
                            lines.append(f"{name}\t{begun}\t{place}\t{shown}\n")
                        begun, shown = place, text
                file.writelines(lines)
            file.write(f"{name}\t{begun}\t{length}\t{shown}\n")


def write_npy(path: Path | str, stored: Sequence[Stored]) -> None:
    """Write the mean of stored values as .npy, (length, columns) float32, whole or not at all."""
    first = stored[0]
    block = max(1, _BLOCK // first.columns)
    head = {"descr": "<f4", "fortran_order": False, "shape": (first.length, first.columns)}
    with whole_file(path) as partial, partial.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, head)
        for start in range(0, first.length, block):
            file.write(mean([values.read(start, min(start + block, first.length)) for values in stored]).data)


def mean(values: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Of one array or two."""
    return values[0] if len(values) == 1 else (values[0] + values[1]) / np.float32(2)
