"""The scorer's benchmark: its readings of short chunks are the model's, its figures those of whole runs."""

import math
import runpy

import numpy as np
import pytest
import torch

from ssm_seq.benchmark import score
from ssm_seq.benchmark.measured import Measured, records
from ssm_seq.benchmark.table import row
from ssm_seq.commands.cli import main
from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import DNA
from ssm_seq.errors import InputError
from ssm_seq.models import LanguageModel
from ssm_seq.reporting.style import to_svg


@pytest.mark.parametrize("layer", ["mamba", "s4d"])
@pytest.mark.parametrize("chunk", [1, 7, 100])
def test_stretches_side_by_side_give_the_likelihoods_of_the_whole(layer, chunk):
    torch.manual_seed(0)
    config = ModelConfig(layer=layer, d_model=8, n_layers=2, d_state=4)
    model, ids = LanguageModel(config, 15, "dna").eval(), score.random_bases(800)
    with torch.inference_mode():
        logits, _ = model(torch.from_numpy(ids)[None])
    log = logits[0, :-1].log_softmax(-1).numpy()
    expected = np.array([-math.log(15), *log[np.arange(799), ids[1:]]])
    found, states = score.likelihoods(model, ids, 100, half=False)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    rows = torch.tensor(ids).long().view(8, 100)
    np.testing.assert_allclose(
        score.in_a_graph(model, rows, states, chunk, half=False).flatten(), expected, atol=1e-5
    )


def test_time_and_memory_on_a_cpu(capsys, monkeypatch):
    monkeypatch.setattr(score, "MILLION", 1 << 14)
    monkeypatch.setattr(score, "CHROMOSOME_LENGTH", 1 << 14)
    assert main(["bench", "--device", "cpu", "--only", "score"]) == 0
    *lines, bigwig = capsys.readouterr().out.splitlines()[1:]
    assert [line.split(":")[0].split()[:3] for line in lines] == [["score", "4x128", "(1,16384)"]] * 2
    assert " s " in lines[0] and lines[0].endswith("<= 40 met") and " GiB " in lines[1]
    assert bigwig.startswith("bigWig of 16384 values, written") and "pyBigWig" in bigwig


def test_a_chromosome_from_fasta_to_bigwig(tmp_path, monkeypatch):
    path = tmp_path / "in.fa"
    monkeypatch.setattr(score, "CHROMOSOME", path)
    planned = [Measured("end to end", unit="s"), Measured("pass", unit="s")]
    with pytest.raises(InputError, match="no such file"):
        list(score._measure_chromosome(planned))
    config = ModelConfig(d_model=8, n_layers=1, d_state=4)
    monkeypatch.setattr(score, "new_model", lambda device: LanguageModel(config, DNA.size, DNA.name))
    monkeypatch.setattr(score, "CHROMOSOME_LENGTH", 600)
    path.write_text(">20\n" + "GATTACAN" * 75 + "\n")
    whole, read = score._measure_chromosome(planned)
    assert whole.value > read.value > 0


@pytest.mark.parametrize(("value", "verdict"), [(1e-6, "met"), (1e-3, "missed")])
def test_errors_have_upper_bounds(value, verdict):
    assert row(Measured("x", value, "nats", target=1e-4))[6] == f"<= 0.0001 {verdict}"


def test_the_figure_takes_the_names_of_the_passes():
    found = []
    for one in score.PASSES:
        planned = score.plan(one, known=True)
        found += records(Measured(planned.name, one.length / 1e4, peak=0.5, peak_target=1))
    draw = runpy.run_path("docs/results/score_by_length.py")["by_length"]
    picture = to_svg(draw, found)
    assert all(f"{size} Mi" in picture for size in (1, 16, 64))
