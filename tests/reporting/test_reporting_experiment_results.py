"""What an experiment's folder says, in the form of docs/results."""

import pytest

from ssm_seq.files import write_json
from ssm_seq.reporting.experiment_results import main
from ssm_seq.reporting.results_table import markdown_table, read_result


@pytest.fixture
def folder(tmp_path):
    config = {"title": "Letters", "model": {"layer": "s4d"}}
    run = {"config": config, "parameters": 92_000, "git_commit": "c" * 40, "device": "a CPU", "versions": {}}
    write_json(tmp_path / "run.json", run)
    return tmp_path


def baseline(name, length, value):
    return {"name": name, "length": length, "value": value}


def records(folder):
    assert main([str(folder), str(folder / "out.json")]) == 0
    result = read_result(folder / "out.json")
    assert "Letters" in markdown_table(result) and str(folder) in result["command"]
    return result["records"]


def test_bits_stand_beside_the_best_baseline(folder):
    write_json(
        folder / "evaluation.json", {"task": "language_model", "bits_per_byte": 2, "low": 1, "high": 3}
    )
    write_json(folder / "baselines.json", {"results": [baseline("a", 9, 5.0), baseline("b", 9, 4.0)]})
    [bits] = records(folder)
    assert (bits["value"], bits["low"], bits["high"]) == (2, 1, 3)
    assert (bits["peer"], bits["peer_value"]) == ("b", 4.0)
    assert bits["name"] == "s4d, 92k parameters"


def test_accuracies_stand_beside_the_best_baseline_of_their_length(folder):
    results = [{"length": length, "accuracy": 0.9, "low": 0.8, "high": 1.0} for length in (256, 1024)]
    write_json(folder / "evaluation.json", {"task": "classify", "results": results})
    judged = [baseline("a", 256, 0.5), baseline("b", 256, 0.6), baseline("a", 1024, 0.7)]
    write_json(folder / "baselines.json", {"results": judged})
    short, long = records(folder)
    assert (short["peer"], short["peer_value"]) == ("b", 0.6)
    assert (long["peer"], long["peer_value"]) == ("a", 0.7)
    assert long["name"].endswith("length 1,024")


def test_a_length_without_a_baseline_stands_alone(folder):
    results = [{"length": 256, "accuracy": 0.9, "low": 0.8, "high": 1.0}]
    write_json(folder / "evaluation.json", {"task": "classify", "results": results})
    write_json(folder / "baselines.json", {"results": [baseline("a", 1024, 0.7)]})
    [alone] = records(folder)
    assert alone["value"] == 0.9 and "peer" not in alone


def test_a_task_of_another_kind_is_refused(folder, capsys):
    write_json(folder / "evaluation.json", {"task": "induction_heads", "results": []})
    assert main([str(folder), str(folder / "out.json")]) == 2
    assert "'induction_heads'; expected classify or language_model" in capsys.readouterr().err


def test_what_is_missing_is_named(folder, capsys):
    assert main([str(folder), str(folder / "out.json")]) == 2
    assert "evaluation.json: no such file" in capsys.readouterr().err
    assert not (folder / "out.json").exists()
