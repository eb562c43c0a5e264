"""Cut data/demo and its sample sheets from the Debian packages of data/sources.yaml.

    snakemake demo_data

makes the same bytes again: choices are seeded or written down here, gzip headers bear no time, reads are
aligned by one thread, and Python's zlib, soundfile and pysam are those of requirements.lock on Debian 12.
"""

import argparse
import csv
import gzip
import lzma
import random
import subprocess
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path

import numpy as np
import pysam
import soundfile

from ssm_seq.files import sha256, whole_directory, whole_file

SPLITS = ("train", "valid", "test")
COLUMNS = ("sample", "path", "label", "group", "split")


@dataclass(frozen=True)
class Cut:
    """Positions start..end (0-based, end excluded) of the first record, the chromosome, of a FASTA file."""

    split: str
    strain: str
    accession: str
    file: str
    start: int
    end: int


# Of each species a model trains on one strain and is tested on another; the test coordinates are those of
# which train has the fewest 31-mers. E. coli has only two strains here, so its valid part is of train's.
GENOMES = {
    ("Escherichia coli", "ragout-examples/E.Coli/references"): (
        Cut("train", "DH1", "NC_017625.1", "DH1.fasta.gz", 0, 1_500_000),
        Cut("valid", "DH1", "NC_017625.1", "DH1.fasta.gz", 1_815_000, 1_965_000),
        Cut("test", "MG1655", "K-12-MG1655", "MG1655-K12.fasta.gz", 900_000, 1_900_000),
    ),
    ("Klebsiella pneumoniae", "kleborate-examples"): (
        Cut("train", "HS11286", "CP003200.1", "Klebs_HS11286.fna.xz", 0, 1_500_000),
        Cut("valid", "MGH78578", "CP000647.1", "MGH78578.fna.xz", 950_000, 1_100_000),
        Cut("test", "NTUH-K2044", "AP006725.1", "NTUH-K2044.fna.xz", 2_990_000, 3_990_000),
    ),
    ("Vibrio cholerae", "ragout-examples/V.Cholerae/references"): (
        Cut("train", "O395", "CP001235.1", "O395.fasta.gz", 0, 1_500_000),
        Cut("valid", "H1", "AKGH01000001.1", "H1.fasta.gz", 1_095_000, 1_245_000),
        Cut("test", "N16961", "AE003852.1", "O1_biovar.fasta.gz", 1_660_000, 2_660_000),
    ),
    ("Staphylococcus aureus", "ragout-examples/S.Aureus/references"): (
        Cut("train", "N315", "NC_002745.2", "N315.fasta.gz", 0, 1_500_000),
        Cut("valid", "USA300", "NC_007793.1", "USA300_FPR3757.fasta.gz", 2_705_000, 2_855_000),
        Cut("test", "RF122", "NC_007622.1", "RF122.fasta.gz", 1_575_000, 2_575_000),
    ),
    ("Helicobacter pylori", "ragout-examples/H.Pylori/references"): (
        Cut("train", "G27", "NC_011333.1", "G27.fasta.gz", 0, 1_000_000),
        Cut("valid", "Puno120", "NC_017378.1", "Puno120.fasta.gz", 965_000, 1_115_000),
        Cut("test", "Gambia94/24", "NC_017371.1", "Gambia94_24.fasta.gz", 1_175_000, 1_675_000),
    ),
}
WHOLE_GENOME = "MG1655"

LANGUAGES = {  # code: name, speaker
    "en": ("English", "Allison Smith"),
    "es": ("Spanish", "Allison Smith"),
    "fr": ("French", "June Wallack"),
    "it": ("Italian", "Carlo Flora"),
    "ru": ("Russian", "IvrvoiceRU"),
}
PROMPT_SECONDS = (1.05, 4.0)  # each holds a window of 8,192 samples at 8 kHz
PROMPTS_TOTAL_SECONDS = 360.0
PROMPT_FRACTIONS = (0.7, 0.1, 0.2)
SEED = 0

LAMBDA_NAME = "NC_001416.1"
READ_PAIRS = 4_000
KMER = 31


