"""The examples of docs/streaming.md run as they stand."""

import re
from pathlib import Path

import pytest

from ssm_seq.config import ModelConfig
from ssm_seq.models import LanguageModel
from ssm_seq.reporting.results_table import fill_tables

PAGE = Path(__file__).parents[2] / "docs/streaming.md"


def test_the_table_is_as_fresh_as_the_results():
    assert fill_tables(PAGE.read_text(), PAGE.parent) == PAGE.read_text()


@pytest.mark.parametrize("word", ["read_store", "concatenate"])
def test_examples_run(word, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    LanguageModel(ModelConfig(d_model=8, n_layers=1), 15, "dna").save("results/genome/model")
    Path("chr20.fa").write_text(">chr20\n" + "GATTACAN" * 200 + "\n")
    [code] = [
        code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if word in code
    ]
    exec(compile(code, "streaming.md", "exec"), {})
    if word == "read_store":
        assert 1 < float(capsys.readouterr().out.split()[0]) < 8
        assert {path.name for path in Path("tracks").iterdir()} == {
            "entropy.bw",
            "log_likelihood.bw",
            "pooled.npy",
            "tracks.json",
        }
