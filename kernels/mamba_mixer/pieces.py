"""How a batch of sequences is cut, so that what a Mamba block makes of it exists for one piece at a time."""

from collections.abc import Iterator
from itertools import pairwise

SEGMENT = 2**26  # positions times channels of a piece: 128 MiB in bfloat16, work enough for every GPU
STEP = (
    512  # a piece that another one follows in time is a multiple of this long, as are the kernels' intervals
)
KEPT = 2**29  # with more positions times channels than this the states of the scan are computed twice


def pieces(batch: int, length: int, channels: int) -> Iterator[tuple[slice, list[slice]]]:
    """Rows of the batch, and the parts of time to walk through for them.

    There are several rows only where time is not cut, so that every piece is contiguous in memory.
    """
    span = span_of_time(length, channels)
    rows = 1 if span < length else min(max(SEGMENT // (length * channels), 1), batch)
    times = [slice(start, min(start + span, length)) for start in range(0, length, span)]
    groups = -(-batch // rows)
    edges = [batch * group // groups for group in range(groups + 1)]
    for first, last in pairwise(edges):
        yield slice(first, last), times


def span_of_time(length: int, channels: int) -> int:
    """Positions of one piece in time: all of them, or about equal parts."""
    most = max(SEGMENT // (channels * STEP), 1) * STEP
    if length <= most:
        return length
    parts = -(-length // most)
    return -(-length // (parts * STEP)) * STEP


def keeps_states(batch: int, length: int, channels: int) -> bool:
    """Whether the scan's states are kept for the backward pass, or made again from each piece's first one."""
    return batch * length * channels <= KEPT
