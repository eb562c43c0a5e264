"""The consensus of aligned reads: at each reference position the base that most reads have."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pysam
from numpy.typing import NDArray

from ssm_seq.config import StoreConfig
from ssm_seq.data.alignments import (
    Reference,
    find_region,
    no_reads,
    open_alignments,
    reading,
    skip_reason,
)
from ssm_seq.data.alphabet import Bytes

_BLOCK = 50_000
_SHOWN = 10
_ALONG_REFERENCE = (pysam.CMATCH, pysam.CDEL, pysam.CREF_SKIP, pysam.CEQUAL, pysam.CDIFF)
_BASES = np.frombuffer(b"ACGTN", np.uint8)


@dataclass
class Comparison:
    """A consensus beside its reference. Positions count from 1 on the contig; no N is compared."""

    record: str
    length: int = 0
    unknown: int = 0
    bases_seen: int = 0
    compared: int = 0
    mismatches: int = 0
    first_mismatches: list[dict[str, int | str]] = field(default_factory=list)

    def add(self, start: int, called: Bytes, depth: NDArray[np.int64], reference: bytes) -> None:
        """Count a block that starts at position `start` (from 0); `reference` is empty if there is none."""
        self.length += len(called)
        self.unknown += int((called == ord("N")).sum())
        self.bases_seen += int(depth.sum())
        if not reference:
            return
        expected = np.frombuffer(reference[start : start + len(called)], np.uint8)
        comparable = (called != ord("N")) & np.isin(expected, _BASES[:4])
        differs = np.flatnonzero(comparable & (called != expected))
        self.compared += int(comparable.sum())
        self.mismatches += len(differs)
        for place in differs[: _SHOWN - len(self.first_mismatches)].tolist():
            bases = {"reference": chr(expected[place]), "consensus": chr(called[place])}
            self.first_mismatches.append({"position": start + place + 1, **bases})

    def summary(self) -> dict[str, Any]:
        """Figures for a JSON file; `identical` is a share of the compared positions."""
        identical = (self.compared - self.mismatches) / self.compared if self.compared else None
        return vars(self) | {"mean_depth": self.bases_seen / self.length, "identical": identical}


def majority(counts: NDArray[np.int64], min_depth: int) -> Bytes:
    """Call bases from counts (5, n) of A, C, G, T and deleted: uint8 letters (n,).

    N where fewer than `min_depth` reads have a base, where two letters tie, and where most have it deleted.
    """
    two = np.sort(counts, axis=0)[-2:]
    called = np.where((counts[:4].sum(0) >= min_depth) & (two[1] > two[0]), counts.argmax(0), 4)
    return _BASES[called]


def read_consensus(
    path: Path | str,
    config: StoreConfig,
    reference: Reference,
    skipped: Counter[str],
    comparisons: list[Comparison],
) -> Iterator[tuple[str, Iterator[bytes]]]:
    """Yield (name, chunks) of the region's consensus, or of every contig's; the name is the region or contig.

    It has the coordinates of the reference: insertions are left out, deletions are N. A comparison
    for each record is appended to `comparisons`; `skipped` counts the reads that were left out, by reason.

    Raises:
        InputError: what `open_alignments` raises, a region that isn't there, or no read is left.
    """
    with open_alignments(path, config, reference) as file:
        if config.region:
            intervals = {config.region: find_region(path, file, config.region)}
        else:
            lengths = zip(file.references, file.lengths, strict=True)
            intervals = {name: (name, 0, length) for name, length in lengths}
        for name, (contig, start, end) in intervals.items():
            comparison = Comparison(name)
            comparisons.append(comparison)
            expected = reference.get(contig, b"")
            yield name, _blocks(path, file, config, (contig, start, end), expected, comparison, skipped)
        if not any(comparison.bases_seen for comparison in comparisons[-len(intervals) :]):
            raise no_reads(path, config, skipped)


def _blocks(
    path: Path | str,
    file: pysam.AlignmentFile,
    config: StoreConfig,
    interval: tuple[str, int, int],
    expected: bytes,
    comparison: Comparison,
    skipped: Counter[str],
) -> Iterator[bytes]:
    contig, first, last = interval
    start, deleted = first, np.zeros(0, np.int64)

    def passes(read: pysam.AlignedSegment) -> bool:
        if reason := skip_reason(read, config):
            # A read that reaches back into the block before was counted there.
            skipped[reason] += start == first or read.reference_start >= start
            return False
        place = read.reference_start - start
        for operation, length in read.cigartuples or ():
            if operation == pysam.CDEL:
                deleted[max(place, 0) : max(place + length, 0)] += 1
            if operation in _ALONG_REFERENCE:
                place += length
        return True

    for start in range(first, last, _BLOCK):
        end = min(start + _BLOCK, last)
        deleted = np.zeros(end - start, np.int64)
        with reading(path):
            bases = file.count_coverage(
                contig, start, end, quality_threshold=config.min_base_quality, read_callback=passes
            )
        counts = np.stack([*(np.frombuffer(base, np.int64) for base in bases), deleted])
        called = majority(counts, config.min_depth)
        comparison.add(start, called, counts[:4].sum(0), expected)
        yield called.tobytes()
