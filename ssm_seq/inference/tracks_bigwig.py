"""A value for every position of every record as a bigWig file, in memory that does not grow with them.

The format is that of Kent et al. 2010 ("BigWig and BigBed: enabling browsing of large distributed datasets",
supplementary tables 5 to 19). It is written here, and not by libBigWig (pyBigWig 0.3.29), for two reasons.
That one goes on after a failed write: where space ran out it crashed, or left a cut file that still opens.
And it compresses on one thread, which would take most of the time that a whole chromosome takes here
(docs/results/score_cpu.json); here blocks are compressed on several.
"""

import math
import struct
import zlib
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ssm_seq.files import whole_file

Values = Callable[[int, int, int], NDArray[np.float32]]
"""read(record, start, end): the values of positions start..end-1 of a record, (end - start,) float32."""

_ITEMS = 4096  # values of a block
_ZOOMED = 512  # summaries of a block
_BATCH = 256 * _ITEMS  # positions in memory at a time; a multiple of every block and of _FINEST
_FINEST, _COARSER, _LEVELS = 256, 4, 8  # positions of a summary on the finest zoom level, factor to the next
_FANOUT = 256
_FIXED_STEP = 3
_LEVEL = 1  # of zlib: random logarithms grow by 0.3 % over level 6
_HEADER, _ZOOM_HEADER, _SUMMARY = "<IHHQQQHHQQIQ", "<IIQQ", "<Qdddd"
_ZOOM = np.dtype([("where", "<u4", 3), ("count", "<u4"), ("range", "<f4", 2), ("sums", "<f4", 2)])


class _Totals(NamedTuple):
    """Of some values: how many, least, greatest, sum and sum of squares; each float64 (n,)."""

    count: NDArray
    least: NDArray
    greatest: NDArray
    sum: NDArray
    squares: NDArray


def write_bigwig(
    path: Path | str, records: Sequence[tuple[str, int]], read: Values, threads: int = 1
) -> None:
    """Write a bigWig of (name, length) records; it appears whole or not at all.

    Raises:
        OSError: the disk is full, among others.
    """
    by_name = sorted(range(len(records)), key=lambda record: records[record][0].encode())
    with whole_file(path) as partial, partial.open("wb") as file, ThreadPoolExecutor(threads) as pool:
        levels = _levels(max(length for _, length in records))
        file.write(bytes(struct.calcsize(_HEADER) + levels * struct.calcsize(_ZOOM_HEADER)))
        summary = file.tell()
        file.write(bytes(struct.calcsize(_SUMMARY)))
        names = file.tell()
        _write_names(file, [records[record] for record in by_name])
        data = file.tell()
        blocks, totals = [], [[] for _ in by_name]
        file.write(bytes(8))
        for place, record in enumerate(by_name):
            length = records[record][1]
            for start in range(0, length, _BATCH):
                values = np.ascontiguousarray(read(record, start, min(start + _BATCH, length)), "<f4")
                blocks += _append(file, pool, _sections(place, start, values))
                totals[place].append(_totals_of(values))
        _put(file, data, struct.pack("<Q", len(blocks)))
        index = _write_index(file, blocks, _ITEMS)
        finest = [_Totals(*map(np.concatenate, zip(*parts, strict=True))) for parts in totals]
        zooms = _write_zooms(file, pool, levels, finest, [records[record][1] for record in by_name])
        largest = max(24 + 4 * _ITEMS, _ZOOMED * _ZOOM.itemsize)
        head = struct.pack(_HEADER, 0x888FFC26, 4, levels, names, data, index, 0, 0, 0, summary, largest, 0)
        _put(file, 0, head + zooms)
        whole = _coarser(_Totals(*map(np.concatenate, zip(*finest, strict=True))), None)
        _put(file, summary, struct.pack(_SUMMARY, int(whole.count[0]), *(part[0] for part in whole[1:])))
        file.write(struct.pack("<I", 0x888FFC26))


def _levels(longest: int) -> int:
    """As many zoom levels as still make a record shorter."""
    levels = math.ceil(math.log(max(longest / _FINEST, 1), _COARSER))
    return min(max(levels, 1), _LEVELS)


def _sections(place: int, start: int, values: NDArray) -> Iterable[tuple[tuple[int, ...], bytes]]:
    """Blocks of values: their box (record, start, record, end) and bytes."""
    for first in range(0, len(values), _ITEMS):
        part = values[first : first + _ITEMS]
        begin, end = start + first, start + first + len(part)
        head = struct.pack("<IIIIIBBH", place, begin, end, 1, 1, _FIXED_STEP, 0, len(part))
        yield (place, begin, place, end), head + part.tobytes()


def _append(
    file: BinaryIO, pool: ThreadPoolExecutor, parts: Iterable[tuple[tuple[int, ...], bytes]]
) -> list[tuple[tuple[int, ...], int, int]]:
    """Compress blocks and write them; their boxes, offsets and sizes."""
    boxes, plain = zip(*parts, strict=True)
    written = []
    for box, packed in zip(boxes, pool.map(lambda block: zlib.compress(block, _LEVEL), plain), strict=True):
        written.append((box, file.tell(), len(packed)))
        file.write(packed)
    return written


