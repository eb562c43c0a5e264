"""`ssm-seq score --variants` on a real genome, beside a plain reading of every edited window."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pysam
import pytest
import torch
from Bio import SeqIO
from Bio.Seq import Seq

from ssm_seq.commands.cli import main
from ssm_seq.commands.variants import INFO
from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import DNA_LETTERS
from ssm_seq.inference.variants import window_starts
from ssm_seq.models import Classifier, LanguageModel, load_model

LAMBDA = Path("data/demo/lambda/lambda.fa")
CALLS = Path(__file__).parent / "calls"
WINDOW = 1024
CONFIG = ModelConfig(d_model=12, n_layers=2, d_state=4, dt_min=0.1, dt_max=0.5)
COLUMNS = "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"


@pytest.fixture(scope="module")
def genome():
    """Two contigs of real sequence, one of them shorter than a window, with soft-masked letters."""
    letters = str(next(SeqIO.parse(LAMBDA, "fasta")).seq).upper()
    return {"long": letters[:5000], "short": letters[20000:20700]}


@pytest.fixture(scope="module")
def calls(genome):
    """(contig, position, ref, alternatives): substitutions, insertions, deletions, at both ends as well."""
    random, records = np.random.default_rng(0), []
    for contig, letters in genome.items():
        places = [*random.integers(1, len(letters) - 10, 9).tolist(), 1, 2, len(letters) - 6]
        for number, position in enumerate(sorted(places)):
            size = (1, 1, 3, 5)[number % 4]
            ref = letters[position - 1 : position - 1 + size]
            other = "ACGT"[("ACGT".index(ref[0]) + 1) % 4]
            alternatives = (other, ref[0] + "CAT", ref[0], other + ref[1:] + "G")[number % 4]
            records.append((contig, position, ref, f"{alternatives},<DEL>" if number == 5 else alternatives))
        records.append((contig, len(letters), letters[-1], f"{letters[-1]}A,{'CA'[letters[-1] == 'C']}"))
    return records


@pytest.fixture
def folder(tmp_path, genome, calls):
    with (tmp_path / "ref.fa").open("w") as file:
        for name, letters in genome.items():
            print(f">{name}\n{letters[:300].lower()}\n{letters[300:]}", file=file)
    lines = [f"{contig}\t{position}\tv{n}\t{ref}\t{alts}\t9\tq10\t." for n, (contig, position, ref, alts)
             in enumerate(reversed(calls))]  # fmt: skip
    header = ["##fileformat=VCFv4.2", '##FILTER=<ID=q10,Description="low">', "##contig=<ID=missing>", COLUMNS]
    (tmp_path / "calls.vcf").write_text("\n".join([*header, *lines]) + "\n")
    torch.manual_seed(0)
    model = LanguageModel(CONFIG, 15, "dna")
    with torch.no_grad():
        model.head.weight.mul_(4)
    model.save(tmp_path / "model")
    Classifier(CONFIG, 15, ["a", "b"], "dna").save(tmp_path / "classifier")
    return tmp_path


def score(folder, out, *more, calls="calls.vcf", model="model", reference="ref.fa"):
    paths = {"variants": folder / calls, "reference": folder / reference, "model": folder / model, "out": out}
    options = [item for name, path in paths.items() for item in (f"--{name}", str(path))]
    return main(["score", *options, f"variants.window={WINDOW}", *more])


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


@torch.no_grad()
def log_likelihood(model, letters):
    ids = torch.tensor([[DNA_LETTERS.index(letter) for letter in letters.encode()]])
    log_p = model(ids)[0].log_softmax(-1)[0, :-1]
    return log_p.gather(1, ids[0, 1:, None]).sum().item() - np.log(15)


def expect_whole_windows(folder, genome, relative):
    """The table, after a plain reading of every window on both strands with each allele."""
    model = load_model(folder / "model").double()
    table = rows(folder / "out/variants.tsv")
    for row in table:
        start, end, at = int(row["window_start"]) - 1, int(row["window_end"]), int(row["position"]) - 1
        letters = genome[row["contig"]]
        assert letters[at:].startswith(row["ref"])
        before, after = letters[start:at], letters[at + len(row["ref"]) : end]
        expected = []
        for strand in (str, lambda text: str(Seq(text).reverse_complement())):
            one, other = (
                log_likelihood(model, strand(before + row[allele] + after)) for allele in ("alt", "ref")
            )
            expected.append(one - other)
        found = [float(row[name]) for name in ("llr_forward", "llr_reverse", "llr")]
        for value, wanted in zip(found, [*expected, np.mean(expected)], strict=True):
            assert abs(value - wanted) <= relative * max(abs(wanted), 0.1), row
    return table


@pytest.mark.parametrize(("tolerance", "relative"), [("0", 1e-4), ("1e-3", 1e-3)])  # float32 beside float64
def test_scores_are_those_of_whole_windows_on_both_strands(folder, genome, tolerance, relative):
    assert score(folder, folder / "out", f"variants.tolerance={tolerance}") == 0
    assert len(expect_whole_windows(folder, genome, relative)) == 28
    summary = json.loads((folder / "out/variants.json").read_text())
    assert (summary["scored"], summary["skipped"]) == (28, {"symbolic allele": 2})
    saving = summary["positions_of_whole_windows"] / summary["positions_read"]
    assert saving > 1.5


@pytest.mark.parametrize(
    ("name", "scored", "skipped"),
    [("staphylococcus", 29, {"longer than 256 bases": 1}), ("human", 12, {})],
)
def test_real_calls(folder, name, scored, skipped):
    fasta, vcf = CALLS / f"{name}.fa.gz", CALLS / f"{name}.vcf"
    assert score(folder, folder / "out", calls=vcf.absolute(), reference=fasta.absolute()) == 0
    with gzip.open(fasta, "rt") as file:
        genome = {record.id: str(record.seq) for record in SeqIO.parse(file, "fasta")}
    assert len(expect_whole_windows(folder, genome, 1e-3)) == scored
    summary = json.loads((folder / "out/variants.json").read_text())
    assert (summary["scored"], summary["skipped"]) == (scored, skipped)
    with (
        pysam.VariantFile(str(vcf)) as calls,
        pysam.VariantFile(str(folder / "out/variants.vcf.gz")) as found,
    ):
        kept = [(call.pos, call.ref, call.alts) for call in calls if len(call.ref) <= 256]
        assert [(call.pos, call.ref, call.alts) for call in found] == kept


def test_the_vcf_is_sorted_indexed_and_documented(folder, genome, calls):
    assert score(folder, folder / "out") == 0
    table = rows(folder / "out/variants.tsv")
    with pysam.VariantFile(str(folder / "out/variants.vcf.gz")) as file:
        assert {name: contig.length for name, contig in file.header.contigs.items()} == {
            name: len(letters) for name, letters in genome.items()
        }
        assert set(file.header.info) == {"LLR", "LLR_FWD", "LLR_REV", "LLR_ERR", "LLR_WINDOW"}
        records = list(file)
        places = [(record.rid, record.pos) for record in records]
        assert places == sorted(places)
        for record, row in zip(records, table, strict=True):
            assert (record.contig, str(record.pos), record.id, record.ref, *record.alts) == tuple(
                row[name] for name in ("contig", "position", "id", "ref", "alt")
            )
            assert record.info["LLR"] == pytest.approx(float(row["llr"]), rel=1e-5)
            assert record.info["LLR_WINDOW"] == (int(row["window_start"]), int(row["window_end"]))
        near = list(file.fetch("short", 0, 10))
        assert len(near) == sum(contig == "short" and position <= 10 for contig, position, *_ in calls)
    first, second = rows(folder / "out/skipped.tsv")
    assert first["reason"] == second["reason"] == "symbolic allele"
    assert {first["contig"], second["contig"]} == {"long", "short"}


def test_an_older_result_is_replaced_and_no_calls_are_a_result_too(folder):
    (folder / "none.vcf").write_text(f"##fileformat=VCFv4.2\n{COLUMNS}\n")
    for calls in ("calls.vcf", "none.vcf"):
        assert score(folder, folder / "out", calls=calls) == 0
    assert rows(folder / "out/variants.tsv") == []
    with pysam.VariantFile(str(folder / "out/variants.vcf.gz")) as file:
        assert list(file.fetch("long")) == []


@pytest.mark.parametrize(
    "arguments, expected",
    [
        ({"model": "classifier"}, "language model of DNA"),
        ({"reference": "none.fa"}, "none.fa"),
        ({"calls": "other.vcf"}, "expected the reference allele"),
        ({"calls": "ref.fa"}, "not a VCF file"),
        ({"more": ["variants.window=10"]}, "variants.window=10"),
        ({"more": ["--input", "x.fa"]}, "--input is not for calls"),
    ],
)
def test_refusals_are_one_sentence_and_leave_nothing(folder, capsys, genome, arguments, expected):
    wrong = "ACGT"["CGTA".index(genome["long"][6])]
    (folder / "other.vcf").write_text(f"##fileformat=VCFv4.2\n{COLUMNS}\nlong\t7\t.\t{wrong}\tN\t.\t.\t.\n")
    before = sorted(folder.iterdir())
    assert score(folder, folder / "out", *arguments.pop("more", []), **arguments) == 2
    shown = capsys.readouterr().err
    assert expected in shown and shown.count("\n") == 1
    assert sorted(folder.iterdir()) == before


def test_calls_and_reference_go_together(folder, capsys):
    command = ["score", "--model", str(folder / "model"), "--out", str(folder / "out")]
    assert main([*command, "--variants", str(folder / "calls.vcf")]) == 2
    assert "--reference" in capsys.readouterr().err
    assert main(command) == 2
    assert "--input" in capsys.readouterr().err


@pytest.mark.parametrize(
    "length, window, starts",
    [
        (10, 100, [0]),
        (100, 100, [0]),
        (101, 100, [0, 1]),
        (200, 100, [0, 50, 100]),
        (220, 100, [0, 50, 100, 120]),
    ],
)
def test_windows_overlap_by_half_and_reach_the_end(length, window, starts):
    assert window_starts(length, window).tolist() == starts


def test_every_allele_has_a_quarter_of_a_window_around_it(folder, genome):
    score(folder, folder / "out")
    for row in rows(folder / "out/variants.tsv"):
        start, end, at = (int(row[name]) for name in ("window_start", "window_end", "position"))
        length = len(genome[row["contig"]])
        assert end - start + 1 == min(WINDOW, length)
        assert at - start >= WINDOW // 4 - 5 or start == 1
        assert end - at >= WINDOW // 4 - 5 or end == length


def test_the_example_of_the_page_runs(tmp_path, monkeypatch, capsys):
    page = Path("docs/variants.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    LanguageModel(CONFIG, 15, "dna").save(tmp_path / "results/genome/model")
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "docs/variants.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == 2
    assert all(f"`{field[0]}`" in page for field in INFO)
