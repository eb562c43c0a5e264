"""Variant calls and a reference -> what a language model makes of each alternative allele."""

import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path

import pysam

from ssm_seq import __version__
from ssm_seq.commands.device import choose_device
from ssm_seq.config import compose, expect_at_least
from ssm_seq.data.variants import LONGEST, Allele, check_reference, read_contigs, read_variants, shortened
from ssm_seq.errors import InputError
from ssm_seq.files import whole_directory, write_json
from ssm_seq.inference.progress import progress_bar
from ssm_seq.inference.variants import VariantScore, score_variants
from ssm_seq.models import LanguageModel, load_model

INFO = [
    ("LLR", 1, "Float", "Log-likelihood of the window's sequence with the alternative allele minus that with "
     "the reference allele, in nats, mean of both strands"),
    ("LLR_FWD", 1, "Float", "LLR of the forward strand"),
    ("LLR_REV", 1, "Float", "LLR of the reverse strand"),
    ("LLR_ERR", 1, "Float", "Estimate of the largest error of LLR, in nats, by leaving the window early"),
    ("LLR_WINDOW", 2, "Integer", "First and last position of the window, from 1"),
]  # fmt: skip
"""ID, Number, Type and Description of each INFO field."""

COLUMNS = ["contig", "position", "id", "ref", "alt", "llr", "llr_forward", "llr_reverse", "llr_error",
           "window_start", "window_end", "positions_read"]  # fmt: skip


def run(options: Namespace) -> None:
    """Write variants.vcf.gz with its index, variants.tsv, skipped.tsv and variants.json into a folder.

    Raises:
        InputError: bad calls, a reference that doesn't fit them, or a model that gives no likelihoods.
    """
    if not (options.variants and options.reference):
        raise InputError("--variants and --reference go together: the calls, and the FASTA they refer to")
    if unused := [name for name in ("input", "tracks", "record") if getattr(options, name)]:
        raise InputError(f"--{unused[0]} is not for calls; leave it out with --variants")
    config = compose(options.overrides, options.config_dir)
    expect_at_least(config, {"variants.window": 64, "variants.tolerance": 0})
    model, wanted = load_model(options.model, choose_device(config.device)), config.variants
    if not isinstance(model, LanguageModel) or model.alphabet != "dna":
        raise InputError(f"{options.model}: expected a language model of DNA")
    alleles, contigs = read_variants(options.variants, min(LONGEST, wanted.window // 4))
    lengths = check_reference(alleles, contigs, options.variants, options.reference)
    with whole_directory(options.out, "variants.json") as folder:
        start = time.perf_counter()
        scores, read = score_all(model, alleles, options.reference, wanted.window, wanted.tolerance)
        skipped = [allele for allele in alleles if allele.skipped]
        seconds = time.perf_counter() - start
        scores = in_order(scores, lengths)
        write_vcf(folder / "variants.vcf.gz", scores, lengths, options.reference)
        write_table(folder / "variants.tsv", scores)
        write_skipped(folder / "skipped.tsv", skipped)
        summary = {
            "variants": str(options.variants),
            "reference": str(options.reference),
            "model": str(options.model),
            **vars(wanted),
            "scored": len(scores),
            "skipped": dict(Counter(allele.skipped for allele in skipped)),
            "seconds": seconds,
            "positions_read": read,
            "positions_of_whole_windows": sum(4 * (score.end - score.start) for score in scores),
        }
        write_json(folder / "variants.json", summary)


def score_all(
    model: LanguageModel, alleles: Sequence[Allele], reference: Path, window: int, tolerance: float
) -> tuple[list[VariantScore], int]:
    """The scores of all alleles that aren't skipped, contig by contig, and the positions that were read."""
    by_contig: dict[str, list[Allele]] = {}
    for allele in alleles:
        if not allele.skipped:
            by_contig.setdefault(allele.contig, []).append(allele)
    scores: list[VariantScore] = []
    read = 0
    with progress_bar() as bar:
        task = bar.add_task("variants", total=sum(map(len, by_contig.values())))
        for name, letters in read_contigs(reference, by_contig):
            for some, positions in score_variants(model, letters, by_contig[name], window, tolerance):
                scores += some
                read += positions
                bar.advance(task, len(some))
    return scores, read


def in_order(scores: Iterable[VariantScore], lengths: dict[str, int]) -> list[VariantScore]:
    """Sorted as a VCF is: by the contigs of the reference, positions, and the records' numbers."""
    contigs = {name: number for number, name in enumerate(lengths)}

    def place(score: VariantScore) -> tuple[int, int, int]:
        return contigs[score.allele.contig], score.allele.position, score.allele.record

    return sorted(scores, key=place)


def write_vcf(path: Path, scores: Sequence[VariantScore], lengths: dict[str, int], reference: Path) -> None:
    """One record for each alternative allele, without genotypes, with `INFO`; sorted scores are expected.

    A name that ends in .gz gives a bgzip file and its index beside it (.tbi).
    """
    header = pysam.VariantHeader()
    header.add_meta("source", f"ssm-seq {__version__}")
    header.add_meta("reference", str(reference))
    for name, length in lengths.items():
        header.contigs.add(name, length=length)
    for field in INFO:
        header.info.add(*field)
    with pysam.VariantFile(str(path), "wz" if path.suffix == ".gz" else "w", header=header) as file:
        for score in scores:
            allele = score.allele
            file.write(
                header.new_record(
                    contig=allele.contig,
                    start=allele.position - 1,
                    id=allele.name,
                    alleles=(allele.reference, allele.alternative),
                    info={
                        "LLR": score.nats,
                        "LLR_FWD": score.forward.nats,
                        "LLR_REV": score.reverse.nats,
                        "LLR_ERR": score.bound,
                        "LLR_WINDOW": (score.start + 1, score.end),
                    },
                )
            )
    if path.suffix == ".gz":
        # The longest contig that .tbi can index is 2^29 bases long; .csi has no such bound.
        pysam.tabix_index(str(path), preset="vcf", force=True, csi=max(lengths.values(), default=0) >= 2**29)


def write_table(path: Path, scores: Sequence[VariantScore]) -> None:
    """`COLUMNS`, tab-separated; positions from 1, both ends of the window included."""
    with path.open("w") as file:
        print(*COLUMNS, sep="\t", file=file)
        for score in scores:
            allele = score.allele
            nats = (score.nats, score.forward.nats, score.reverse.nats, score.bound)
            read = score.forward.computed + score.reverse.computed
            print(
                *(allele.contig, allele.position, allele.name or ".", allele.reference, allele.alternative),
                *(f"{value:.8g}" for value in nats),
                *(score.start + 1, score.end, read),
                sep="\t",
                file=file,
            )


def write_skipped(path: Path, skipped: Sequence[Allele]) -> None:
    """Alleles without a score and the reason, in the order of the calls; long ones shortened."""
    with path.open("w") as file:
        print("record", "contig", "position", "id", "ref", "alt", "reason", sep="\t", file=file)
        for allele in skipped:
            place = (allele.record, allele.contig, allele.position, allele.name or ".")
            print(
                *place,
                shortened(allele.reference),
                shortened(allele.alternative),
                allele.skipped,
                sep="\t",
                file=file,
            )
