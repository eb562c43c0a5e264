"""`ssm-seq convert`: a model goes through another library's layout and comes back the same."""

import json

import pytest
import torch

from ssm_seq.commands.cli import main
from ssm_seq.config import ModelConfig
from ssm_seq.models import LanguageModel, load_model


def convert(model, out, layout, *more) -> int:
    return main(["convert", "--model", str(model), "--out", str(out), "--layout", layout, *more])


@pytest.fixture
def folder(tmp_path):
    LanguageModel(ModelConfig(d_model=8, n_layers=1), 15, "dna").save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("layout", ["mamba_ssm", "transformers"])
def test_there_and_back(folder, tmp_path, layout):
    assert convert(folder, tmp_path / "there", layout) == 0
    assert convert(tmp_path / "there", tmp_path / "back", "ssm_seq", "--alphabet", "dna") == 0
    before, after = load_model(folder), load_model(tmp_path / "back")
    assert after.description() == before.description()
    assert all(torch.equal(after.state_dict()[name], tensor) for name, tensor in before.state_dict().items())


def test_a_model_of_sound_gets_its_rate(tmp_path):
    LanguageModel(ModelConfig(d_model=8, n_layers=1), 256, "mu_law", 8000).save(tmp_path / "model")
    assert convert(tmp_path / "model", tmp_path / "there", "transformers") == 0
    sound = ("--alphabet", "mu_law", "--sample-rate", "8000")
    assert convert(tmp_path / "there", tmp_path / "back", "ssm_seq", *sound) == 0
    assert load_model(tmp_path / "back").sample_rate == 8000


def test_a_model_without_an_alphabet_does_not_generate_text(folder, tmp_path, capsys):
    assert convert(folder, tmp_path / "there", "mamba_ssm") == 0
    assert convert(tmp_path / "there", tmp_path / "back", "ssm_seq") == 0
    arguments = ["--model", str(tmp_path / "back"), "--out", str(tmp_path / "made"), "generate.length=3"]
    assert main(["generate", *arguments]) == 2
    assert "reads the ids of a tokenizer" in capsys.readouterr().err


def test_what_cannot_be_expressed_is_one_sentence(folder, tmp_path, capsys):
    assert convert(folder, tmp_path / "there", "mamba_ssm") == 0
    path = tmp_path / "there/config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"ssm_cfg": {"layer": "Mamba2"}}))
    assert convert(tmp_path / "there", tmp_path / "back", "transformers") == 2
    shown = capsys.readouterr().err
    assert "only Mamba1 layers can be loaded" in shown and shown.count("\n") == 1
    assert not (tmp_path / "back").exists()
