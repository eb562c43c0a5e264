"""The model and the baselines on the same windows, in the shapes that the report reads."""

import json
from argparse import Namespace

import numpy as np
import pytest

from ssm_seq.commands import evaluate
from ssm_seq.commands.evaluate import evaluate_baselines, evaluate_model
from ssm_seq.config import Config, DataConfig, EvaluateConfig, ModelConfig, TaskConfig
from ssm_seq.data.store import Store, StoreWriter
from ssm_seq.errors import InputError
from ssm_seq.models import Classifier, LanguageModel

SMALL = ModelConfig(d_model=4, n_layers=1, d_state=2)


def config_for(task: str) -> Config:
    settings = EvaluateConfig(
        lengths=[20, 50], max_windows=30, bootstrap=20, chunk=16, kmer=2, markov_order=2
    )
    return Config(data=DataConfig(window=40), task=TaskConfig(task), evaluate=settings)


@pytest.fixture
def dna(tmp_path) -> Store:
    with StoreWriter(tmp_path / "dna", "dna") as writer:
        for label, text in (("a", b"AACAGAAT"), ("c", b"CCTCGCCA")):
            for split in ("train", "valid", "test"):
                writer.add(f"{label}_{split}", [text * 50], label=label, split=split)
    return Store.open(tmp_path / "dna")


@pytest.fixture
def sound(tmp_path) -> Store:
    with StoreWriter(tmp_path / "sound", "mu_law", sample_rate=8000) as writer:
        for label, hertz in (("high", 2500), ("low", 250)):
            for split in ("train", "valid", "test"):
                wave = np.sin(2 * np.pi * hertz * np.arange(3000) / 8000) * 0.5
                writer.add(
                    f"{label}_{split}", [writer.alphabet.encode_waveform(wave)], label=label, split=split
                )
    return Store.open(tmp_path / "sound")


def test_classes_are_the_models_whatever_their_order(dna, monkeypatch):
    """A classifier of (x, c, a) that takes every second window of a for x, and every c for c."""

    def classify_windows(model, batches, chunk):
        assert chunk == 16
        ids = np.concatenate(list(batches))
        is_c = (ids == 1).mean(1) > 0.4
        is_x = ~is_c & (np.cumsum(~is_c) % 2 == 0)
        return np.stack([is_x, is_c, ~is_c & ~is_x], axis=1).astype(np.float32)

    monkeypatch.setattr(evaluate, "classify_windows", classify_windows)
    model = Classifier(SMALL, 15, ["x", "c", "a"], "dna")
    result = evaluate_model(config_for("classify"), dna, model)
    assert (result["task"], result["classes"]) == ("classify", ["x", "c", "a"])
    short, long = result["results"]
    assert (short["length"], short["n"], long["length"], long["n"]) == (20, 30, 50, 16)
    assert long["confusion"] == [[0, 0, 0], [0, 8, 0], [4, 0, 4]]
    assert long["accuracy"] == 0.75
    assert long["low"] <= 0.75 <= long["high"]
    json.dumps(result)


def test_a_language_model_that_knows_nothing_costs_the_logarithm_of_its_vocabulary(dna):
    model = LanguageModel(SMALL, 15, "dna")
    model.head.weight.data.zero_()
    result = evaluate_model(config_for("language_model"), dna, model)
    assert result["task"] == "language_model"
    assert result["positions"] == 20 * 39
    for key in ("bits_per_byte", "low", "high"):
        assert result[key] == pytest.approx(np.log2(15))
    assert [point["position"] for point in result["by_context"]] == [1, 2, 4, 8, 16, 32]
    json.dumps(result)


def test_baselines_of_dna(dna):
    lines = evaluate_baselines(config_for("classify"), dna)["results"]
    assert [(line["name"], line["length"]) for line in lines] == [
        ("majority class", 20),
        ("2-mer logistic regression", 20),
        ("majority class", 50),
        ("2-mer logistic regression", 50),
    ]
    assert all(line["metric"] == "accuracy" for line in lines)
    assert lines[2]["value"] == 0.5
    assert lines[3]["value"] == 1.0

    lines = evaluate_baselines(config_for("language_model"), dna)["results"]
    assert [line["name"] for line in lines] == ["order-0 Markov", "order-2 Markov"]
    assert lines[1]["value"] < lines[0]["value"] < 2
    json.dumps(lines)


def test_baselines_of_sound(sound):
    config = config_for("classify")
    config.evaluate.lengths = [500]
    lines = evaluate_baselines(config, sound)["results"]
    assert [line["name"] for line in lines] == ["majority class", "log-spectrogram logistic regression"]
    assert lines[1]["value"] == 1.0

    config = config_for("language_model")
    config.data.window = 1000
    lines = evaluate_baselines(config, sound)["results"]
    assert [line["name"] for line in lines] == ["order-0 Markov", "order-2 Markov", "FLAC (8 bit codes)"]
    assert all(line["metric"] == "bits_per_byte" and 0 < line["value"] < 8 for line in lines)
    json.dumps(lines)


def test_a_model_of_other_data(dna, sound):
    model = LanguageModel(SMALL, 256, "mu_law", 16000)
    with pytest.raises(InputError, match="mu_law sound at 8000 Hz, the model reads mu_law sound at 16000"):
        evaluate_model(config_for("language_model"), sound, model)
    with pytest.raises(InputError, match="holds dna, the model reads mu_law sound"):
        evaluate_model(config_for("language_model"), dna, model)


def test_a_model_of_another_task(dna):
    with pytest.raises(
        InputError, match="the model is a language_model, the configuration's task is classify"
    ):
        evaluate_model(config_for("classify"), dna, LanguageModel(SMALL, 15, "dna"))


def test_a_test_record_of_no_known_class(dna):
    model = Classifier(SMALL, 15, ["a", "b"], "dna")
    with pytest.raises(
        InputError, match="record 'c_test' of the test split has the label 'c', expected one of: a, b"
    ):
        evaluate_model(config_for("classify"), dna, model)


def test_the_command_wants_a_model_or_baselines(dna, tmp_path):
    options = Namespace(
        overrides=[],
        config_dir="config",
        store=dna.path,
        baselines=False,
        model=None,
        out=tmp_path / "e.json",
    )
    with pytest.raises(InputError, match="--model, or --baselines"):
        evaluate.run(options)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("evaluate.lengths=[]", r"evaluate.lengths=\[\]: expected 1 or more"),
        ("evaluate.lengths=[256,0]", r"evaluate.lengths=\[256, 0\]: expected 1 or more"),
        ("evaluate.bootstrap=0", "evaluate.bootstrap=0: expected 1 or more"),
        ("evaluate.kmer=0", "evaluate.kmer=0: expected 1 or more"),
    ],
)
def test_values_out_of_range(override, message, tmp_path):
    options = Namespace(
        overrides=[override], config_dir="config", store=tmp_path, baselines=True, out=tmp_path
    )
    with pytest.raises(InputError, match=message):
        evaluate.run(options)
