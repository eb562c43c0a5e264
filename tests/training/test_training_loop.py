"""The loop from end to end on a CPU."""

import json

import pytest
import torch

from ssm_seq.data.store import Store, StoreWriter
from ssm_seq.errors import InputError
from ssm_seq.files import only_run_in
from ssm_seq.models import load_model
from ssm_seq.training import train
from ssm_seq.training.checkpoint import Checkpoints, identity
from ssm_seq.training.loop import Run


def metrics(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def test_a_classifier_learns_and_leaves_its_files(dna, small, tmp_path):
    out = tmp_path / "out"
    config = small(steps=60, lr=0.02, valid_every=30)
    config.model.dropout = 0.0
    train(config, dna, out, "cpu")

    lines = metrics(out)
    losses = [line for line in lines if "loss" in line]
    assert [line["step"] for line in losses] == list(range(2, 61, 2))
    assert set(losses[0]) == {"step", "loss", "lr", "grad_norm", "seconds", "tokens_per_second"}
    assert losses[-1]["lr"] == pytest.approx(0.02 * 0.05)
    valid = [line for line in lines if "valid_loss" in line]
    assert [line["step"] for line in valid] == [30, 60]
    assert set(valid[0]) == {"step", "valid_loss", "valid_accuracy"}
    assert losses[-1]["loss"] < 0.3 < losses[0]["loss"]
    assert valid[-1]["valid_accuracy"] > 0.9

    run = json.loads((out / "run.json").read_text())
    assert run["config"]["model"]["d_model"] == 8
    assert run["store"]["checksum"] == dna.checksum
    assert run["tokens"] == 60 * 4 * 48
    assert run["steps"] == 60
    assert run["parameters"] == sum(p.numel() for p in load_model(out / "model").parameters())
    assert run["versions"]["torch"] == torch.__version__
    assert run["peak_resident_mib"] > 50
    assert 0 < run["tokens"] / run["tokens_per_second"] <= run["seconds"]
    assert load_model(out / "model").classes == ["AT", "GC"]
    assert not (out / "checkpoints").exists()


def test_language_model_bits_are_those_of_its_loss(dna, small, tmp_path):
    config = small("language_model", steps=4, valid_every=4)
    config.data.soft_mask_weight = 1.0
    train(config, dna, tmp_path / "out", "cpu")
    line = metrics(tmp_path / "out")[-1]
    assert line["valid_bits_per_byte"] == pytest.approx(line["valid_loss"] / 0.6931471805599453, rel=1e-6)


def test_no_valid_split(tmp_path, small, capsys):
    with StoreWriter(tmp_path / "store", "dna") as writer:
        writer.add("r", [b"ACGT" * 50], split="train")
    train(small("language_model", steps=2), Store.open(tmp_path / "store"), tmp_path / "out", "cpu")
    assert all("loss" in line for line in metrics(tmp_path / "out"))
    assert "no valid split" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_weights(dna, small, tmp_path):
    files = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        train(small(steps=3, seed=seed), dna, tmp_path / name, "cpu")
        files.append((tmp_path / name / "model/model.safetensors").read_bytes())
    assert files[0] == files[1] != files[2]


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_a_run_that_diverges_stops(dna, small, tmp_path, where, monkeypatch):
    take_step = Run.take_step

    def poisoned(run):
        if run.progress.step == 7:
            parameter = run.model.head.bias
            if where == "loss":
                parameter.data.fill_(torch.nan)
            else:
                parameter.register_hook(lambda gradient: gradient * torch.inf)
        return take_step(run)

    monkeypatch.setattr(Run, "take_step", poisoned)
    with pytest.raises(InputError, match=r"step 8: the loss is .* expected finite numbers; lower optim.lr"):
        train(small(), dna, tmp_path / "out", "cpu")
    assert not (tmp_path / "out/model").exists()
    assert not (tmp_path / "out/run.json").exists()


def test_two_runs_in_one_folder(dna, small, tmp_path):
    with only_run_in(tmp_path / "out"), pytest.raises(InputError, match="another run is writing here"):
        train(small(), dna, tmp_path / "out", "cpu")


def test_an_edited_value_starts_afresh_and_clears_the_old_run(dna, small, tmp_path):
    out = tmp_path / "out"
    old = Checkpoints(out / "checkpoints", identity(small(lr=0.5), dna))
    old.save(3, Run(small(lr=0.5), dna, torch.device("cpu")).state())
    train(small(steps=3), dna, out, "cpu")
    train(small(steps=3), dna, tmp_path / "clean", "cpu")
    assert not (out / "checkpoints").exists()
    ours, clean = ((folder / "model/model.safetensors").read_bytes() for folder in (out, tmp_path / "clean"))
    assert ours == clean


def test_a_checkpoint_of_another_shape_is_refused(dna, small, tmp_path):
    wide = small()
    wide.model.d_model = 16
    state = Run(wide, dna, torch.device("cpu")).state()
    Checkpoints(tmp_path / "out/checkpoints", identity(small(), dna)).save(3, state)
    with pytest.raises(
        InputError, match=r"tensor backbone.embedding.weight is \(15, 16\) there, \(15, 8\) in"
    ):
        train(small(), dna, tmp_path / "out", "cpu")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("optim.steps", 0, "optim.steps=0: expected 1 or more"),
        ("optim.lr", -0.1, "optim.lr=-0.1: expected 0 or more"),
        ("optim.clip", 0.0, "optim.clip=0.0: expected more than 0"),
        ("optim.betas", [0.9], r"optim.betas=\[0.9\]: expected two numbers"),
        ("data.window", 1, "data.window=1: expected 2 or more"),
        ("task.name", "sing", "task.name=sing: there is no such task; known: classify, language_model"),
    ],
)
def test_values_out_of_range(name, value, message, dna, small, tmp_path):
    config, (section, key) = small(), name.split(".")
    setattr(getattr(config, section), key, value)
    with pytest.raises(InputError, match=message):
        train(config, dna, tmp_path / "out", "cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.gpu
@pytest.mark.parametrize("task", ["classify", "language_model"])
def test_on_a_gpu_in_bfloat16(task, dna, small, tmp_path):
    """An interrupted run goes on; weights stay float32; the record names the device."""
    config = small(task, steps=12)
    run = Run(config, dna, torch.device("cuda"))
    for _ in range(6):
        run.take_step()
    Checkpoints(tmp_path / "out/checkpoints", identity(config, dna)).save(6, run.state())
    train(config, dna, tmp_path / "out", "cuda")
    assert [line["step"] for line in metrics(tmp_path / "out") if "loss" in line] == [8, 10, 12]
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["device"] == torch.cuda.get_device_name()
    assert record["peak_device_mib"] > 0
    assert {p.dtype for p in load_model(tmp_path / "out/model").parameters()} == {torch.float32}
