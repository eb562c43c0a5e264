"""The demo's results -> docs/results/demo_cpu.json, from which the README's table is made.

python -m ssm_seq.reporting.demo_results results docs/results/demo_cpu.json
"""

import argparse
import datetime
import json
from pathlib import Path
from typing import Any

from ssm_seq.files import write_json
from ssm_seq.reporting.results import Step, read_steps

Record = dict[str, Any]


def demo_results(results: Path) -> dict[str, Any]:
    """The demo's figures in the form of docs/results, each beside its best baseline and its target.

    Raises:
        OSError: the demo was not run to its end.
    """
    run = _read(results / "species/run.json")
    steps = read_steps(results / "benchmarks", [path.name for path in _folders(results)])
    return {
        "what": "The demo",
        "command": "make demo",
        "commit": ", ".join(sorted({_read(path)["git_commit"] for path in results.glob("*/run.json")})),
        "date": datetime.datetime.fromtimestamp((results / "report.html").stat().st_mtime).date().isoformat(),
        "hardware": f"{run['device']}, two cores",
        "software": run["versions"],
        "records": [
            *_accuracies(results / "species", "Species from {} bases", {1024: 0.90}),
            *_whole_genome(_read(results / "species/score.json")["records"][0]),
            _consensus(_read(results / "stores/lambda_consensus/summary.json")),
            *_accuracies(results / "language", "Language from {} samples", {}),
            _bits(results / "speech", "Speech, next 8-bit sample"),
            _record(
                "Speech, generated",
                _read(results / "speech/generated/generated.json")["steps_per_second"],
                "samples/s",
            ),
            _record("From the start to the report", _wall_seconds(results) / 60, "min", target=10),
            _record("Time of all jobs together", sum(step.seconds for step in steps) / 60, "min"),
            _record("Resident memory of the largest job (two run at once)", _largest(steps), "GiB"),
        ],
    }


def _wall_seconds(results: Path) -> float:
    """From the moment Snakemake took the folder to the report, for a run without interruption."""
    return (results / "report.html").stat().st_mtime - (results / ".lock").stat().st_mtime


def _largest(steps: list[Step]) -> float:
    return max(step.resident or 0 for step in steps) / 1024  # Snakemake counts in MiB


def _accuracies(folder: Path, name: str, targets: dict[int, float]) -> list[Record]:
    return [
        _record(
            name.format(f"{result['length']:,}"),
            result["accuracy"],
            "accuracy",
            result,
            targets.get(result["length"]),
        )
        | _best_baseline(folder, result["length"], max)
        for result in _read(folder / "evaluation.json")["results"]
    ]


def _bits(folder: Path, name: str) -> Record:
    evaluation = _read(folder / "evaluation.json")
    return _record(name, evaluation["bits_per_byte"], "bits", evaluation) | _best_baseline(folder, None, min)


def _best_baseline(folder: Path, length: int | None, best: Any) -> Record:
    baselines = _read(folder / "baselines.json")["results"]
    fitting = [baseline for baseline in baselines if length in (None, baseline["length"])]
    chosen = best(fitting, key=lambda baseline: baseline["value"])
    return {"peer": chosen["name"], "peer_value": chosen["value"]}


def _whole_genome(score: Record) -> list[Record]:
    resident = [point["resident_mib"] for point in score["memory"]]
    name = f"E. coli MG1655, {score['length']:,} bases in one pass"
    return [
        _record(f"{name}: time", score["seconds"], "s"),
        _record(f"{name}: resident memory after the first and the last chunk", resident[-1], "MiB")
        | {"low": resident[0], "high": resident[-1]},
        _record(
            f"{name}: probability of E. coli",
            dict(zip(score["classes"], score["track"][-1]["probabilities"], strict=True))["Escherichia coli"],
            "",
        ),
    ]


def _consensus(summary: Record) -> Record:
    [comparison] = summary["consensus"]
    return _record(
        f"Lambda consensus, {comparison['compared']:,} positions compared",
        comparison["identical"],
        "identical",
    )


def _record(
    name: str, value: float, unit: str, interval: Record | None = None, target: float | None = None
) -> Record:
    bounds = {"low": interval["low"], "high": interval["high"]} if interval else {}
    return {"name": name, "value": value, "unit": unit, **bounds, **({"target": target} if target else {})}


def _folders(results: Path) -> list[Path]:
    return sorted(results.glob("stores/*")) + sorted(path.parent for path in results.glob("*/run.json"))


def _read(path: Path) -> Any:
    return json.loads(path.read_text())


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m ssm_seq.reporting.demo_results", description=__doc__)
    parser.add_argument("results", type=Path, help="the demo's results folder")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    write_json(options.out, demo_results(options.results))
