"""What an experiment's model reached, beside the best of its baselines -> a file of docs/results.

python -m ssm_seq.reporting.experiment_results results/text docs/results/text_cpu.json
"""

import argparse
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from ssm_seq.errors import InputError
from ssm_seq.files import read_json, write_json
from ssm_seq.reporting.wording import short_count

Record = dict[str, Any]


def experiment_results(folder: Path, command: str, commit: str | None = None) -> dict[str, Any]:
    """The figures of one experiment in the form of docs/results.

    commit: what was run, where the run could not know it (it was no checkout of git).

    Raises:
        FileNotFoundError: the experiment was not trained or evaluated, or its baselines were not.
        InputError: it is neither of classification nor of a language model.
    """
    run = read_json(folder / "run.json")
    task = read_json(folder / "evaluation.json")["task"]
    if task not in ("classify", "language_model"):
        raise InputError(f"{folder}: the task is {task!r}; expected classify or language_model")
    name = f"{run['config']['model']['layer']}, {short_count(run['parameters'])} parameters"
    return {
        "what": run["config"]["title"],
        "command": command,
        "commit": commit or run["git_commit"],
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": run["device"],
        "software": run["versions"],
        "records": accuracies(folder, f"{name}, length {{}}", {})
        if task == "classify"
        else [bits(folder, name)],
    }


def accuracies(folder: Path, name: str, targets: Mapping[int, float]) -> list[Record]:
    """Records of a classifier's accuracy (0 to 1), one of each length; {} in `name` becomes the length.

    Raises:
        FileNotFoundError: `folder` holds no evaluation.json or baselines.json.
    """
    return [
        record(
            name.format(f"{result['length']:,}"),
            result["accuracy"],
            "accuracy",
            result,
            targets.get(result["length"]),
        )
        | _best_baseline(folder, result["length"], max)
        for result in read_json(folder / "evaluation.json")["results"]
    ]


def bits(folder: Path, name: str) -> Record:
    """The record of a language model's bits per byte.

    Raises:
        FileNotFoundError: `folder` holds no evaluation.json or baselines.json.
    """
    evaluation = read_json(folder / "evaluation.json")
    return record(name, evaluation["bits_per_byte"], "bits", evaluation) | _best_baseline(folder, None, min)


def record(
    name: str, value: float, unit: str, interval: Record | None = None, target: float | None = None
) -> Record:
    """One line of a result; interval: where `low` and `high` are to be found."""
    bounds = {"low": interval["low"], "high": interval["high"]} if interval else {}
    return {"name": name, "value": value, "unit": unit, **bounds, **({"target": target} if target else {})}


def _best_baseline(folder: Path, length: int | None, best: Callable[..., Record]) -> Record:
    baselines = read_json(folder / "baselines.json")["results"]
    fitting = [baseline for baseline in baselines if length in (None, baseline["length"])]
    if not fitting:
        return {}
    chosen = best(fitting, key=lambda baseline: baseline["value"])
    return {"peer": chosen["name"], "peer_value": chosen["value"]}


def main(arguments: Sequence[str] | None = None) -> int:
    arguments = sys.argv[1:] if arguments is None else arguments
    name = "python -m ssm_seq.reporting.experiment_results"
    parser = argparse.ArgumentParser(name, description=__doc__)
    parser.add_argument("experiment", type=Path, help="its folder: run.json, evaluation.json, baselines.json")
    parser.add_argument("out", type=Path, help="the JSON file to write")
    parser.add_argument("--commit", help="what was run, where that was no checkout of git")
    options = parser.parse_args(arguments)
    try:
        result = experiment_results(options.experiment, f"{name} {shlex.join(arguments)}", options.commit)
    except FileNotFoundError as error:
        print(f"{error.filename}: no such file; train, evaluate and judge baselines first", file=sys.stderr)
        return 2
    except InputError as error:
        print(error, file=sys.stderr)
        return 2
    write_json(options.out, result)
    return 0


if __name__ == "__main__":
    sys.exit(main())
