"""The trained models of a task -> one result file.

    python -m ssm_seq.reporting.task_results --points FOLDER --command "what made them" --out FILE.json

FOLDER/POINT/SEED/ hold run.json and evaluation.json of one model each. A record's value is the mean over the
seeds, its interval the extremes over them or, of one seed, the 95 % interval of its test sequences.
"""

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean
from typing import Any

from ssm_seq.errors import InputError
from ssm_seq.files import read_json, write_json

# What the records of (experiment's title, point) are to reach.
TARGETS = {
    ("Selective copying", "mamba"): 0.995,
    ("Induction heads", "mamba"): 1.0,
    ("Sequential Fashion-MNIST", "s4"): 0.9,
    ("Sequential Fashion-MNIST", "s4d"): 0.9,
}


def task_result(points: Path, command: str, only: Sequence[str] | None = None) -> dict[str, Any]:
    """The content of the result file (see `ssm_seq.reporting.results_table`), of all points or `only` some.

    Each record also names its `point` (a model and its settings) and its `length`, and says how many seeds
    and parameters there are and how long a run trained.

    Raises:
        InputError: there is no finished model.
    """
    names = only or sorted(folder.name for folder in points.glob("*"))
    runs = {
        name: [_run(path.parent) for path in sorted((points / name).glob("*/evaluation.json"))]
        for name in names
    }
    found = {name: of_seeds for name, of_seeds in runs.items() if of_seeds}
    if not found:
        raise InputError(f"{points}: there is no POINT/SEED/evaluation.json here")
    records = [record for name, runs in found.items() for record in _records(name, runs)]
    first = next(iter(found.values()))[0]
    config = first["config"]
    return {
        "what": f"{config['title']}: mean and extremes over seeds (of one seed its 95 % interval)",
        "command": command,
        "commit": first["git_commit"],
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": first["device"],
        "software": first["versions"],
        "task": config["task"],
        "trained_at": config["data"]["window"],
        "records": records,
    }


def _run(folder: Path) -> dict[str, Any]:
    return read_json(folder / "run.json") | {"results": read_json(folder / "evaluation.json")["results"]}


def _records(name: str, runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    lines = []
    for number, result in enumerate(runs[0]["results"]):
        metric = "accuracy" if "accuracy" in result else "rms_error"
        of_seeds = [run["results"][number][metric] for run in runs]
        one = len(runs) == 1
        beside = (
            {"peer": result["beside"], "peer_value": result["beside_value"]} if "beside" in result else {}
        )
        target = TARGETS.get((runs[0]["config"]["title"], name))
        lines.append(
            beside
            | ({} if target is None else {"target": target})
            | {
                "name": f"{name}, {result['length']:,}",
                "value": mean(of_seeds),
                "unit": "accuracy" if metric == "accuracy" else "relative RMS error",
                "low": result["low"] if one else min(of_seeds),
                "high": result["high"] if one else max(of_seeds),
                "point": name,
                "length": result["length"],
                "sequences": [run["results"][number]["n"] for run in runs],
                "seeds": len(runs),
                "of_seeds": of_seeds,
                "parameters": runs[0]["parameters"],
                "training_steps": [run["steps"] for run in runs],
                "training_seconds": round(mean(run["seconds"] for run in runs), 1),
            }
        )
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the file was written, 2 for bad input."""
    parser = argparse.ArgumentParser(
        "python -m ssm_seq.reporting.task_results", description=__doc__.splitlines()[0]
    )
    parser.add_argument("--points", type=Path, required=True, help="folder of POINT/SEED/ folders")
    parser.add_argument("--only", nargs="+", metavar="POINT", help="these, in this order")
    parser.add_argument("--command", required=True, help="what made them, for the file")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    try:
        write_json(options.out, task_result(options.points, options.command, options.only))
    except InputError as error:
        print(f"task_results: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
