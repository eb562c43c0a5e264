"""BAM and CRAM files: opening them with every check, and their reads in the sequencer's orientation.

Filters mean the same for reads and for the consensus: reads with any of `exclude_flags` or below
`min_mapping_quality` are left out, and a base below `min_base_quality` is unknown.
"""

import hashlib
import os
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pysam

from ssm_seq.config import StoreConfig
from ssm_seq.data.fasta import read_fasta
from ssm_seq.errors import InputError

Reference = dict[str, bytes]

# The empty container that ends every file of CRAM 3 (CRAM specification, section 9).
_CRAM_END = bytes.fromhex("0f000000ffffffff0fe0454f4600000000010005bdd94f0001000606010001000100ee63014b")


def read_reference(path: Path | str | None) -> Reference:
    """The sequences of a reference FASTA by name, in upper case; none without a path."""
    return {name: b"".join(chunks).upper() for name, chunks in read_fasta(path)} if path else {}


@contextmanager
def reading(path: Path | str) -> Iterator[None]:
    """Turn what pysam raises in the block into one plain sentence."""
    try:
        yield
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: truncated, damaged, or neither BAM nor CRAM ({error})") from error


@contextmanager
def open_alignments(
    path: Path | str, config: StoreConfig, reference: Reference
) -> Iterator[pysam.AlignmentFile]:
    """Open a BAM or CRAM file, after a comparison of its header with the reference, if there is one.

    Raises:
        InputError: no such file, not an alignment file, truncated, CRAM without a reference, no index where
            one is needed, a contig that the reference hasn't or has otherwise.
    """
    with ExitStack() as stack:
        stack.callback(pysam.set_verbosity, pysam.set_verbosity(0))
        with reading(path):
            file = stack.enter_context(pysam.AlignmentFile(path, check_sq=False))
            if not (file.is_bam or file.is_cram):
                raise InputError(f"{path}: the content is text; expected BAM or CRAM")
            if (config.region or config.kind == "consensus") and not file.has_index():
                raise InputError(f"{path}: there is no index beside it; `samtools index {path}` makes one")
            _check_header(path, file, config, reference)
            if file.is_cram:
                _check_cram(path, reference)
                # htslib reads plain FASTA only and writes an index beside it: it gets a copy of its own.
                copy = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "reference.fa"
                with copy.open("wb") as out:
                    for name, letters in reference.items():
                        out.write(b">%b\n%b\n" % (name.encode(), letters))
                file = stack.enter_context(pysam.AlignmentFile(path, reference_filename=str(copy)))
        yield file


def find_region(path: Path | str, file: pysam.AlignmentFile, region: str) -> tuple[str, int, int]:
    """(contig, start, end) of `contig`, `contig:start` or `contig:start-end` (from 1, end included).

    The result counts from 0, end excluded. Raises InputError for an unknown contig or positions outside it.
    """
    contig, span = region, ""
    if region not in file.references:
        contig, _, span = region.rpartition(":")
    if contig not in file.references:
        known = ", ".join(file.references[:5])
        raise InputError(
            f"{path}: there is no contig for the region {region!r}; the first that it has: {known}"
        )
    length = file.get_reference_length(contig)
    first, _, last = span.replace(",", "").partition("-")
    if not (first or "1").isdecimal() or not (last or "1").isdecimal():
        raise InputError(f"{path}: the region {region!r} is not contig:start-end")
    start, end = int(first or 1) - 1, int(last or length)
    if not 0 <= start < end <= length:
        raise InputError(
            f"{path}: the region {region!r} is outside of {contig}, which has positions 1-{length}"
        )
    return contig, start, end


def skip_reason(read: pysam.AlignedSegment, config: StoreConfig) -> str | None:
    """Why a read is left out; None if it isn't."""
    if read.flag & config.exclude_flags:
        return "flags"
    if read.mapping_quality < config.min_mapping_quality:
        return "mapping quality"
    if not read.query_length or (config.min_base_quality and read.query_qualities is None):
        return "no bases or no base qualities"
    return None


def read_reads(
    path: Path | str, config: StoreConfig, reference: Reference, skipped: Counter[str]
) -> Iterator[tuple[str, list[bytes]]]:
    """Yield (name, [letters]) of the reads that pass, in the file's order; `skipped` counts others by reason.

    Reads of the reverse strand are turned back. With a region: reads that overlap it, whole. Mates are told
    apart by /1 and /2 after their name; a base below `min_base_quality` is N.

    Raises:
        InputError: what `open_alignments` raises, a region that isn't there, or no read is left.
    """
    kept = 0
    with open_alignments(path, config, reference) as file, reading(path):
        interval = find_region(path, file, config.region) if config.region else ()
        for read in file.fetch(*interval, until_eof=not interval):
            if reason := skip_reason(read, config):
                skipped[reason] += 1
                continue
            kept += 1
            letters = read.get_forward_sequence().encode()
            if b"=" in letters:
                raise InputError(f"{path}: read {read.query_name!r} has '=' for bases; expected letters")
            if config.min_base_quality:
                low = np.frombuffer(read.get_forward_qualities(), np.uint8) < config.min_base_quality
                letters = np.where(low, np.uint8(ord("N")), np.frombuffer(letters, np.uint8)).tobytes()
            mate = "/1" if read.is_read1 else "/2" if read.is_read2 else ""
            yield f"{read.query_name}{mate}", [letters]
    if not kept:
        raise no_reads(path, config, skipped)


def no_reads(path: Path | str, config: StoreConfig, skipped: Counter[str]) -> InputError:
    """The error for a region or file without reads that pass."""
    return InputError(
        f"{path}: no reads in {f'region {config.region}' if config.region else 'the file'} "
        f"pass the filters ({skipped.total()} were skipped)"
    )


def _check_header(
    path: Path | str, file: pysam.AlignmentFile, config: StoreConfig, reference: Reference
) -> None:
    for contig in file.header.to_dict().get("SQ", []) if reference else []:
        name, length = contig["SN"], contig["LN"]
        letters = reference.get(name)
        if letters is None:
            raise InputError(f"{path}: aligned to {name!r}, which is not in the reference {config.reference}")
        if len(letters) != length:
            raise InputError(
                f"{path}: aligned to {name!r} of length {length}, "
                f"but in the reference {config.reference} it has {len(letters)}"
            )
        if contig.get("M5", (digest := hashlib.md5(letters).hexdigest())) != digest:
            raise InputError(
                f"{path}: {name!r} of the reference {config.reference} is not the sequence it was aligned to "
                "(another MD5)"
            )


def _check_cram(path: Path | str, reference: Reference) -> None:
    if not reference:
        raise InputError(f"{path}: CRAM has only differences to its reference; set data.store.reference")
    with Path(path).open("rb") as data:
        major_version = data.read(5)[4]
        data.seek(-len(_CRAM_END), os.SEEK_END)
        if major_version == 3 and data.read() != _CRAM_END:
            raise InputError(f"{path}: the CRAM file is truncated (its end marker is missing)")
