"""The models of a task as one result and one figure."""

import json
import re

import pytest

from ssm_seq.files import write_json
from ssm_seq.reporting import results_table, task_figure, task_results


def write_run(folder, accuracies, seconds=10.0):
    folder.mkdir(parents=True)
    config = {"title": "Induction heads", "task": {"name": "induction_heads"}, "data": {"window": 64}}
    about = {"git_commit": "abc", "device": "a GPU", "versions": {"torch": "2"}, "parameters": 7, "steps": 5}
    write_json(folder / "run.json", about | {"config": config, "seconds": seconds})
    lines = [
        {"length": length, "n": 50, "accuracy": value, "low": value - 0.1, "high": value + 0.1}
        for length, value in accuracies.items()
    ]
    write_json(folder / "evaluation.json", {"results": lines})


@pytest.fixture
def points(tmp_path):
    write_run(tmp_path / "points/mamba/0", {64: 1.0, 128: 0.9}, seconds=20.0)
    write_run(tmp_path / "points/mamba/1", {64: 0.8, 128: 0.4}, seconds=10.0)
    write_run(tmp_path / "points/cnn/0", {64: 0.5})
    (tmp_path / "points/cnn/1").mkdir()  # not finished
    return tmp_path / "points"


def test_a_record_is_the_mean_and_the_extremes_over_seeds(points, tmp_path):
    out = tmp_path / "result.json"
    assert task_results.main(["--points", str(points), "--command", "made so", "--out", str(out)]) == 0
    result = results_table.read_result(out)
    assert result["command"] == "made so" and result["hardware"] == "a GPU" and result["trained_at"] == 64
    cnn, first, second = result["records"]
    assert (cnn["name"], cnn["value"], cnn["low"], cnn["high"]) == (
        "cnn, 64",
        0.5,
        0.4,
        0.6,
    )  # its own interval
    assert (first["value"], first["low"], first["high"]) == (0.9, 0.8, 1.0)
    assert (second["name"], second["of_seeds"]) == ("mamba, 128", [0.9, 0.4])
    assert (second["target"], "target" in cnn) == (1.0, False)
    assert (second["seeds"], second["sequences"], second["training_seconds"]) == (2, [50, 50], 15.0)
    assert "mamba, 128" in results_table.markdown_table(result)


def test_some_points_in_their_order(points):
    result = task_results.task_result(points, "", ["mamba", "cnn"])
    assert [record["point"] for record in result["records"]] == ["mamba", "mamba", "cnn"]
    assert {record["point"] for record in task_results.task_result(points, "", ["cnn"])["records"]} == {"cnn"}


@pytest.mark.parametrize("only", [["mamba", "cnn"], ["cnn"]])
def test_the_figure_names_every_point(points, tmp_path, only):
    path = tmp_path / "result.json"
    write_json(path, task_results.task_result(points, "", only))
    assert task_figure.main([str(path)]) == 0
    drawn = path.with_suffix(".svg").read_text()
    assert all(re.search(rf">\s*{name}\b", drawn) for name in only)
    first = path.with_suffix(".svg").read_bytes()
    assert task_figure.main([str(path)]) == 0 and path.with_suffix(".svg").read_bytes() == first


def test_nothing_finished_is_said_plainly(tmp_path, capsys):
    arguments = ["--points", str(tmp_path), "--command", "x", "--out", str(tmp_path / "result.json")]
    assert task_results.main(arguments) == 2
    (tmp_path / "bad.json").write_text(json.dumps({"records": []}))
    assert task_figure.main([str(tmp_path / "bad.json")]) == 2
    said = capsys.readouterr().err
    assert "no POINT/SEED/evaluation.json" in said and "missing" in said
