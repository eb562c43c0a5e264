"""The workflow on a user's own data: it runs, reruns only what depends on a change, and survives a kill."""

import hashlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = "results/mine/page.html"
TASK_RULES = {"train_point", "evaluate_point", "task", "task_figure"}


def test_the_default_target_is_the_whole_demo(project):
    rules = project.planned()
    assert {"prepare", "train", "evaluate", "baselines", "score", "generate", "summary"} <= rules
    assert not rules & {"demo_data", "source_file", "source_folder"}


def test_a_task_is_trained_for_every_point_and_seed(project):
    code, output = project.snakemake("--dry-run", "results/tasks/induction_heads/result.svg")
    assert code == 0, output
    assert re.search(r"^train_point +27$", output, re.MULTILINE), output
    assert "results/tasks/induction_heads/points/mamba/2/evaluation.json" in output
    assert set(re.findall(r"^rule (\w+):", output, re.MULTILINE)) == TASK_RULES

    project.edit("config/workflow.yaml", "model=gru model.d_model=40", "model=guru")
    code, output = project.snakemake("--dry-run", "results/tasks/induction_heads/result.svg")
    assert code == 2
    assert "nearest: gru" in output and "Traceback" not in output


@pytest.mark.slow
def test_own_data_run_and_only_what_depends_on_a_change_runs_again(project):
    code, output = project.snakemake(PAGE)
    assert code == 0, output
    assert (project.folder / PAGE).stat().st_size > 10_000
    accuracy = json.loads((project.folder / "results/mine/evaluation.json").read_text())["results"]
    assert [result["length"] for result in accuracy] == [256, 1024]
    assert project.planned(PAGE) == set()

    mine = "config/experiment/mine.yaml"
    changes = [
        ("title: My species", "title: Our species", set()),
        ("lengths: [256, 1024]", "lengths: [256, 512]", {"evaluate", "baselines"}),
        ("steps: 12", "steps: 13", {"train", "evaluate"}),
        ("by: group", "by: group, seed: 1", {"prepare", "train", "evaluate", "baselines"}),
    ]
    for old, new, expected in changes:
        project.edit(mine, old, new)
        assert project.planned(PAGE) == expected | {"page"}, new
        project.edit(mine, new, old)
    assert project.planned(PAGE) == set()


@pytest.mark.slow
def test_a_killed_run_goes_on_to_the_same_weights(project):
    weights = project.folder / "results/mine/model/model.safetensors"
    target = str(weights.relative_to(project.folder))
    process = project.start(target)
    deadline = time.monotonic() + 120
    while not list(project.folder.glob("results/mine/checkpoints/*/*.pt")):
        assert process.poll() is None and time.monotonic() < deadline, process.stdout.read()
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not weights.exists()

    code, output = project.snakemake(target)
    assert code == 0, output
    resumed = weights.read_bytes()
    lines = (project.folder / "results/mine/metrics.jsonl").read_text().splitlines()
    steps = [json.loads(line)["step"] for line in lines]
    assert steps == sorted(steps) and steps[-1] == 12

    code, output = project.snakemake("--forcerun", "train", "--", target)
    assert code == 0, output
    assert weights.read_bytes() == resumed


def test_two_runs_in_one_results_folder(project):
    first = project.start("results/mine/model/model.safetensors")
    deadline = time.monotonic() + 60
    while not (project.folder / "results/.lock").exists():
        assert first.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    code, output = project.snakemake("results/mine/baselines.json")
    assert code == 2
    assert "another run is writing here" in output and "Traceback" not in output
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()


@pytest.mark.parametrize(
    "file, old, new, expected",
    [
        ("my_samples.tsv", "my_data/a_strain1.fa", "my_data/missing.fa", "missing.fa"),
        ("my_samples.tsv", "label", "lable", "nearest: label"),
        ("config/experiment/mine.yaml", "optim:", "optimm:", "nearest: optim"),
        ("config/workflow.yaml", "results: results", "results: results\nexperimetns: []", "experimetns"),
        ("config/workflow.yaml", "[species,", "[spcies,", "nearest: species"),
        (
            "config/experiment/mine.yaml",
            "name: mine",
            "name: genomes",
            "describe the store 'genomes' differently",
        ),
    ],
)
def test_bad_configuration_is_said_plainly(project, file, old, new, expected):
    project.edit(file, old, new)
    code, output = project.snakemake("--dry-run", PAGE)
    assert code == 2
    assert expected in output
    assert "Traceback" not in output
    assert not (project.folder / "results").exists()


def test_a_store_may_have_another_name_than_its_experiment(project):
    project.edit("config/experiment/mine.yaml", "name: mine", "name: ours")
    code, output = project.snakemake("--dry-run", PAGE)
    assert code == 0, output
    assert "results/stores/ours/index.json" in output


def test_a_source_is_brought_before_its_store_is_made(project):
    (project.folder / "data").unlink()
    (project.folder / "data").mkdir()
    genome = project.folder / "my_data/a_strain1.fa"
    checksum = hashlib.sha256(genome.read_bytes()).hexdigest()
    sources = project.folder / "data/sources.yaml"
    sources.write_text(f"a1.fa: {{path: ../my_data/a_strain1.fa, sha256: {checksum}}}\n")
    project.edit("my_samples.tsv", "my_data/a_strain1.fa", "data/sources/a1.fa")
    code, output = project.snakemake("results/stores/mine/index.json")
    assert code == 0, output
    assert (project.folder / "data/sources/a1.fa").read_bytes() == genome.read_bytes()
    assert "data/sources/a1.fa" in (project.folder / "results/stores/mine/index.json").read_text()


def test_sample_sheets_are_held_to_their_schema(project):
    schema = project.folder / "workflows"
    schema.unlink()
    shutil.copytree(ROOT / "workflows", schema)
    project.edit(
        "workflows/schemas/samples.schema.yaml",
        "sample: {type: string",
        "sample: {type: string, maxLength: 1",
    )
    code, output = project.snakemake("--dry-run", PAGE)
    assert code == 2
    assert "'a1' is too long" in output and "Traceback" not in output


def test_the_slurm_profile_is_understood(project):
    code, output = project.snakemake("--dry-run", "--workflow-profile", "workflows/profiles/slurm", PAGE)
    assert code == 0, output


def test_the_kubernetes_profile_is_understood_up_to_its_bucket(project):
    profile = ("--workflow-profile", "workflows/profiles/kubernetes")
    _, output = project.snakemake("--dry-run", *profile, "--default-storage-prefix", "s3://none/here", PAGE)
    assert "Building DAG of jobs" in output, output
    assert "s3://none/here" in output
