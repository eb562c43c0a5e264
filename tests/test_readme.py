"""What the README shows can be done."""

import re
from pathlib import Path

import torch

from ssm_seq.compat.checkpoints import load_checkpoint, save_checkpoint
from ssm_seq.config import ModelConfig
from ssm_seq.models import Classifier, LanguageModel

README = Path(__file__).parents[1] / "README.md"


def run_example(name: str) -> dict:
    """Run the one example in which `name` occurs; the names that it leaves."""
    examples = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    [code] = [example for example in examples if name in example]
    names: dict = {}
    exec(compile(code, "README.md", "exec"), names)
    return names


def test_the_library_example_runs(tmp_path, monkeypatch):
    Classifier(ModelConfig(d_model=8, n_layers=1), 15, ["a", "b"], "dna").save(
        tmp_path / "results/species/model"
    )
    monkeypatch.chdir(tmp_path)
    names = run_example("load_model")
    assert names["logits"].shape == (1, 2)
    assert torch.equal(names["state"].count, torch.tensor([10 * 4096]))


def test_the_example_for_users_of_mamba_ssm_runs(tmp_path, monkeypatch):
    model = LanguageModel(ModelConfig(d_model=8, n_layers=1), 15, "tokens")
    monkeypatch.chdir(tmp_path)
    save_checkpoint(model, "mamba-130m", "mamba_ssm")
    assert callable(run_example("load_checkpoint")["selective_scan_fn"])
    assert load_checkpoint("mamba-130m-hf").description() == model.description()


def test_links_and_folders_exist():
    text = README.read_text()
    links = re.findall(r"\]\(([^)#]+)\)", text)
    assert links
    missing = [link for link in links if not (README.parent / link).exists()]
    assert not missing
