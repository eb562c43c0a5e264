"""Calls in the workflow: planned from config/workflow.yaml, scored by an experiment's model, drawn."""

import json
import re

import pysam
import pytest

TARGET = "results/variants/mine.svg"
ENTRY = "variants: {mine: {experiment: mine, calls: my_data/calls.vcf, reference: my_data/a_strain1.fa}}"


@pytest.fixture
def calls(project):
    """Six substitutions, an insertion and a symbolic allele on a strain that the model was trained on."""
    letters = (project.folder / "my_data/a_strain1.fa").read_text().splitlines()[1]
    lines = ["##fileformat=VCFv4.2", "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO"]
    for position in range(100, 700, 100):
        base = letters[position - 1]
        other = "ACGT"[("ACGT".index(base) + 1) % 4]
        lines.append(f"chromosome_a1\t{position}\t.\t{base}\t{other}\t.\t.\t.")
    lines.append(f"chromosome_a1\t800\t.\t{letters[799]}\t{letters[799]}GT,<DEL>\t.\t.\t.")
    (project.folder / "my_data/calls.vcf").write_text("\n".join(lines) + "\n")
    project.edit("config/workflow.yaml", "variants: {}", ENTRY)
    experiment = project.folder / "config/experiment/mine.yaml"
    head, body = experiment.read_text().split("\n", 1)
    body = re.sub("evaluate:.*\n", "variants: {window: 256}\n", body)
    experiment.write_text(f"{head}\ndefaults: [override /task: language_model]\n{body}")
    return project


@pytest.mark.slow
def test_calls_are_scored_and_drawn(calls):
    code, output = calls.snakemake("scored_variants")
    assert code == 0, output
    folder = calls.folder / "results/variants/mine"
    summary = json.loads((folder / "variants.json").read_text())
    assert (summary["scored"], summary["skipped"], summary["window"]) == (7, {"symbolic allele": 1}, 256)
    with pysam.VariantFile(str(folder / "variants.vcf.gz")) as file:
        assert len(list(file.fetch("chromosome_a1", 0, 1000))) == 7
    picture = (calls.folder / TARGET).read_text()
    assert "substitution: 6" in picture and "insertion: 1" in picture and "deletion" not in picture
    calls.edit("config/experiment/mine.yaml", "window: 256", "window: 512")
    assert calls.planned(TARGET) == {"variants", "variants_figure"}


def test_a_bad_entry_is_said_plainly(calls):
    calls.edit("config/workflow.yaml", "calls: my_data/calls.vcf, ", "")
    code, output = calls.snakemake("--dry-run", TARGET)
    assert code == 2
    assert "'calls' is a required property" in output and "Traceback" not in output
