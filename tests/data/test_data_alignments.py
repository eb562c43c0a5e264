"""Reads and consensus of BAM and CRAM files written with pysam, and every kind of bad file."""

import random
from collections import Counter

import numpy as np
import pysam
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ssm_seq.config import StoreConfig
from ssm_seq.data import consensus
from ssm_seq.data.alignments import read_reads, read_reference
from ssm_seq.data.consensus import majority, read_consensus
from ssm_seq.errors import InputError

CONTIGS = {"chr1": 3000, "HLA-A*01:02": 700}
OPPOSITE = str.maketrans("ACGTN", "TGCAN")


@pytest.fixture(scope="module")
def genome(tmp_path_factory):
    """A folder with a reference and reads on both strands: reads.bam, reads.cram, each with its index."""
    folder = tmp_path_factory.mktemp("genome")
    source = random.Random(0)
    reference = {name: "".join(source.choices("ACGT", k=length)) for name, length in CONTIGS.items()}
    text = "".join(f">{name} made up\r\n{letters.lower()}\r\n" for name, letters in reference.items())
    (folder / "reference.fa").write_text(text, newline="")
    (folder / "plain.fa").write_text("".join(f">{name}\n{letters}\n" for name, letters in reference.items()))
    reads = []
    for number in range(1500):
        name = source.choices(list(CONTIGS), [9, 1])[0]
        start = source.randrange(CONTIGS[name] - 50)
        if name == "chr1" and start < 200:
            continue
        # Most reads lack chr1:1001-1003, some have an insertion, some a soft clip; a base in twenty is wrong.
        cigar = [("M", 50)]
        if name == "chr1" and 960 <= start < 1000 and source.random() < 0.6:
            cigar = [("M", 1000 - start), ("D", 3), ("M", start - 950)]
        elif source.random() < 0.2:
            cigar = source.choice([[("M", 20), ("I", 2), ("M", 28)], [("S", 5), ("M", 45)]])
        letters, place = "", start
        for operation, length in cigar:
            template = reference[name][place : place + length] if operation == "M" else "A" * length
            letters += "" if operation == "D" else template
            place += length if operation in "MD" else 0
        letters = "".join(source.choice("ACGT") if source.random() < 0.05 else letter for letter in letters)
        qualities = [source.randrange(2, 40) for _ in letters]
        reverse, mate = source.choice([0, 16]), source.choice([0, 0x1 | 0x40, 0x1 | 0x80])
        bad = source.choices([0, 0x4, 0x100, 0x200, 0x400, 0x800], [20, 1, 1, 1, 1, 1])[0]
        reads.append(
            (list(CONTIGS).index(name), start, f"q{number}", letters, qualities, reverse | mate | bad, cigar)
        )
    write(folder / "reads.bam", "wb", reads)
    write(folder / "reads.cram", "wc", reads, reference_filename=str(folder / "plain.fa"))
    return folder, reference, reads


def write(path, mode, reads, **options):
    header = {
        "HD": {"VN": "1.6", "SO": "coordinate"},
        "SQ": [{"SN": name, "LN": length} for name, length in CONTIGS.items()],
    }
    with pysam.AlignmentFile(path, mode, header=header, **options) as file:
        for contig, start, name, letters, qualities, flag, cigar in sorted(reads):
            read = pysam.AlignedSegment(file.header)
            read.query_name, read.flag, read.reference_id, read.reference_start = name, flag, contig, start
            read.mapping_quality = start % 60
            read.query_sequence = letters
            read.cigarstring = "".join(f"{length}{operation}" for operation, length in cigar)
            read.query_qualities = qualities
            file.write(read)
    pysam.index(str(path))


def reads_of(path, reference=None, **config):
    skipped = Counter()
    records = read_reads(
        path,
        StoreConfig(kind="reads", reference=str(reference), **config),
        read_reference(reference),
        skipped,
    )
    return {name: b"".join(chunks).decode() for name, chunks in records}, skipped


def consensus_of(path, reference=None, **config):
    skipped, comparisons = Counter(), []
    config = StoreConfig(kind="consensus", reference=str(reference), **config)
    records = read_consensus(path, config, read_reference(reference), skipped, comparisons)
    return {name: b"".join(chunks).decode() for name, chunks in records}, comparisons, skipped


@pytest.mark.parametrize("kind", ["bam", "cram"])
@pytest.mark.parametrize(
    "min_mapping_quality, min_base_quality, exclude_flags", [(0, 0, 0), (20, 15, 0xF04), (0, 30, 0x10)]
)
def test_reads_are_as_the_sequencer_wrote_them(
    genome, kind, min_mapping_quality, min_base_quality, exclude_flags
):
    folder, _, reads = genome
    expected, left_out = {}, Counter()
    for _, start, name, letters, qualities, flag, _ in reads:
        if flag & exclude_flags:
            left_out["flags"] += 1
        elif start % 60 < min_mapping_quality:
            left_out["mapping quality"] += 1
        else:
            letters = "".join(
                "N" if q < min_base_quality else c for c, q in zip(letters, qualities, strict=True)
            )
            if flag & 16:
                letters = letters[::-1].translate(OPPOSITE)
            expected[name + {0: "", 0x40: "/1", 0x80: "/2"}[flag & 0xC0]] = letters
    found, skipped = reads_of(
        folder / f"reads.{kind}",
        folder / "reference.fa",
        min_mapping_quality=min_mapping_quality,
        min_base_quality=min_base_quality,
        exclude_flags=exclude_flags,
    )
    assert found == expected and skipped == left_out and len(found) > 300


