"""The result files of one experiment, read as they stand; what is missing stays None or empty."""

import csv
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from ssm_seq.config import Config
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError
from ssm_seq.reporting.wording import UNITS

_RULES = ("prepare", "train", "evaluate", "baselines", "score", "generate")


class Step(NamedTuple):
    """One job as Snakemake timed it; resident: MB at the peak."""

    name: str
    seconds: float
    resident: float | None


@dataclass(frozen=True)
class Results:
    """name: the experiment's folder; the rest is what the files of these names hold, if they exist."""

    name: str
    config: Config
    store: Store
    summary: dict[str, Any]
    metrics: list[dict[str, Any]]
    run: dict[str, Any] | None
    evaluation: dict[str, Any] | None
    baselines: list[dict[str, Any]]
    score: dict[str, Any] | None
    generated: dict[str, Any] | None
    generated_files: list[Path]
    steps: list[Step]

    @property
    def title(self) -> str:
        return self.config.title or self.name

    @property
    def unit(self) -> str:
        """What one position is."""
        return UNITS[self.store.alphabet.name][0]

    @property
    def resampled(self) -> str:
        """What the bootstrap of the evaluation draws anew (see ssm_seq.evaluation.metrics)."""
        tested = Counter(
            record.label
            for record in self.store.records
            if any(span.split == "test" for span in record.ranges)
        )
        if all(count > 1 for count in tested.values()):
            return "whole records"
        if all(count == 1 for count in tested.values()):
            return "windows, as each label has one test record"
        return "whole records, or windows where a label has one test record"


def read_results(folder: Path, store: Path, benchmarks: Path, config: Config) -> Results:
    """Everything there is about the experiment in `folder`.

    Args:
        folder: results/NAME; it need not exist for an experiment of which only the store is made.
        store: the byte store's folder.
        benchmarks: Snakemake's benchmark files, RULE/NAME.tsv, where NAME is an experiment or a store.
        config: the experiment's configuration.

    Raises:
        InputError: a file is damaged, or there is no store.
    """
    baselines = _json(folder / "baselines.json")
    return Results(
        name=folder.name,
        config=config,
        store=Store.open(store),
        summary=_summary(store / "summary.json"),
        metrics=_json_lines(folder / "metrics.jsonl"),
        run=_json(folder / "run.json"),
        evaluation=_json(folder / "evaluation.json"),
        baselines=baselines["results"] if baselines else [],
        score=_json(folder / "score.json"),
        generated=_json(folder / "generated/generated.json"),
        generated_files=sorted((folder / "generated").glob("generated*")),
        steps=read_steps(benchmarks, [store.name, folder.name]),
    )


def read_steps(benchmarks: Path, names: Sequence[str]) -> list[Step]:
    """The timings of the jobs of these stores and experiments, in the workflow's order.

    Raises:
        InputError: a file is not a benchmark of Snakemake.
    """
    steps = []
    for name in dict.fromkeys(names):
        for rule in _RULES:
            path = benchmarks / rule / f"{name}.tsv"
            if not path.is_file():
                continue
            try:
                with path.open(newline="") as file:
                    row = next(csv.DictReader(file, delimiter="\t"))
                steps.append(Step(f"{rule} {name}", float(row["s"]), _megabytes(row["max_rss"])))
            except (StopIteration, KeyError, ValueError, TypeError):
                raise InputError(f"{path}: this is not a benchmark file of Snakemake") from None
    return steps


def _megabytes(text: str) -> float | None:
    # A job that ends before Snakemake looks at it has no memory figure.
    return None if text in ("-", "NA", "") else float(text)


def _summary(path: Path) -> dict[str, Any]:
    if (summary := _json(path)) is None:
        raise InputError(f"{path}: the store has no summary; prepare it again")
    return summary


def _json(path: Path) -> Any:
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise InputError(f"{path}: this is not JSON ({error})") from None


def _json_lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            raise InputError(f"{path}: line {number} is not JSON") from None
    return lines
