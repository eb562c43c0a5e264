"""metrics.jsonl: no gaps, no repeats, no half lines."""

import json
import sys

import pytest

from ssm_seq.errors import InputError
from ssm_seq.training.metrics_log import MetricsLog


def test_lines_after_the_checkpoint_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n{"step": 4}\n{"step": 4, "valid_loss": 1}\n{"step": 6}\n{"step": 8, "lo')
    with MetricsLog(path, 4) as log:
        log.write({"step": 6, "loss": 0.5})
        log.sync()
        log.copy(tmp_path / "copy.jsonl")
    assert [json.loads(line) for line in path.read_text().splitlines()] == [
        {"step": 2},
        {"step": 4},
        {"step": 4, "valid_loss": 1},
        {"step": 6, "loss": 0.5},
    ]
    assert (tmp_path / "copy.jsonl").read_bytes() == path.read_bytes()


def test_a_fresh_start_empties_the_file(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 2}\n')
    with MetricsLog(path, 0):
        pass
    assert path.read_text() == ""


def test_tensorboard_has_the_same_numbers(tmp_path):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    with MetricsLog(tmp_path / "metrics.jsonl", 0, tmp_path / "events") as log:
        log.write({"step": 3, "loss": 0.25})
    events = accumulator.EventAccumulator(str(tmp_path / "events")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.25)]


def test_tensorboard_that_is_not_installed(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(InputError, match="needs the package tensorboard"):
        MetricsLog(tmp_path / "metrics.jsonl", 0, tmp_path / "events")
