"""Variant calls: VCF files (plain, bgzip, gzip; BCF too), one alternative allele at a time.

Substitutions, short insertions and deletions are given with their bases. What has no bases of its own
(symbolic alleles, breakends, `*`) is listed with the reason. Positions count from 1, as in VCF.
"""

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from tempfile import NamedTemporaryFile

import pysam

from ssm_seq.data.fasta import blocks, check_bgzip, read_fasta
from ssm_seq.errors import InputError

LONGEST = 1000
"""Bases of an allele that is still called short."""

_BASES = frozenset("ACGTN")
_SHOWN = 20


@dataclass(frozen=True)
class Allele:
    """One alternative allele of record number `record` (from 1), upper case. position: of the first base of
    `reference`, from 1. name: the record's ID or None. skipped: why it has no score; empty if it has one."""

    record: int
    contig: str
    position: int
    name: str | None
    reference: str
    alternative: str
    skipped: str = ""


def read_variants(path: Path | str, longest: int = LONGEST) -> tuple[list[Allele], dict[str, int | None]]:
    """All alternative alleles in the file's order, and the contigs of the header with their lengths.

    Raises:
        InputError: not a VCF file, truncated or damaged (with the number of the record), or a position below
            1 or a reference allele that isn't bases.
    """
    alleles = []
    with _open(path) as file:
        contigs = {name: contig.length for name, contig in file.header.contigs.items()}
        for number, record in enumerate(_records(path, file), 1):
            reference = record.ref.upper()
            where = f"{path}: record {number}, {record.chrom}:{record.pos}"
            if record.pos < 1:
                raise InputError(f"{where}: expected a position from 1 on")
            if not set(reference) <= _BASES:
                raise InputError(
                    f"{where}: the reference allele is {shortened(record.ref)}, expected bases ACGTN"
                )
            for alternative in record.alts or (".",):
                letters = alternative if alternative.startswith("<") else alternative.upper()
                reason = _reason(reference, letters, longest)
                alleles.append(
                    Allele(number, record.chrom, record.pos, record.id, reference, letters, reason)
                )
    return alleles, contigs


def check_reference(
    alleles: Iterable[Allele], contigs: dict[str, int | None], path: Path | str, reference: Path | str
) -> dict[str, int]:
    """Compare every reference allele with the FASTA; ambiguity codes there agree with anything.

    alleles, contigs: what `read_variants` gave of `path`.

    Returns:
        The length of each contig of the FASTA.

    Raises:
        InputError: a contig that the FASTA hasn't or that is longer or shorter there, or an allele that the
            FASTA has otherwise: the first in its order, with both.
    """
    by_contig: dict[str, list[Allele]] = {}
    for allele in alleles:
        by_contig.setdefault(allele.contig, []).append(allele)
    lengths = {}
    for name, chunks in read_fasta(reference):
        if name not in by_contig:
            lengths[name] = sum(map(len, chunks))
            continue
        letters = _letters(chunks)
        lengths[name] = len(letters)
        if (declared := contigs.get(name)) and declared != len(letters):
            raise InputError(
                f"{path}: contig {name} has {declared} bases in the header, {len(letters)} in {reference}; "
                "expected the same assembly"
            )
        for allele in by_contig[name]:
            _check(allele, letters, path, reference)
    for name, missing in by_contig.items():
        if name not in lengths:
            near = get_close_matches(name, lengths, n=1, cutoff=0.0)
            raise InputError(
                f"{path}: record {missing[0].record} is on contig {name}, which {reference} hasn't; "
                f"the nearest name there is {near[0]}"
            )
    return lengths


def read_contigs(reference: Path | str, wanted: Iterable[str]) -> Iterator[tuple[str, bytes]]:
    """(name, letters in upper case) of the wanted contigs, one at a time, in the FASTA's order."""
    wanted = set(wanted)
    for name, chunks in read_fasta(reference):
        if name in wanted:
            yield name, _letters(chunks)


def trimmed(allele: Allele) -> tuple[int, int, str]:
    """(start, end, bases): positions start..end-1, from 0, become `bases`; what both alleles share at their
    ends is left out."""
    reference, alternative = allele.reference, allele.alternative
    same = min(len(reference), len(alternative))
    tail = next((i for i in range(same) if reference[-1 - i] != alternative[-1 - i]), same)
    same -= tail
    head = next((i for i in range(same) if reference[i] != alternative[i]), same)
    start, end = allele.position - 1 + head, allele.position - 1 + len(reference) - tail
    return start, end, alternative[head : len(alternative) - tail]


@contextmanager
def _open(path: Path | str) -> Iterator[pysam.VariantFile]:
    with ExitStack() as stack:
        stack.callback(pysam.set_verbosity, pysam.set_verbosity(0))
        source = str(path)
        try:
            with Path(path).open("rb") as raw:
                if not check_bgzip(path, raw) and raw.read(2) == b"\x1f\x8b":
                    # htslib can't go back in plain gzip, which it does for the header.
                    copy = stack.enter_context(NamedTemporaryFile(suffix=".vcf"))
                    copy.writelines(blocks(path))
                    copy.flush()
                    source = copy.name
            file = stack.enter_context(pysam.VariantFile(source))
        except FileNotFoundError:
            raise InputError(f"{path}: there is no such file") from None
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: not a VCF file with a whole header") from error
        yield file


def _records(path: Path | str, file: pysam.VariantFile) -> Iterator[pysam.VariantRecord]:
    records, number = iter(file), 0
    while True:
        number += 1
        try:
            record = next(records, None)
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: record {number} is truncated or damaged; expected VCF") from error
        if record is None:
            return
        yield record


def _reason(reference: str, alternative: str, longest: int) -> str:
    if alternative == ".":
        return "no alternative allele"
    if alternative == "*":
        return "deleted by another variant (*)"
    if alternative.startswith("<"):
        return "symbolic allele"
    if "[" in alternative or "]" in alternative or "." in alternative:
        return "breakend"
    if not set(alternative) <= _BASES:
        return "alternative allele has letters other than ACGTN"
    if max(len(reference), len(alternative)) > longest:
        return f"longer than {longest} bases"
    if alternative == reference:
        return "alternative allele is the reference allele"
    return ""


def _check(allele: Allele, letters: bytes, path: Path | str, reference: Path | str) -> None:
    start = allele.position - 1
    expected = letters[start : start + len(allele.reference)].decode()
    if len(expected) < len(allele.reference):
        raise InputError(
            f"{path}: record {allele.record}, {allele.contig}:{allele.position}: the reference allele "
            f"{shortened(allele.reference)} reaches past the end of the contig, {len(letters)} in {reference}"
        )
    if any(a != b and b in _BASES for a, b in zip(allele.reference, expected, strict=True)):
        raise InputError(
            f"{path}: record {allele.record}, {allele.contig}:{allele.position}: expected the reference "
            f"allele {shortened(expected)}, as {reference} has it; found {shortened(allele.reference)}"
        )


def _letters(chunks: Iterable[bytes]) -> bytes:
    return b"".join(chunks).upper().replace(b"U", b"T")


def shortened(bases: str) -> str:
    """An allele for the reader's eye: its first bases and their number where there are many."""
    return bases if len(bases) <= _SHOWN else f"{bases[:_SHOWN]}... ({len(bases)} bases)"
