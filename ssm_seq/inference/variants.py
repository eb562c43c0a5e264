"""What a variant does to the likelihood of the sequence around it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ssm_seq.data.alphabet import DNA
from ssm_seq.data.variants import Allele, trimmed
from ssm_seq.errors import InputError
from ssm_seq.inference.prefix import Edit, EditScore, Prefix
from ssm_seq.inference.replay import Replay
from ssm_seq.inference.stream import Ids
from ssm_seq.models import LanguageModel


@dataclass(frozen=True)
class VariantScore:
    """Log-likelihood of the window with the alternative allele minus that with the reference, in nats.

    forward, reverse: of the two strands; start, end: the window, positions start..end-1 of the contig from 0.
    """

    allele: Allele
    start: int
    end: int
    forward: EditScore
    reverse: EditScore

    @property
    def nats(self) -> float:
        """The mean of both strands."""
        return (self.forward.nats + self.reverse.nats) / 2

    @property
    def bound(self) -> float:
        """Estimate of the largest error of `nats`."""
        return (self.forward.bound + self.reverse.bound) / 2


def window_starts(length: int, window: int) -> NDArray[np.int64]:
    """Starts of the windows over a contig: half a window apart, the last one ends with the contig."""
    last = max(length - window, 0)
    return np.append(np.arange(0, last, max(window // 2, 1)), last)


def score_variants(
    model: LanguageModel,
    letters: bytes,
    alleles: Sequence[Allele],
    window: int,
    tolerance: float = 1e-3,
    spacing: int | None = None,
) -> Iterator[tuple[list[VariantScore], int]]:
    """Score the alleles of one contig: for each window that has some, their scores and the positions read.

    The contig is cut into windows that overlap by half, and each allele belongs to the one whose middle is
    nearest: it has at least a quarter of a window on either side, unless the contig ends. All alleles of a
    window share one reading of the reference on each strand. An insertion or deletion changes the number of
    positions that are summed, as it does in the sequence.

    Args:
        letters: the contig, upper case. alleles: with reference alleles that agree with it, none skipped,
            none longer than a quarter of the window.
        tolerance, spacing: as `Prefix` has them.

    Raises:
        InputError: the model isn't a language model of DNA, or gives what is no number.
    """
    if not isinstance(model, LanguageModel) or model.alphabet != DNA.name:
        raise InputError("expected a language model of DNA: no other one gives likelihoods of variants")
    ids, starts = DNA.encode(letters), window_starts(len(letters), window)
    middles = np.array([2 * allele.position + len(allele.reference) for allele in alleles]) // 2 - 1
    # An allele goes to the window at the nearest middle: it changes half-way between two of them.
    between = (starts[1:] + starts[:-1] + min(window, len(letters))) // 2
    chosen = np.searchsorted(between, middles, side="right") if len(alleles) else middles
    replays: dict[tuple[int, int], Replay] = {}
    for number in np.unique(chosen):
        start = int(starts[number])
        end = min(start + window, len(ids))
        own = [alleles[i] for i in np.flatnonzero(chosen == number)]
        yield _score_window(model, ids[start:end], start, own, tolerance, spacing, replays)


def _score_window(
    model: LanguageModel,
    ids: Ids,
    start: int,
    alleles: Sequence[Allele],
    tolerance: float,
    spacing: int | None,
    replays: dict[tuple[int, int], Replay],
) -> tuple[list[VariantScore], int]:
    forward, reverse, length = [], [], len(ids)
    for allele in alleles:
        first, end, bases = trimmed(allele)
        new = DNA.encode(bases.encode())
        forward.append(Edit(first - start, end - start, new))
        reverse.append(Edit(length - (end - start), length - (first - start), _other_strand(new)))
    strands, read = [], 0
    for strand, edits in ((ids, forward), (_other_strand(ids), reverse)):
        prefix = Prefix(model, strand, spacing, replays=replays)
        strands.append(prefix.score(edits, tolerance))
        read += prefix.computed + sum(score.computed for score in strands[-1])
    scores = [
        VariantScore(allele, start, start + length, *pair)
        for allele, *pair in zip(alleles, *strands, strict=True)
    ]
    for score in scores:
        if not np.isfinite(score.nats):
            where = f"{score.allele.contig}:{score.allele.position}"
            raise InputError(f"the model's score of {where} is no number; its weights may be damaged")
    return scores, read


def _other_strand(ids: Ids) -> Ids:
    return DNA.complement(ids)[::-1].copy()
