"""Runs without a store: tasks that draw their batches go on exactly, and are judged in chunks of any size."""

import json

import pytest
import torch

from ssm_seq.commands.cli import main
from ssm_seq.commands.evaluate_task import evaluate_task
from ssm_seq.config import Config, DataConfig, EvaluateConfig, ModelConfig, OptimConfig, TaskConfig
from ssm_seq.data.store import Store, StoreWriter
from ssm_seq.errors import InputError
from ssm_seq.inference.answers import relative_squares, right_answers
from ssm_seq.models import load_model
from ssm_seq.tasks import task_of
from ssm_seq.training import train
from ssm_seq.training.loop import Run

CPU = torch.device("cpu")


def config(name="induction_heads", layer="mamba", **optim):
    values = {"steps": 6, "batch_size": 4, "warmup_steps": 2, "valid_batches": 1, "checkpoint_every": 2}
    return Config(
        data=DataConfig(window=24),
        task=TaskConfig(
            name, symbols=4, memorise=3, curriculum=[8, 12], curriculum_steps=2, band=0.2, lag=2, samples=5
        ),
        model=ModelConfig(layer, d_model=8, n_layers=1, d_state=4),
        optim=OptimConfig(**{**values, "log_every": 2, "valid_every": 3, **optim}),
        evaluate=EvaluateConfig(lengths=[8, 24], max_windows=10, batch_size=4, chunk=5),
    )


@pytest.mark.parametrize("layer", ["mamba", "transformer", "lstm", "gru", "cnn"])
@pytest.mark.parametrize("name", ["induction_heads", "selective_copying", "delay"])
def test_an_interrupted_run_ends_like_an_undisturbed_one(name, layer, tmp_path, monkeypatch):
    take_step = Run.take_step

    def stopping(run):
        if run.progress.step == 5:
            raise KeyboardInterrupt
        return take_step(run)

    train(config(name, layer), None, tmp_path / "whole")
    monkeypatch.setattr(Run, "take_step", stopping)
    with pytest.raises(KeyboardInterrupt):
        train(config(name, layer), None, tmp_path / "parts")
    monkeypatch.setattr(Run, "take_step", take_step)
    train(config(name, layer), None, tmp_path / "parts")
    whole, parts = (tmp_path / part / "model/model.safetensors" for part in ("whole", "parts"))
    assert whole.read_bytes() == parts.read_bytes()
    lines = (tmp_path / "parts/metrics.jsonl").read_text().splitlines()
    score = json.loads(lines[-1])["valid_rms_error" if name == "delay" else "valid_accuracy"]
    assert 0 <= score <= (2 if name == "delay" else 1)
    tail = 3 if name == "selective_copying" else 0
    tokens = 4 * (2 * (8 + tail) + 2 * (12 + tail) + 2 * (24 + tail))
    assert json.loads((tmp_path / "parts/run.json").read_text())["tokens"] == tokens


@pytest.mark.parametrize("layer", ["mamba", "s4d", "transformer", "lstm", "gru", "cnn"])
@pytest.mark.parametrize("name", ["induction_heads", "copying"])
def test_answers_do_not_depend_on_the_chunks(name, layer):
    settings = config(name, layer)
    run = Run(settings, None, CPU)
    example = next(task_of(settings).test(64, 64, 40, seed=0, device="cpu"))
    expected = run.model(example.inputs)[0][:, -example.answers.shape[1] :].argmax(-1) == example.answers
    for chunk in (1, 7, 1000):
        assert torch.equal(right_answers(run.model, example, chunk), expected)


@pytest.mark.parametrize("layer", ["mamba", "s4", "gru"])
@pytest.mark.parametrize("name", ["delay", "integration", "reconstruction"])
def test_errors_do_not_depend_on_the_chunks(name, layer, tmp_path):
    settings = config(name, layer)
    Run(settings, None, CPU).model.save(tmp_path)
    model = load_model(tmp_path)
    example = next(task_of(settings).test(5, 5, 40, seed=0, device="cpu"))
    told = model(example.inputs)[0][:, -example.answers.shape[1] :]
    state, steps = model.initial_state(5), []
    for position in range(40):
        answer, state = model.step(example.inputs[:, position], state)
        steps.append(answer)
    torch.testing.assert_close(torch.stack(steps[-told.shape[1] :], 1), told, rtol=1e-3, atol=1e-4)
    expected = ((told - example.answers) ** 2).sum((1, 2)) / (example.answers**2).sum((1, 2))
    for chunk in (1, 7, 1000):
        torch.testing.assert_close(relative_squares(model, example, chunk), expected, rtol=1e-4, atol=1e-5)
    assert 0 < evaluate_task(settings, model)["results"][0]["rms_error"] < 10


