"""The committed demo data is what its checksums, sample sheets and README say."""

import csv
import gzip
from itertools import combinations
from pathlib import Path

import pysam
import pytest
import soundfile

from ssm_seq.data.sources import read_sources
from ssm_seq.files import sha256

ROOT = Path(__file__).parents[2]
DEMO = ROOT / "data/demo"
SPLITS = ("train", "valid", "test")


def rows(sheet: str) -> list[dict[str, str]]:
    with (ROOT / f"config/samples/{sheet}.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def length(file: Path) -> int:
    with gzip.open(file, "rt") as lines:
        return sum(len(line.strip()) for line in lines if not line.startswith(">"))


def test_checksums() -> None:
    expected = dict(line.split("  ")[::-1] for line in (DEMO / "SHA256SUMS").read_text().splitlines())
    found = {path.relative_to(DEMO).as_posix(): sha256(path) for path in DEMO.rglob("*") if path.is_file()}
    found.pop("SHA256SUMS")
    assert found == expected


@pytest.mark.parametrize(
    ("pattern", "limit"),
    [("genomes/**/*.fa.gz", 6e6), ("prompts/**/*.flac", 4e6), ("lambda/*", 1.2e6)],
)
def test_size(pattern: str, limit: float) -> None:
    assert 0 < sum(file.stat().st_size for file in DEMO.glob(pattern)) <= limit


@pytest.mark.parametrize("sheet", ["genomes", "prompts", "lambda"])
def test_sheet_names_every_file_once(sheet: str) -> None:
    named = [file for row in rows(sheet) for file in sorted(ROOT.glob(row["path"]))]
    assert len(named) == len(set(named))
    assert len({row["sample"] for row in rows(sheet)}) == len(rows(sheet))
    endings = {"genomes": "*/*.fa.gz", "prompts": "*/*/*.flac", "lambda": "*.bam"}
    assert set(named) == set((DEMO / sheet).glob(endings[sheet]))


def test_strains_of_the_test_are_never_seen() -> None:
    genomes = rows("genomes")
    seen = {row["group"] for row in genomes if row["split"] != "test"}
    unseen = {row["group"] for row in genomes if row["split"] == "test"}
    assert len(unseen) == 5
    assert not seen & unseen
    for split in SPLITS:
        assert len({row["label"] for row in genomes if row["split"] == split}) == 5


def test_whole_genome() -> None:
    assert length(DEMO / "genomes/ecoli_mg1655.fa.gz") == 4_639_675


def test_pieces_have_the_length_that_their_header_says() -> None:
    for file in DEMO.glob("genomes/*/*.fa.gz"):
        with gzip.open(file, "rt") as lines:
            start, end = next(lines).split()[0].split(":")[1].split("-")
        assert length(file) == int(end) - int(start) + 1


def test_prompts_are_apart_and_alike() -> None:
    """No prompt in two splits; the same prompts in every language; all of a kind and long enough."""
    names = {
        (language.name, split): {file.stem for file in (language / split).glob("*.flac")}
        for language in (DEMO / "prompts").iterdir()
        for split in SPLITS
    }
    assert len(names) == 15
    for (language, split), (other, second) in combinations(names, 2):
        if split == second:
            assert names[language, split] == names[other, split]
        else:
            assert not names[language, split] & names[other, second]
    for file in DEMO.glob("prompts/*/*/*.flac"):
        about = soundfile.info(file)
        assert (about.samplerate, about.channels, about.subtype) == (8000, 1, "PCM_16")
        assert 8192 <= about.frames <= 32000


def test_alignments_fit_their_reference() -> None:
    with (
        pysam.FastaFile(str(DEMO / "lambda/lambda.fa")) as reference,
        pysam.AlignmentFile(str(DEMO / "lambda/lambda.bam")) as alignments,
    ):
        assert alignments.check_index()
        assert list(alignments.references) == list(reference.references) == ["NC_001416.1"]
        assert list(alignments.lengths) == list(reference.lengths) == [48_502]
        assert (alignments.mapped, alignments.unmapped) == (7553, 447)


def test_readme_tells_the_figures_and_files() -> None:
    readme = (ROOT / "data/README.md").read_text()
    with (DEMO / "genomes/homology.tsv").open() as file:
        for row in csv.DictReader(file, delimiter="\t"):
            assert f"| `{row['file']}` | {row['in_train']} |" in readme
    for file in (DEMO / "genomes").rglob("*.fa.gz"):
        assert f"| `{file.relative_to(DEMO / 'genomes')}` |" in readme


def test_sources_are_well_formed() -> None:
    assert {"ragout-examples", "human-chr20.fa.gz", "prompts-en"} <= set(
        read_sources(ROOT / "data/sources.yaml")
    )
