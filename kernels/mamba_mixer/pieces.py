"""How a batch of sequences is cut, so that what a Mamba block makes of it exists for one piece at a time."""

from collections.abc import Iterator
from itertools import pairwise

# Positions times channels of a piece: large ones fill a GPU and need few launches, small ones little memory.
FORWARD = 3 * 2**26  # 1.9 GiB in bfloat16, free again before a backward pass
BACKWARD = 2**26  # 1.1 GiB
STEP = 512  # positions; a piece that another one follows is a multiple of it, and it of the scan's interval
PROJECTED = 2**27  # bytes: u and z are kept for the backward pass up to here, beyond made twice
KEPT = 2**31  # bytes: the states of a scan are kept for the backward pass up to here, beyond made twice


def forward_pieces(
    batch: int, length: int, channels: int, keep: bool, keeps: bool
) -> Iterator[tuple[slice, slice]]:
    """Rows of the batch and the positions in them, row after row.

    There are several rows only where time is not cut, so that every piece is contiguous in memory.
    keep: whether there will be a backward pass. keeps: whether all states are kept for it; where that is one
    a piece, the pieces are the backward pass's.
    """
    segment = BACKWARD if keep and not keeps else FORWARD
    return _pieces(batch, length, channels, segment)


def backward_pieces(rows: slice, times: slice, channels: int) -> Iterator[tuple[slice, slice, slice, slice]]:
    """A forward piece cut further: rows and positions in the batch, then both within that piece."""
    for row, time in _pieces(rows.stop - rows.start, times.stop - times.start, channels, BACKWARD):
        yield _shifted(row, rows.start), _shifted(time, times.start), row, time


def backward_parts(length: int, channels: int) -> int:
    """How many pieces a row of the batch is cut into in the backward pass."""
    span = _span_of_time(length, channels, BACKWARD)
    return (length + span - 1) // span


def _pieces(batch: int, length: int, channels: int, segment: int) -> Iterator[tuple[slice, slice]]:
    span = _span_of_time(length, channels, segment)
    rows = 1 if span < length else min(max(segment // (length * channels), 1), batch)
    groups = -(-batch // rows)
    edges = [batch * group // groups for group in range(groups + 1)]
    for first, last in pairwise(edges):
        for start in range(0, length, span):
            yield slice(first, last), slice(start, min(start + span, length))


def _shifted(part: slice, by: int) -> slice:
    return slice(part.start + by, part.stop + by)


def _span_of_time(length: int, channels: int, segment: int) -> int:
    """Positions of one piece in time: all of them, or about equal parts."""
    most = max(segment // (channels * STEP), 1) * STEP
    if length <= most:
        return length
    parts = -(-length // most)
    return -(-length // (parts * STEP)) * STEP