def test_the_command_trains_and_judges_without_a_store(tmp_path, capsys):
    values = ["experiment=induction_heads", "model.d_model=8", "optim.steps=2", "data.window=16"]
    values += ["evaluate.lengths=[16,64]", "evaluate.max_windows=20"]
    assert main(["train", "--out", str(tmp_path), *values]) == 0
    model, out = str(tmp_path / "model"), tmp_path / "evaluation.json"
    assert main(["evaluate", "--model", model, "--out", str(out), *values]) == 0
    results = json.loads(out.read_text())["results"]
    assert [(result["length"], result["n"]) for result in results] == [(16, 20), (64, 20)]
    assert all(result["low"] <= result["accuracy"] <= result["high"] for result in results)

    assert main(["evaluate", "--baselines", "--out", str(out), *values]) == 2
    assert main(["evaluate", "--model", model, "--out", str(out), *values, "task.symbols=3"]) == 2
    assert main(["train", "--out", str(tmp_path / "b"), "experiment=species"]) == 2
    assert main(["evaluate", "--model", model, "--out", str(out), "experiment=species"]) == 2
    said = capsys.readouterr().err
    assert "no simple baselines" in said and "4 ids (tokens) are not the 17 ids" in said
    assert "needs a byte store" in said and "with --store" in said


def test_a_task_takes_no_store(dna, tmp_path):
    with pytest.raises(InputError, match="induction_heads: this task takes no store"):
        train(config(), dna, tmp_path / "out")


def test_a_curriculum_needs_steps(tmp_path):
    settings = config()
    settings.task.curriculum_steps = 0
    with pytest.raises(InputError, match=r"task\.curriculum_steps=0: expected 1 or more"):
        train(settings, None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("task", "share", "sentence"),
    [
        ("language_model", 1.5, "task.labelled=1.5: expected a share, 0 to 1"),
        ("copying", 0.5, "task.labelled=0.5: only a language_model of a store reads labels, not copying"),
    ],
)
def test_labels_that_no_run_can_read_are_refused(tmp_path, task, share, sentence):
    settings = config(task)
    settings.task.labelled = share
    with StoreWriter(tmp_path / "store", "dna") as writer:
        writer.add("r", [b"ACGT" * 20], split="train")
    store = Store.open(tmp_path / "store") if task == "language_model" else None
    with pytest.raises(InputError, match=sentence):
        train(settings, store, tmp_path / "out")


def test_labels_that_a_store_does_not_have_are_refused(tmp_path):
    settings = config("language_model")
    settings.task.labelled = 1.0
    with StoreWriter(tmp_path / "store", "dna") as writer:
        writer.add("r", [b"ACGT" * 20], split="train")
    with pytest.raises(InputError, match=r"no record of .*store has a label"):
        train(settings, Store.open(tmp_path / "store"), tmp_path / "out")


def test_a_perfect_model_is_right_everywhere(tmp_path):
    """The smallest task, learnt to the end: what follows one of two tokens, at once."""
    settings = config(steps=150, batch_size=16, lr=0.02, ssm_lr=0.01, valid_every=150)
    settings.task.symbols, settings.task.curriculum = 2, []
    settings.data.window = 6
    settings.evaluate.lengths = [3, 6]
    train(settings, None, tmp_path / "out")
    results = evaluate_task(settings, load_model(tmp_path / "out/model"))["results"]
    assert [result["accuracy"] for result in results] == [1, 1]
    assert all(0.6 < result["low"] < 1 and result["high"] == 1 and result["whole"] == 1 for result in results)


@pytest.mark.gpu
@pytest.mark.parametrize("layer", ["mamba", "s4d", "transformer", "lstm", "cnn"])
@pytest.mark.parametrize("name", ["induction_heads", "selective_copying", "delay"])
def test_runs_on_a_gpu(name, layer, tmp_path):
    """Each size of the curriculum is met more than once: the steps are recorded and replayed."""
    settings = config(name, layer, steps=12)
    settings.task.curriculum_steps = 4
    train(settings, None, tmp_path, "cuda")
    on_cpu, on_gpu = (
        evaluate_task(settings, load_model(tmp_path / "model", kind)) for kind in ("cpu", "cuda")
    )
    assert [line["length"] for line in on_gpu["results"]] == [8, 24]
    assert [line["n"] for line in on_gpu["results"]] == [line["n"] for line in on_cpu["results"]]
    assert json.loads((tmp_path / "run.json").read_text())["peak_device_mib"] > 0