def _totals_of(values: NDArray) -> _Totals:
    """Of each _FINEST values, the last ones perhaps fewer."""
    wide = values.astype(np.float64)
    starts = np.arange(0, len(wide), _FINEST)
    return _Totals(
        np.minimum(len(wide) - starts, _FINEST).astype(np.float64),
        np.minimum.reduceat(wide, starts),
        np.maximum.reduceat(wide, starts),
        np.add.reduceat(wide, starts),
        np.add.reduceat(wide**2, starts),
    )


def _coarser(totals: _Totals, factor: int | None) -> _Totals:
    """Each `factor` totals in one; all in one without a factor."""
    starts = np.arange(0, len(totals.count), factor or len(totals.count))
    sums = (np.add, np.minimum, np.maximum, np.add, np.add)
    return _Totals(*(add.reduceat(part, starts) for add, part in zip(sums, totals, strict=True)))


def _write_zooms(
    file: BinaryIO, pool: ThreadPoolExecutor, levels: int, finest: list[_Totals], lengths: list[int]
) -> bytes:
    """Write all zoom levels; their headers."""
    headers, reduction, level = b"", _FINEST, finest
    for _ in range(levels):
        data, blocks = file.tell(), []
        file.write(struct.pack("<I", sum(len(totals.count) for totals in level)))
        for place, totals in enumerate(level):
            blocks += _append(file, pool, _summaries(place, lengths[place], reduction, totals))
        headers += struct.pack(_ZOOM_HEADER, reduction, 0, data, _write_index(file, blocks, _ZOOMED))
        level, reduction = [_coarser(totals, _COARSER) for totals in level], reduction * _COARSER
    return headers


def _summaries(
    place: int, length: int, reduction: int, totals: _Totals
) -> Iterable[tuple[tuple[int, ...], bytes]]:
    """Blocks of summaries, as `_sections` gives those of values."""
    rows = np.empty(len(totals.count), _ZOOM)
    rows["where"][:, 0] = place
    rows["where"][:, 1] = np.arange(len(rows), dtype=np.int64) * reduction
    rows["where"][:, 2] = np.minimum(rows["where"][:, 1] + np.int64(reduction), length)
    rows["count"] = totals.count
    rows["range"] = np.stack([totals.least, totals.greatest], axis=1)
    rows["sums"] = np.stack([totals.sum, totals.squares], axis=1)
    for first in range(0, len(rows), _ZOOMED):
        part = rows[first : first + _ZOOMED]
        box = (place, int(part["where"][0, 1]), place, int(part["where"][-1, 2]))
        yield box, part.tobytes()


def _write_names(file: BinaryIO, records: list[tuple[str, int]]) -> None:
    """The B+ tree of names, sorted as bytes: a record's place among them is its id."""
    keys = [name.encode() for name, _ in records]
    width = max(map(len, keys))
    file.write(struct.pack("<IIIIQQ", 0x78CA8C91, _FANOUT, width, 8, len(keys), 0))
    leaves = [
        key.ljust(width, b"\0") + struct.pack("<II", place, length)
        for place, (key, (_, length)) in enumerate(zip(keys, records, strict=True))
    ]
    _write_tree(file, leaves, lambda node, offset: node[0][:width] + struct.pack("<Q", offset))


def _write_index(file: BinaryIO, blocks: list[tuple[tuple[int, ...], int, int]], items: int) -> int:
    """The R tree over blocks, which are in order; its offset."""
    offset = file.tell()
    first, last = blocks[0][0], blocks[-1][0]
    file.write(struct.pack("<IIQ", 0x2468ACE0, _FANOUT, len(blocks)))
    file.write(struct.pack("<IIIIQII", *first[:2], *last[2:], offset, items, 0))
    leaves = [struct.pack("<IIIIQQ", *box, place, size) for box, place, size in blocks]
    # Blocks are in order of record and place, so that the first and the last of a node bound it.
    _write_tree(file, leaves, lambda node, place: node[0][:8] + node[-1][8:16] + struct.pack("<Q", place))
    return offset


def _write_tree(file: BinaryIO, items: list[bytes], parent: Callable[[list[bytes], int], bytes]) -> None:
    """Nodes of at most _FANOUT items, the root first; parent(node, offset) is the item for a node."""
    levels = [items]
    while len(levels[-1]) > _FANOUT:
        # Only the number and the size of the items above count here; their offsets come below.
        levels.append([parent(node, 0) for node in _nodes(levels[-1])])
    offsets, position = [], file.tell()
    for level in reversed(levels):
        offsets.append([])
        for node in _nodes(level):
            offsets[-1].append(position)
            position += 4 + sum(map(len, node))
    offsets.reverse()
    for depth in range(1, len(levels)):
        below = zip(_nodes(levels[depth - 1]), offsets[depth - 1], strict=True)
        levels[depth] = [parent(node, offset) for node, offset in below]
    for depth in reversed(range(len(levels))):
        for node in _nodes(levels[depth]):
            file.write(struct.pack("<BBH", depth == 0, 0, len(node)) + b"".join(node))


def _nodes(items: list[bytes]) -> list[list[bytes]]:
    return [items[start : start + _FANOUT] for start in range(0, len(items), _FANOUT)]


def _put(file: BinaryIO, offset: int, data: bytes) -> None:
    """Write at an offset; the file's end stays where it was."""
    end = file.tell()
    file.seek(offset)
    file.write(data)
    file.seek(end)
