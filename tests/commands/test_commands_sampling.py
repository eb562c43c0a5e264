"""Models of sound at another sampling rate, from the command line."""

import json

import numpy as np
import pytest
import soundfile
import torch

from ssm_seq.commands.cli import main
from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import MU_LAW
from ssm_seq.data.store import StoreWriter
from ssm_seq.models import Classifier, load_model

TONES = {"high": 700, "low": 100}


@pytest.fixture
def folder(tmp_path):
    """Models of 8 kHz; tones at 4 kHz as a store, and as files that no resampling changes."""
    torch.manual_seed(0)
    for layer, name in (("s5", "model"), ("mamba", "tied")):
        config = ModelConfig(layer=layer, d_model=8, n_layers=1, d_state=4)
        Classifier(config, 256, list(TONES), "mu_law", 8000).save(tmp_path / name)
    Classifier(ModelConfig(layer="s5", d_model=8, d_state=4), 15, ["a"], "dna").save(tmp_path / "dna")
    with StoreWriter(tmp_path / "store", "mu_law", sample_rate=4000) as writer:
        for label, hertz in TONES.items():
            wave = 0.5 * np.sin(2 * np.pi * hertz * np.arange(1000) / 4000)
            writer.add(label, [writer.alphabet.encode_waveform(wave)], label=label, split="test")
            soundfile.write(tmp_path / f"{label}.wav", wave, 4000)
    return tmp_path


def evaluate(folder, *overrides, model="model"):
    out = folder / "evaluation.json"
    places = ["--store", f"{folder}/store", "--model", f"{folder}/{model}", "--out", f"{out}"]
    sizes = ["evaluate.lengths=[200]", "evaluate.chunk=64", "evaluate.bootstrap=10"]
    code = main(["evaluate", *places, "data=audio", "device=cpu", *sizes, *overrides])
    return json.loads(out.read_text()) if code == 0 else code


def test_an_evaluation_takes_longer_time_steps(folder, monkeypatch):
    from ssm_seq.commands import evaluate as command

    seen = []
    whole = command.classify_windows
    monkeypatch.setattr(command, "classify_windows", lambda *given: seen.append(given) or whole(*given))
    result = evaluate(folder, "evaluate.rate=2")
    assert result["results"][0]["n"] == 10
    ((used, *_),) = seen
    expected = load_model(folder / "model").resampled(2.0)
    assert used.sample_rate == 4000
    for name, value in expected.state_dict().items():
        assert torch.equal(used.state_dict()[name], value)


def test_scores_are_those_of_the_file_at_its_own_rate(folder):
    """Without the rate the file would be brought to 8 kHz: twice as many positions."""
    out, model = folder / "score.json", load_model(folder / "model").resampled(2.0)
    places = ["--model", f"{folder}/model", "--input", f"{folder}/low.wav", "--out", f"{out}"]
    assert main(["score", *places, "device=cpu", "score.rate=2"]) == 0
    (record,) = json.loads(out.read_text())["records"]
    wave, _ = soundfile.read(folder / "low.wav", dtype="float32")
    ids = torch.from_numpy(MU_LAW.encode_waveform(wave))[None]
    probabilities = torch.softmax(model(ids)[0][0], -1).tolist()
    assert record["length"] == 1000
    assert record["track"][-1]["probabilities"] == pytest.approx(probabilities, rel=1e-4)


@pytest.mark.parametrize(
    ("overrides", "model", "sentence"),
    [
        ([], "model", "8000 Hz; expected the same or evaluate.rate=2"),
        (["evaluate.rate=4"], "model", "2000 Hz; expected the same or evaluate.rate=2"),
        (
            ["evaluate.rate=0"],
            "model",
            "evaluate.rate=0: expected a positive number, it is the new time step",
        ),
        (["evaluate.rate=-2"], "model", "evaluate.rate=-2: expected a positive number"),
        (["evaluate.rate=2"], "tied", "evaluate.rate=2: Mamba: not all of it has a time step"),
        (["evaluate.rate=2"], "dna", "evaluate.rate=2: this model reads dna, which has no sampling rate"),
    ],
)
def test_rates_that_do_not_fit_are_refused(folder, capsys, overrides, model, sentence):
    assert evaluate(folder, *overrides, model=model) == 2
    error = capsys.readouterr().err
    assert sentence in error and error.count("\n") == 1
