"""The demo's results -> docs/results/demo_cpu.json, from which the README's table is made.

python -m ssm_seq.reporting.demo_results results docs/results/demo_cpu.json
"""

import argparse
import datetime
from pathlib import Path
from typing import Any

from ssm_seq.files import read_json, write_json
from ssm_seq.reporting.experiment_results import Record, accuracies, bits, record
from ssm_seq.reporting.results import Step, read_steps


def demo_results(results: Path) -> dict[str, Any]:
    """The demo's figures in the form of docs/results, each beside its best baseline and its target.

    Raises:
        OSError: the demo was not run to its end.
    """
    run = read_json(results / "species/run.json")
    steps = read_steps(results / "benchmarks", [path.name for path in _folders(results)])
    return {
        "what": "The demo",
        "command": "make demo",
        "commit": ", ".join(sorted({read_json(path)["git_commit"] for path in results.glob("*/run.json")})),
        "date": datetime.datetime.fromtimestamp((results / "report.html").stat().st_mtime).date().isoformat(),
        "hardware": f"{run['device']}, two cores",
        "software": run["versions"],
        "records": [
            *accuracies(results / "species", "Species from {} bases", {1024: 0.90}),
            *_whole_genome(read_json(results / "species/score.json")["records"][0]),
            _consensus(read_json(results / "stores/lambda_consensus/summary.json")),
            *accuracies(results / "language", "Language from {} samples", {}),
            bits(results / "speech", "Speech, next 8-bit sample"),
            record(
                "Speech, generated",
                read_json(results / "speech/generated/generated.json")["steps_per_second"],
                "samples/s",
            ),
            record("From the start to the report", _wall_seconds(results) / 60, "min", target=10),
            record("Time of all jobs together", sum(step.seconds for step in steps) / 60, "min"),
            record("Resident memory of the largest job (two run at once)", _largest(steps), "GiB"),
        ],
    }


def _wall_seconds(results: Path) -> float:
    """From the moment Snakemake took the folder to the report, for a run without interruption."""
    return (results / "report.html").stat().st_mtime - (results / ".lock").stat().st_mtime


def _largest(steps: list[Step]) -> float:
    return max(step.resident or 0 for step in steps) / 1024  # Snakemake counts in MiB


def _whole_genome(score: Record) -> list[Record]:
    resident = [point["resident_mib"] for point in score["memory"]]
    name = f"E. coli MG1655, {score['length']:,} bases in one pass"
    return [
        record(f"{name}: time", score["seconds"], "s"),
        record(f"{name}: resident memory after the first and the last chunk", resident[-1], "MiB")
        | {"low": resident[0], "high": resident[-1]},
        record(
            f"{name}: probability of E. coli",
            dict(zip(score["classes"], score["track"][-1]["probabilities"], strict=True))["Escherichia coli"],
            "",
        ),
    ]


def _consensus(summary: Record) -> Record:
    [comparison] = summary["consensus"]
    return record(
        f"Lambda consensus, {comparison['compared']:,} positions compared",
        comparison["identical"],
        "identical",
    )


def _folders(results: Path) -> list[Path]:
    return sorted(results.glob("stores/*")) + sorted(path.parent for path in results.glob("*/run.json"))


if __name__ == "__main__":
    parser = argparse.ArgumentParser("python -m ssm_seq.reporting.demo_results", description=__doc__)
    parser.add_argument("results", type=Path, help="the demo's results folder")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    options = parser.parse_args()
    write_json(options.out, demo_results(options.results))
