"""Calls from VCF files: what is read, what is skipped and why, what is refused."""

import gzip
import random

import pysam
import pytest

from ssm_seq.data.variants import Allele, check_reference, read_contigs, read_variants, trimmed
from ssm_seq.errors import InputError

COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"
CONTIG = "ACGTNACGTRACCGGTTAACC"  # R at 10


def vcf(path, *records, header=("##contig=<ID=c,length=21>",)):
    lines = [f"c\t{position}\t{name}\t{ref}\t{alt}\t.\t.\t." for position, name, ref, alt in records]
    path.write_text("\n".join(["##fileformat=VCFv4.2", *header, COLUMNS, *lines]) + "\n")
    return path


@pytest.fixture
def reference(tmp_path):
    path = tmp_path / "ref.fa"
    path.write_text(f">c some contig\n{CONTIG[:8]}\n{CONTIG[8:].lower()}\n>other\nacgu\n")
    return path


def test_each_alternative_allele_is_one_of_its_own(tmp_path):
    path = vcf(tmp_path / "calls.vcf", (9, "rs1;rs2", "tr", "A,CC,*"), (1, ".", "A", "G"))
    with pytest.raises(InputError, match=r"record 1, c:9: the reference allele is tr, expected bases"):
        read_variants(path)
    path = vcf(tmp_path / "calls.vcf", (9, "rs1;rs2", "ta", "A,cc,*"), (1, ".", "A", "G"))
    alleles, contigs = read_variants(path)
    assert contigs == {"c": 21}
    assert alleles == [
        Allele(1, "c", 9, "rs1;rs2", "TA", "A"),
        Allele(1, "c", 9, "rs1;rs2", "TA", "CC"),
        Allele(1, "c", 9, "rs1;rs2", "TA", "*", "deleted by another variant (*)"),
        Allele(2, "c", 1, None, "A", "G"),
    ]


@pytest.mark.parametrize(
    "alternative, reason",
    [
        (".", "no alternative allele"),
        ("<DEL>", "symbolic allele"),
        ("<CN0>", "symbolic allele"),
        ("]c:9]A", "breakend"),
        ("A[other:1[", "breakend"),
        (".A", "breakend"),
        ("R", "alternative allele has letters other than ACGTN"),
        ("a", "alternative allele is the reference allele"),
        ("A" * 12, "longer than 11 bases"),
        ("A" * 11, ""),
        ("N", ""),
    ],
)
def test_what_has_no_score_has_a_reason(tmp_path, alternative, reason):
    alleles, _ = read_variants(vcf(tmp_path / "calls.vcf", (1, ".", "A", alternative)), longest=11)
    assert [allele.skipped for allele in alleles] == [reason]


@pytest.mark.parametrize("kind", ["bgzip", "gzip", "bcf", "no contigs"])
def test_compressed_files_say_the_same(tmp_path, kind):
    records = [(n, f"v{n}", "A", "C,G") for n in range(1, 20)]
    plain = vcf(tmp_path / "calls.vcf", *records, header=() if kind == "no contigs" else ("##contig=<ID=c>",))
    path = tmp_path / "calls.vcf.gz"
    if kind == "gzip":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    elif kind == "bcf":
        with (
            pysam.VariantFile(str(plain)) as calls,
            pysam.VariantFile(str(path), "wb", header=calls.header) as f,
        ):
            for record in calls:
                f.write(record)
    else:
        pysam.tabix_compress(str(plain), str(path))
    assert read_variants(path)[0] == read_variants(plain)[0]
    assert len(read_variants(path)[0]) == 38


def test_a_reference_that_agrees(tmp_path, reference):
    path = vcf(tmp_path / "calls.vcf", (3, ".", "GTN", "G"), (10, ".", "A", "T"), (21, ".", "C", "<DEL>"))
    assert check_reference(*read_variants(path), path, reference) == {"c": 21, "other": 4}
    assert list(read_contigs(reference, ["c"])) == [("c", CONTIG.encode())]
    assert list(read_contigs(reference, ["other"])) == [("other", b"ACGT")]