@pytest.mark.parametrize(
    "region, contig, first, last",
    [
        ("chr1:1,001-1,050", 0, 1001, 1050),
        ("chr1:2900", 0, 2900, 3000),
        ("chr1", 0, 1, 3000),
        ("HLA-A*01:02", 1, 1, 700),
        ("HLA-A*01:02:300-310", 1, 300, 310),
    ],
)
def test_a_region_has_the_reads_that_overlap_it(genome, region, contig, first, last):
    folder, _, reads = genome
    found, _ = reads_of(folder / "reads.bam", region=region)
    names = {
        name
        for where, start, name, _, _, flag, cigar in reads
        if where == contig and not flag & 0xF04
        if start < last and start + sum(n for kind, n in cigar if kind in "MD") >= first
    }
    assert {name.partition("/")[0] for name in found} == names


def pileup(reads, contig, length, config):
    """Counts (5, length) of A, C, G, T and deleted, by a loop of its own over the reads."""
    counts = np.zeros((5, length), int)
    for where, start, _, letters, qualities, flag, cigar in reads:
        if where == contig and not flag & config.exclude_flags and start % 60 >= config.min_mapping_quality:
            bases = iter(zip(letters, qualities, strict=True))
            place = start
            for operation in "".join(kind * n for kind, n in cigar):
                letter, quality = ("-", 99) if operation == "D" else next(bases)
                if operation in "MD" and quality >= config.min_base_quality:
                    counts["ACGT-".index(letter), place] += 1
                place += operation in "MD"
    return counts


@pytest.mark.parametrize("kind", ["bam", "cram"])
@pytest.mark.parametrize("block", [64, 50_000])
def test_the_consensus_is_the_majority_wherever_blocks_end(genome, kind, block, monkeypatch):
    folder, reference, reads = genome
    monkeypatch.setattr(consensus, "_BLOCK", block)
    filters = {"min_mapping_quality": 10, "min_base_quality": 13, "min_depth": 3}
    found, comparisons, skipped = consensus_of(folder / f"reads.{kind}", folder / "reference.fa", **filters)
    assert list(found) == list(CONTIGS)
    for number, (name, length) in enumerate(CONTIGS.items()):
        counts = pileup(reads, number, length, StoreConfig(**filters))
        depth = counts[:4].sum(0)
        expected = ""
        for column, seen in zip(counts.T, depth, strict=True):
            best = np.flatnonzero(column == column.max())
            expected += "ACGTN"[best[0]] if seen >= 3 and len(best) == 1 else "N"
        assert found[name] == expected
        pairs = [(a, b) for a, b in zip(expected, reference[name], strict=True) if a != "N"]
        wrong = [
            {"position": at + 1, "reference": b, "consensus": a}
            for at, (a, b) in enumerate(zip(expected, reference[name], strict=True))
            if a not in ("N", b)
        ]
        summary = comparisons[number].summary()
        assert summary["length"] == length and summary["unknown"] == expected.count("N")
        assert summary["compared"] == len(pairs) and summary["mismatches"] == len(wrong)
        assert summary["first_mismatches"] == wrong[:10]
        assert summary["identical"] == (len(pairs) - len(wrong)) / len(pairs) > 0.9
        assert summary["mean_depth"] == depth.sum() / length
    assert found["chr1"][:200] == "N" * 200 and found["chr1"][1000:1003] == "NNN"
    assert pileup(reads, 0, 3000, StoreConfig(**filters))[:4, 1000:1003].sum(0).max() >= 3
    placed = [read for read in reads if not read[5] & 0x4]
    assert skipped["flags"] >= sum(bool(read[5] & 0xF04) for read in placed)
    assert skipped["mapping quality"] == sum(not read[5] & 0xF04 and read[1] % 60 < 10 for read in reads)


def test_the_consensus_of_a_region(genome):
    folder, _, _ = genome
    whole, _, _ = consensus_of(folder / "reads.bam")
    part, (comparison,), _ = consensus_of(
        folder / "reads.bam", folder / "reference.fa", region="chr1:1001-1500"
    )
    assert part == {"chr1:1001-1500": whole["chr1"][1000:1500]}
    assert comparison.length == 500 and comparison.summary()["compared"] > 300
    alone, (comparison,), _ = consensus_of(folder / "reads.bam", region="chr1:1001-1500")
    assert alone == part and comparison.summary()["identical"] is None


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(*[st.integers(0, 4)] * 5), min_size=1, max_size=20), st.integers(1, 5))
def test_majority(columns, min_depth):
    called = majority(np.array(columns).T, min_depth).tobytes().decode()
    for letter, column in zip(called, columns, strict=True):
        winners = [base for base, count in zip("ACGTN", column, strict=True) if count == max(column)]
        assert letter == (winners[0] if len(winners) == 1 and sum(column[:4]) >= min_depth else "N")


