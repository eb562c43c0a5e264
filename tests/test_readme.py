"""What the README shows can be done."""

import re
from pathlib import Path

import torch

from ssm_seq.config import ModelConfig
from ssm_seq.models import Classifier

README = Path(__file__).parents[1] / "README.md"


def test_the_library_example_runs(tmp_path, monkeypatch):
    Classifier(ModelConfig(d_model=8, n_layers=1), 15, ["a", "b"], "dna").save(
        tmp_path / "results/species/model"
    )
    monkeypatch.chdir(tmp_path)
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    assert names["logits"].shape == (1, 2)
    assert torch.equal(names["state"].count, torch.tensor([10 * 4096]))


def test_links_and_folders_exist():
    text = README.read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    missing = [link for link in links if not (README.parent / link).exists()]
    assert not missing