@pytest.mark.parametrize(
    "record, header, expected",
    [
        ((3, ".", "GTT", "G"), (), ["record 2, c:3", "expected the reference allele GTN", "found GTT"]),
        ((3, ".", "A", "<DEL>"), (), ["record 2, c:3", "expected the reference allele G", "found A"]),
        ((20, ".", "CCC", "C"), (), ["record 2, c:20", "past the end", "21 in"]),
        ((90, ".", "C", "G"), (), ["record 2, c:90", "past the end"]),
        ((1, ".", "A", "G"), ("##contig=<ID=c,length=22>",), ["22 bases in the header, 21 in", "ref.fa"]),
    ],
)
def test_a_reference_that_does_not_agree(tmp_path, reference, record, header, expected):
    path = vcf(tmp_path / "calls.vcf", (1, ".", "A", "C"), record, header=header)
    with pytest.raises(InputError) as error:
        check_reference(*read_variants(path), path, reference)
    assert all(part in str(error.value) for part in [*expected, str(path), str(reference)])


def test_contigs_of_the_header_may_be_missing_but_not_those_of_records(tmp_path, reference):
    header = ("##contig=<ID=chr7,length=9>", "##contig=<ID=chrOther>")
    path = vcf(tmp_path / "calls.vcf", (1, ".", "A", "C"), header=header)
    check_reference(*read_variants(path), path, reference)
    path.write_text(path.read_text() + "chrother\t1\t.\tA\tC\t.\t.\t.\n")
    with pytest.raises(InputError, match=r"record 2 is on contig chrother.*nearest name there is other"):
        check_reference(*read_variants(path), path, reference)


@pytest.mark.parametrize(
    "content, expected",
    [
        ("", "not a VCF file"),
        (">c\nACGT\n", "not a VCF file"),
        (f"##fileformat=VCFv4.2\n{COLUMNS}\nc\t1\t.\tA\tC\t.\t.\t.\nc\tfive\t.\tA\tC\t.\t.\t.\n", "record 2"),
        (f"##fileformat=VCFv4.2\n{COLUMNS}\nc\t1\t.\tA\n", "record 1"),
        (f"##fileformat=VCFv4.2\n{COLUMNS}\nc\t0\t.\tA\tC\t.\t.\t.\n", "from 1 on"),
    ],
)
def test_damaged_files(tmp_path, content, expected):
    path = tmp_path / "calls.vcf"
    path.write_text(content)
    with pytest.raises(InputError, match=expected) as error:
        read_variants(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("compress", ["bgzip", "gzip"])
def test_a_truncated_file(tmp_path, compress):
    plain = vcf(
        tmp_path / "calls.vcf", *((n, ".", "A", "C") for n in random.Random(0).sample(range(1, 9**6), 9000))
    )
    path = tmp_path / "calls.vcf.gz"
    if compress == "gzip":
        path.write_bytes(gzip.compress(plain.read_bytes()))
    else:
        pysam.tabix_compress(str(plain), str(path))
    path.write_bytes(path.read_bytes()[:-28])
    with pytest.raises(InputError, match=r"calls\.vcf\.gz.*truncated"):
        read_variants(path)


def test_a_missing_file(tmp_path):
    with pytest.raises(InputError, match=r"none\.vcf: there is no such file"):
        read_variants(tmp_path / "none.vcf")


@pytest.mark.parametrize(
    "reference, alternative, expected",
    [
        ("A", "C", (9, 10, "C")),
        ("TT", "T", (9, 10, "")),
        ("T", "TT", (9, 9, "T")),
        ("GAT", "GCT", (10, 11, "C")),
        ("GATT", "G", (10, 13, "")),
        ("GA", "GCCA", (10, 10, "CC")),
        ("AC", "GT", (9, 11, "GT")),
        ("ATA", "A", (9, 11, "")),
    ],
)
def test_trimmed_alleles_make_the_same_sequence(reference, alternative, expected):
    assert trimmed(Allele(1, "c", 10, None, reference, alternative)) == expected
    start, end, bases = expected
    around = "CCCCCCCCC" + reference + "GGGG"
    assert around[:start] + bases + around[end:] == "CCCCCCCCC" + alternative + "GGGG"