@pytest.mark.parametrize("region, message", [
    ("chr2:1-10", "no contig for the region 'chr2:1-10'; the first that it has: chr1"),
    ("chr1:2990-3001", "outside of chr1, which has positions 1-3000"),
    ("chr1:0-5", "outside of chr1"),
    ("chr1:9-5", "outside of chr1"),
    ("chr1:a-b", "is not contig:start-end"),
    ("chr1:1-150", r"no reads in region chr1:1-150 pass the filters"),
])  # fmt: skip
def test_regions_that_are_not_there_or_empty(genome, region, message):
    folder, _, _ = genome
    for attempt in (reads_of, consensus_of):
        with pytest.raises(InputError, match=rf"reads\.bam: .*{message}"):
            attempt(folder / "reads.bam", region=region)


def test_no_read_passes(genome):
    folder, _, reads = genome
    with pytest.raises(
        InputError, match=rf"no reads in the file pass the filters \({len(reads)} were skipped\)"
    ):
        reads_of(folder / "reads.bam", min_mapping_quality=61, exclude_flags=0)


@pytest.mark.parametrize("kind", ["bam", "cram"])
def test_without_an_index(genome, tmp_path, kind):
    folder, _, _ = genome
    path = tmp_path / f"x.{kind}"
    path.write_bytes((folder / f"reads.{kind}").read_bytes())
    reference = folder / "reference.fa"
    assert reads_of(path, reference, exclude_flags=0)[0]
    with pytest.raises(InputError, match=rf"x\.{kind}: there is no index beside it; `samtools index"):
        reads_of(path, reference, region="chr1")
    with pytest.raises(InputError, match="no index"):
        consensus_of(path, reference)


@pytest.mark.parametrize("kind", ["bam", "cram"])
@pytest.mark.parametrize("share", [0, 0.001, 0.5, 0.9, "all but one byte", "no end marker"])
def test_truncated_files(genome, tmp_path, capfd, kind, share):
    folder, _, _ = genome
    data = (folder / f"reads.{kind}").read_bytes()
    end = {"all but one byte": -1, "no end marker": {"bam": -28, "cram": -38}[kind]}.get(share)
    path = tmp_path / f"x.{kind}"
    path.write_bytes(data[: end or int(share * len(data))])
    with pytest.raises(InputError, match=rf"x\.{kind}: .*truncated"):
        reads_of(path, folder / "reference.fa")
    assert capfd.readouterr().err == ""


def test_bases_that_only_say_equal(tmp_path):
    write(tmp_path / "x.bam", "wb", [(0, 5, "q", "AC==", [30] * 4, 0, [("M", 4)])])
    with pytest.raises(InputError, match=r"x\.bam: read 'q' has '=' for bases"):
        reads_of(tmp_path / "x.bam")


def test_files_of_another_kind(tmp_path):
    (tmp_path / "x.bam").write_text(">a\nACGT\n")
    with pytest.raises(InputError, match=r"x\.bam: the content is text; expected BAM or CRAM"):
        reads_of(tmp_path / "x.bam")
    with pytest.raises(InputError, match=r"none\.bam: there is no such file"):
        reads_of(tmp_path / "none.bam")


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda chr1, hla: {"chr1": chr1}, r"'HLA-A\*01:02', which is not in the reference"),
        (
            lambda chr1, hla: {"chr1": chr1[:-1], "HLA-A*01:02": hla},
            "of length 3000, but in the reference .* 2999",
        ),
    ],
)
def test_another_reference(genome, tmp_path, change, message):
    folder, reference, _ = genome
    text = "".join(f">{name}\n{letters}\n" for name, letters in change(*reference.values()).items())
    (tmp_path / "other.fa").write_text(text)
    for attempt in (reads_of, consensus_of):
        with pytest.raises(InputError, match=rf"reads\.bam: aligned to .*{message}"):
            attempt(folder / "reads.bam", tmp_path / "other.fa")


def test_cram_and_its_reference(genome, tmp_path):
    folder, reference, _ = genome
    with pytest.raises(InputError, match=r"set data\.store\.reference"):
        reads_of(folder / "reads.cram")
    # Same names and lengths, another sequence: the header's MD5 tells.
    text = "".join(f">{name}\n{letters[::-1]}\n" for name, letters in reference.items())
    (tmp_path / "other.fa").write_text(text)
    with pytest.raises(InputError, match="another MD5"):
        reads_of(folder / "reads.cram", tmp_path / "other.fa")
    assert not list(folder.glob("reference.fa.*")), "the reader leaves nothing beside the reference"
