"""The script that trains all models of a task at once: its command line, its result, its end in time."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SMALL = ["optim.batch_size=2", "optim.checkpoint_every=2", "task.curriculum=[]", "data.window=16"]
SMALL += ["evaluate.lengths=[16,40]", "evaluate.max_windows=5", "device=cpu"]


@pytest.mark.slow
def test_runs_out_of_time_are_judged_as_they_are(tmp_path):
    out = tmp_path / "result.json"
    command = [
        sys.executable,
        "docs/results/tasks.py",
        "induction_heads",
        "--out",
        str(out),
        "--minutes",
        "0.2",
    ]
    command += ["--points", "cnn,gru", "--seeds", "0,3", "optim.steps=1000000000", *SMALL]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stdout + done.stderr
    result = json.loads(out.read_text())
    assert [(record["point"], record["length"], record["seeds"]) for record in result["records"]] == [
        (point, length, 2) for point in ("gru", "cnn") for length in (16, 40)
    ]
    taken = {step for record in result["records"] for step in record["training_steps"]}
    assert 1 < min(taken) <= max(taken) < 10**9
    assert "--seeds 0,3 optim.steps" in result["command"]


def test_an_unknown_point_is_said_plainly(tmp_path, capsys):
    spec = importlib.util.spec_from_file_location("results_of_tasks", ROOT / "docs/results/tasks.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.raises(SystemExit, match="2"):
        script.main(["induction_heads", "--points", "cnm", "--out", str(tmp_path / "result.json")])
    assert "no point 'cnm'; known: mamba" in capsys.readouterr().err
