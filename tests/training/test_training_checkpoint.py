"""Checkpoints: whole, of this run, the last good one."""

import json
import shutil

import pytest
import torch
from torch import nn

from ssm_seq.errors import InputError
from ssm_seq.training.checkpoint import Checkpoints, identity, load_weights


def test_the_last_two_are_kept(tmp_path):
    checkpoints = Checkpoints(tmp_path, {"a": 1})
    assert checkpoints.newest() is None
    for step in (5, 10, 100):
        checkpoints.save(step, {"x": torch.full((3,), step)})
    assert len(list(checkpoints.folder.iterdir())) == 2
    assert checkpoints.newest()[1]["x"].tolist() == [100, 100, 100]


@pytest.mark.parametrize("damage", ["truncated", "flipped", "emptied"])
def test_a_damaged_one_is_passed_over(tmp_path, damage):
    checkpoints = Checkpoints(tmp_path, {"a": 1})
    for step in (5, 10):
        checkpoints.save(step, {"x": torch.full((300,), step)})
    path = checkpoints.newest()[0]
    data = bytearray(path.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 1
    path.write_bytes({"truncated": data[:-10], "flipped": data, "emptied": b""}[damage])
    assert checkpoints.newest()[1]["x"][0] == 5


def test_on_a_full_disk_the_last_one_remains(tmp_path, full_disk):
    checkpoints = Checkpoints(tmp_path, {"a": 1})
    checkpoints.save(5, {"x": torch.full((3,), 5)})
    with full_disk(), pytest.raises(InputError, match=r"checkpoint of step 10 cannot be written .*disk full"):
        checkpoints.save(10, {"x": torch.randn(3000)})
    assert len(list(checkpoints.folder.iterdir())) == 1
    assert checkpoints.newest()[1]["x"].tolist() == [5, 5, 5]


def test_leftovers_of_a_killed_writer_are_cleared(tmp_path):
    folder = Checkpoints(tmp_path, {"a": 1}).folder
    (folder / "000000007.partial").write_bytes(b"half a checkp")
    (folder / ".metrics.jsonl.123.partial").write_bytes(b"")
    assert Checkpoints(tmp_path, {"a": 1}).newest() is None
    assert list(folder.iterdir()) == []


def test_another_identity_starts_afresh(tmp_path):
    Checkpoints(tmp_path, {"model.d_model": 64}).save(5, {})
    other = Checkpoints(tmp_path, {"model.d_model": 32})
    assert other.newest() is None
    other.remove()
    assert not tmp_path.exists()


def test_a_checkpoint_put_where_it_does_not_belong(tmp_path):
    ours, other = Checkpoints(tmp_path, {"model.d_model": 32}), Checkpoints(tmp_path, {"model.d_model": 64})
    other.save(5, {})
    path = other.newest()[0]
    path.rename(ours.folder / path.name)
    with pytest.raises(InputError, match=r"another configuration \(model.d_model is 64 there, 32 here\)"):
        ours.newest()


def test_nothing_but_tensors_and_plain_values_is_loaded(tmp_path):
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(1, {"path": tmp_path})  # an arbitrary object
    with pytest.raises(Exception, match="weights_only"):
        checkpoints.newest()


def test_tensors_that_do_not_fit_are_named(tmp_path):
    model = nn.Linear(3, 2)
    path = tmp_path / "x.pt"
    with pytest.raises(InputError, match=r"x.pt: tensor weight is \(2, 4\) there, \(2, 3\) in the model"):
        load_weights(path, model, nn.Linear(4, 2).state_dict())
    with pytest.raises(InputError, match=r"tensor bias is absent there, \(2,\) in the model"):
        load_weights(path, model, nn.Linear(3, 2, bias=False).state_dict())
    with pytest.raises(InputError, match=r"tensor extra is \(1,\) there, absent in the model"):
        load_weights(path, model, model.state_dict() | {"extra": torch.zeros(1)})


def test_identity_is_what_changes_numbers(dna, small):
    ours = identity(small(), dna)
    assert json.loads(json.dumps(ours))  # plain values
    for name, value in (("d_model", 16), ("layer", "s4d")):
        config = small()
        setattr(config.model, name, value)
        assert identity(config, dna) != ours
    assert identity(small(lr=0.5), dna) != ours
    assert identity(small(steps=13), dna) != ours
    assert identity(small(checkpoint_every=7, tensorboard=True), dna) == ours
    config = small()
    config.evaluate.lengths, config.title = [1], "another"
    assert identity(config, dna) == ours
    dna.checksum = "0"
    assert identity(small(), dna) != ours


def test_a_kill_while_they_are_removed_leaves_nothing_to_go_on_from(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path / "checkpoints", {"a": 1})
    checkpoints.save(1, {})

    def killed(path, ignore_errors=False):
        if not ignore_errors:
            raise KeyboardInterrupt

    monkeypatch.setattr(shutil, "rmtree", killed)
    with pytest.raises(KeyboardInterrupt):
        checkpoints.remove()
    assert Checkpoints(tmp_path / "checkpoints", {"a": 1}).newest() is None