def chromosome(file: Path) -> tuple[str, str]:
    """Header and sequence of the first record of a compressed FASTA file."""
    opened = lzma.open if file.suffix == ".xz" else gzip.open
    with opened(file, "rt") as text:
        header, _, sequence = text.read().removeprefix(">").partition("\n")
    return header, sequence.partition(">")[0].replace("\n", "")


def sample_name(species: str, strain: str) -> str:
    genus, epithet = species.split()
    return f"{genus[0]}{epithet}_{strain.replace('/', '-')}".lower()


def fasta(header: str, sequence: str) -> bytes:
    lines = "\n".join(sequence[start : start + 80] for start in range(0, len(sequence), 80))
    return f">{header}\n{lines}\n".encode()


def write_fasta(file: Path, header: str, sequence: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as raw, gzip.GzipFile("", "wb", 9, raw, mtime=0) as packed:
        packed.write(fasta(header, sequence))


def kmers(sequence: str) -> np.ndarray:
    """The distinct 31-mers of a sequence, each as the smaller of itself and its reverse complement.

       Sorted uint64, two bits a letter.
    Letters other than ACGT count as A: they are fewer than one in ten thousand here.
    """
    code = np.zeros(256, np.uint64)
    code[np.frombuffer(b"ACGT", np.uint8)] = range(4)
    codes = code[np.frombuffer(sequence.upper().encode(), np.uint8)]
    count = len(codes) - KMER + 1
    forward, backward = np.zeros(count, np.uint64), np.zeros(count, np.uint64)
    for offset in range(KMER):
        letter = codes[offset : offset + count]
        forward = (forward << np.uint64(2)) | letter
        backward |= (np.uint64(3) - letter) << np.uint64(2 * offset)
    return np.unique(np.minimum(forward, backward))


def cut_genomes(sources: Path, demo: Path) -> list[dict[str, str]]:
    """Write genomes/ and homology.tsv (the part of each piece's 31-mers that train has); the sheet's rows."""
    rows, homology = [], []
    for (species, folder), cuts in GENOMES.items():
        train = np.empty(0, np.uint64)
        for cut in cuts:
            header, sequence = chromosome(sources / folder / cut.file)
            if cut.accession not in header:
                raise SystemExit(f"{folder}/{cut.file}: expected {cut.accession}, found {header!r}")
            piece = sequence[cut.start : cut.end]
            name = sample_name(species, cut.strain)
            pieces = {f"genomes/{cut.split}/{name}.fa.gz": (f":{cut.start + 1}-{cut.end}", piece)}
            if cut.strain == WHOLE_GENOME:
                pieces[f"genomes/{name}.fa.gz"] = ("", sequence)
            for path, (region, text) in pieces.items():
                write_fasta(demo / path, f"{cut.accession}{region} {species} {cut.strain}", text)
                if cut.split != "train":
                    shared = np.isin(kmers(text), train, assume_unique=True).mean()
                    homology.append({"species": species, "file": path, "in_train": f"{shared:.4f}"})
            if cut.split == "train":
                train = kmers(piece)
            rows.append(
                {
                    "sample": f"{name}_{cut.split}",
                    "path": f"data/demo/genomes/{cut.split}/{name}.fa.gz",
                    "label": species,
                    "group": cut.strain,
                    "split": cut.split,
                }
            )
    write_table(demo / "genomes" / "homology.tsv", ("species", "file", "in_train"), homology)
    return rows


def cut_prompts(sources: Path, demo: Path) -> list[dict[str, str]]:
    """Write prompts/LANGUAGE/SPLIT/NAME.flac, the same names in the same split in every language."""
    seconds: dict[str, list[float]] = {}
    for language in LANGUAGES:
        folder = sources / f"prompts-{language}"
        for file in sorted(folder.rglob("*.wav")):
            name = file.relative_to(folder).with_suffix("").as_posix()
            if not name.startswith("silence/"):
                seconds.setdefault(name, []).append(soundfile.info(file).duration)
    shortest, longest = PROMPT_SECONDS
    names = [
        name
        for name, durations in sorted(seconds.items())
        if len(durations) == len(LANGUAGES) and shortest <= min(durations) and max(durations) <= longest
    ]
    random.Random(SEED).shuffle(names)
    ends = [end / PROMPTS_TOTAL_SECONDS for end in accumulate(sum(seconds[name]) for name in names)]
    limits = list(accumulate(PROMPT_FRACTIONS))
    rows = []
    for language, (label, speaker) in LANGUAGES.items():
        for name, end in zip(names, ends, strict=True):
            split = next((split for split, limit in zip(SPLITS, limits, strict=True) if end <= limit), None)
            if split is None:
                break
            samples, rate = soundfile.read(sources / f"prompts-{language}" / f"{name}.wav", dtype="int16")
            file = demo / "prompts" / language / split / f"{name.replace('/', '_')}.flac"
            file.parent.mkdir(parents=True, exist_ok=True)
            soundfile.write(file, samples, rate, subtype="PCM_16", compression_level=1.0)
        rows += [
            {
                "sample": f"{language}_{split}",
                "path": f"data/demo/prompts/{language}/{split}/*.flac",
                "label": label,
                "group": speaker,
                "split": split,
            }
            for split in SPLITS
        ]
    return rows


def align_lambda(sources: Path, demo: Path) -> list[dict[str, str]]:
    """Write lambda/lambda.fa and the first read pairs, aligned by bowtie2, as lambda.bam with its index."""
    folder, examples = demo / "lambda", sources / "bowtie2-examples"
    programs = sources / "bowtie2-programs"
    folder.mkdir()
    _, sequence = chromosome(examples / "reference" / "lambda_virus.fa.gz")
    reference = fasta(f"{LAMBDA_NAME} Escherichia phage lambda, complete genome", sequence)
    (folder / "lambda.fa").write_bytes(reference)
    pysam.faidx(str(folder / "lambda.fa"))
    subprocess.run(
        [programs / "bowtie2-build-s", "--quiet", folder / "lambda.fa", folder / "index"], check=True
    )
    aligned = subprocess.run(
        [programs / "bowtie2-align-s", "-x", folder / "index", "--seed", str(SEED), "--upto", str(READ_PAIRS)]
        + [word for mate in "12" for word in (f"-{mate}", examples / "reads" / f"reads_{mate}.fq.gz")],
        check=True,
        capture_output=True,
        text=True,
    )
    print(aligned.stderr)
    # bowtie2's @PG line quotes the command with the folders of this machine.
    lines = [line.partition("\tCL:")[0] for line in aligned.stdout.splitlines()]
    (folder / "lambda.sam").write_text("\n".join(lines) + "\n")
    pysam.sort("--no-PG", "-l", "9", "-o", str(folder / "lambda.bam"), str(folder / "lambda.sam"))
    pysam.index(str(folder / "lambda.bam"))
    for scratch in (folder / "lambda.sam", *folder.glob("index.*.bt2")):
        scratch.unlink()
    return [{"sample": "lambda", "path": "data/demo/lambda/lambda.bam", "split": "train"}]


def write_table(file: Path, columns: tuple[str, ...], rows: list[dict[str, str]]) -> None:
    with whole_file(file) as partial, partial.open("w", newline="") as text:
        writer = csv.DictWriter(text, columns, delimiter="\t", lineterminator="\n", restval="")
        writer.writeheader()
        writer.writerows(rows)


def checksums(folder: Path) -> str:
    """What `sha256sum` prints for all files below a folder but its own list."""
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != "SHA256SUMS")
    return "".join(f"{sha256(file)}  {file.relative_to(folder).as_posix()}\n" for file in files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("sources", type=Path, help="folder of the fetched sources")
    parser.add_argument("demo", type=Path, help="folder to make")
    parser.add_argument("sheets", type=Path, help="folder of the sample sheets")
    options = parser.parse_args()
    before = options.demo / "SHA256SUMS"
    old = before.read_text() if before.exists() else ""
    with whole_directory(options.demo) as demo:
        sheets = {
            "genomes": cut_genomes(options.sources, demo),
            "prompts": cut_prompts(options.sources, demo),
            "lambda": align_lambda(options.sources, demo),
        }
        new = checksums(demo)
        (demo / "SHA256SUMS").write_text(new)
    for name, rows in sheets.items():
        write_table(options.sheets / f"{name}.tsv", COLUMNS, rows)
    changed = sorted({line.split("  ")[1] for line in set(old.splitlines()) ^ set(new.splitlines())})
    print("\n".join(f"changed: {name}" for name in changed) if changed else "the same bytes as before")


if __name__ == "__main__":
    main()
