"""kill -9 at any moment, run again: the weights and the metrics of a run that nobody disturbed."""

import json
import multiprocessing
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch

from ssm_seq.config import Config
from ssm_seq.data.store import Store
from ssm_seq.models import Model
from ssm_seq.training import checkpoint, loop
from ssm_seq.training.checkpoint import Checkpoints
from ssm_seq.training.metrics_log import MetricsLog

# Processes that start with everything imported (torch.optim imports torch._dynamo late) and without threads.
processes = multiprocessing.get_context("forkserver")
processes.set_forkserver_preload(["ssm_seq.training.loop", "torch._dynamo"])

MOMENTS = {
    "before the first checkpoint": (loop.Run, "take_step", 2),
    "in the middle": (loop.Run, "take_step", 9),
    "with a line of metrics written and no checkpoint": (MetricsLog, "write", 7),
    "while a checkpoint has no name": (checkpoint, "sha256", 2),
    "before an old checkpoint is removed": (Path, "unlink", 1),
    "before the weights": (Model, "save", 1),
    "before the record of the run": (loop, "write_json", 1),
    "before the checkpoints go": (Checkpoints, "remove", 1),
}


def run(config: Config, store: Path, out: Path, moment: str | None = None) -> None:
    """In a process of its own: train, and die as by kill -9 at `moment`."""
    torch.set_num_threads(1)
    if moment:
        owner, name, call = MOMENTS[moment]
        original, calls = getattr(owner, name), []

        def dying(*arguments, **options):
            calls.append(name)
            if len(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*arguments, **options)

        setattr(owner, name, dying)
    loop.train(config, Store.open(store), out, "cpu")


def process(*arguments):
    started = processes.Process(target=run, args=arguments)
    started.start()
    return started


def finished(*arguments) -> int:
    started = process(*arguments)
    started.join(60)
    return started.exitcode


def outcome(out: Path) -> tuple[bytes, list[dict]]:
    """The weights, bit for bit, and the metrics without their timings."""
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    for line in lines:
        line.pop("seconds", None)
        line.pop("tokens_per_second", None)
    return (out / "model/model.safetensors").read_bytes(), lines


@pytest.fixture(scope="module")
def undisturbed():
    """The outcome of a run that is left alone, once for each configuration."""
    known = {}

    def get(config: Config, store: Path, out: Path) -> tuple[bytes, list[dict]]:
        key = repr(config)
        if key not in known:
            assert finished(config, store, out) == 0
            known[key] = outcome(out)
        return known[key]

    return get


@pytest.mark.parametrize("moment", MOMENTS)
def test_killed_at(moment, dna, small, tmp_path, undisturbed):
    config = small("language_model", accumulate=2)
    expected = undisturbed(config, dna.path, tmp_path / "undisturbed")
    out = tmp_path / "out"
    assert finished(config, dna.path, out, moment) == -signal.SIGKILL
    assert not (out / "run.json").exists() or moment == "before the checkpoints go"
    assert finished(config, dna.path, out) == 0
    assert outcome(out) == expected
    assert not (out / "checkpoints").exists()
    assert json.loads((out / "run.json").read_text())["tokens"] == 12 * 2 * 4 * 47


@pytest.mark.slow
def test_killed_at_random_moments(dna, small, tmp_path, undisturbed):
    config = small(steps=400, valid_every=20, checkpoint_every=4, log_every=3)
    expected = undisturbed(config, dna.path, tmp_path / "undisturbed")
    out, kills, resumed = tmp_path / "out", 0, 0
    for attempt in range(5):
        started = process(config, dna.path, out)
        # From the attempt's own start of training on, whatever the machine takes to get there.
        before = set((out / "checkpoints").rglob("*.pt"))
        while started.is_alive() and set((out / "checkpoints").rglob("*.pt")) == before:
            time.sleep(0.001)
        time.sleep(random.Random(attempt).uniform(0, 0.15))
        resumed += bool(before)
        started.kill()
        started.join()
        if started.exitcode == 0:
            break
        kills += 1
    assert kills >= 4
    assert resumed >= 3
    assert finished(config, dna.path, out) == 0
    assert outcome(out) == expected


def test_a_corrupted_checkpoint_falls_back_to_the_one_before(dna, small, tmp_path, undisturbed):
    config = small("language_model", accumulate=2)
    expected = undisturbed(config, dna.path, tmp_path / "undisturbed")
    out = tmp_path / "out"
    finished(config, dna.path, out, "in the middle")
    newest = max((out / "checkpoints").rglob("*.pt"))
    newest.write_bytes(newest.read_bytes()[:-1])
    assert finished(config, dna.path, out) == 0
    assert outcome(out) == expected
