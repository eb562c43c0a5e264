"""A small project of its own: the committed workflow, other data, the README's own-data page."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README_BLOCK = re.compile(r"^( *)```(\w*)\n(.*?)^\1```", re.MULTILINE | re.DOTALL)


class Project:
    """A folder in which `snakemake` runs as it does in the repository."""

    def __init__(self, folder: Path):
        self.folder = folder

    def start(self, *arguments: str) -> subprocess.Popen:
        command = [sys.executable, "-m", "snakemake", "--cores", "2", *arguments]
        environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        return subprocess.Popen(
            command,
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def snakemake(self, *arguments: str) -> tuple[int, str]:
        process = self.start(*arguments)
        output, _ = process.communicate()
        return process.returncode, output

    def planned(self, *arguments: str) -> set[str]:
        """The rules that a dry run would run."""
        code, output = self.snakemake("--dry-run", *arguments)
        assert code == 0, output
        return set(re.findall(r"^rule (\w+):", output, re.MULTILINE))

    def edit(self, file: str, old: str, new: str) -> None:
        path = self.folder / file
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))


def own_data_blocks() -> dict[str, str]:
    """The code blocks of the README's own-data page by their language."""
    page = (ROOT / "README.md").read_text().split("## Your own data")[1].split("\n## ")[0]
    blocks = {}
    for indent, language, body in README_BLOCK.findall(page):
        lines = [line.removeprefix(indent) for line in body.splitlines()]
        blocks[language or "command"] = "\n".join(lines) + "\n"
    return blocks


def markov_genome(seed: int, gc: float, length: int) -> bytes:
    weights = [(1 - gc) / 2, gc / 2, gc / 2, (1 - gc) / 2]
    letters = np.frombuffer(b"ACGT", np.uint8)
    return np.random.default_rng(seed).choice(letters, length, p=weights).tobytes()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Two made-up species, three strains each, and the README's sheet and experiment."""
    for name in ("Snakefile", "workflows", "data", "profiles"):
        (tmp_path / name).symlink_to(ROOT / name)
    for path in (ROOT / "config").rglob("*"):
        if path.is_file():
            target = tmp_path / path.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
    (tmp_path / "my_data").mkdir()
    for species, gc in (("a", 0.3), ("b", 0.65)):
        for strain in (1, 2, 3):
            genome = markov_genome(10 * strain + ord(species), gc, 12_000)
            (tmp_path / "my_data" / f"{species}_strain{strain}.fa").write_bytes(
                b">chromosome_%c%d\n" % (species.encode(), strain) + genome + b"\n"
            )
    blocks = own_data_blocks()
    (tmp_path / "my_samples.tsv").write_text(blocks["tsv"].replace(".fa.gz", ".fa"))
    experiment = blocks["yaml"]
    assert len(experiment.splitlines()) < 20
    (tmp_path / "config" / "experiment" / "mine.yaml").write_text(
        # The README's experiment with fewer steps: what is tested here is the workflow.
        experiment.replace("{steps: 300}", "{steps: 12, batch_size: 4, checkpoint_every: 2, valid_every: 6}")
        + "model: {d_model: 16, n_layers: 1}\n"
    )
    return Project(tmp_path)
