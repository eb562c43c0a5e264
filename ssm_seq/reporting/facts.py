"""What a page says in words and tables, taken from the result files."""

import dataclasses
from dataclasses import dataclass

import yaml

from ssm_seq.data.store import SPLITS
from ssm_seq.reporting import wording
from ssm_seq.reporting.panels import positions, window_result
from ssm_seq.reporting.results import Results

MODEL = "this model"


@dataclass(frozen=True)
class Table:
    """Cells are text; the first column is names, the others are numbers and stand right."""

    head: list[str]
    rows: list[list[str]]
    strong: str = ""  # the row of this name is the one to look at


def headline(results: Results) -> tuple[str, str]:
    """The figure that counts and the sentence that goes on from it, empty when nothing was evaluated."""
    trained = window_result(results)
    if trained is not None:
        figure = wording.percent(trained["accuracy"])
        text = (
            f"of {wording.count(trained['n'])} test windows of {positions(results, trained['length'])} "
            f"are given the right one of {len(results.evaluation['classes'])} labels (95 % interval "
            f"{wording.percent_interval(trained['low'], trained['high'])} %). "
        )
        longest = max(results.evaluation["results"], key=lambda result: result["length"])
        if longest["length"] > trained["length"]:
            reads = positions(results, longest["length"])
            text += f"With {reads} to read, the same model reaches {wording.percent(longest['accuracy'])}. "
        beside = [
            f"{point['name']} {wording.percent(point['value'])}"
            for point in results.baselines
            if point["metric"] == "accuracy" and point["length"] in (None, trained["length"])
        ]
    elif results.evaluation:
        evaluation = results.evaluation
        figure = f"{evaluation['bits_per_byte']:.3f} bits"
        text = (
            f"per {results.unit} on {wording.count(evaluation['positions'])} {results.unit}s of the test "
            f"split (95 % interval {evaluation['low']:.3f}–{evaluation['high']:.3f}; fewer are better). "
        )
        beside = [
            f"{point['name']} {point['value']:.3f}"
            for point in results.baselines
            if point["metric"] == "bits_per_byte"
        ]
    else:
        return "", ""
    return figure, text + (f"Beside it: {', '.join(beside)}." if beside else "")


def result_table(results: Results) -> Table | None:
    """The model beside its baselines: accuracy at every length, or bits per position."""
    evaluation = results.evaluation
    if not evaluation:
        return None
    if evaluation["task"] == "language_model":
        mine = {"name": MODEL, "value": evaluation["bits_per_byte"], **evaluation}
        rows = [mine] + [point for point in results.baselines if point["metric"] == "bits_per_byte"]
        rows.sort(key=lambda row: row["value"])
        cells = [[row["name"], f"{row['value']:.3f}", _bits_interval(row)] for row in rows]
        return Table(["", f"bits per {results.unit}", "95 % interval"], cells, MODEL)
    accuracy = {
        (MODEL, result["length"]): {**result, "value": result["accuracy"]} for result in evaluation["results"]
    }
    names = [MODEL]
    for point in results.baselines:
        if point["metric"] == "accuracy":
            accuracy[point["name"], point["length"]] = point
            names += [point["name"]] if point["name"] not in names else []
    lengths = sorted({length for _, length in accuracy if length is not None})
    rows = []
    for name in names:
        points = [accuracy.get((name, length), accuracy.get((name, None))) for length in lengths]
        rows.append([name, *(_accuracy_cell(point) for point in points)])
    return Table([f"accuracy at a window of … {results.unit}s", *map(wording.count, lengths)], rows, MODEL)


def data_table(results: Results) -> Table:
    """Records, groups and positions of every label in every split."""
    store = results.store
    splits = [split for split in SPLITS if split in store.split_names]
    rows = []
    for label in store.labels or [None]:
        records = [record for record in store.records if label in (None, record.label)]
        row = [label or "all records"]
        for split in splits:
            parts = [(record, span) for record in records for span in record.ranges if span.split == split]
            groups = {record.group for record, _ in parts if record.group}
            text = f"{wording.count(sum(span.end - span.start for _, span in parts))} {results.unit}s"
            text += f"\n{len(groups)} group{'s' * (len(groups) != 1)}" if groups else ""
            row.append(text)
        row.append(wording.count(len(records)))
        rows.append(row)
    return Table(["", *splits, "records"], rows)


def remarks(results: Results) -> list[str]:
    """What to bear in mind: the experiment's own remark, and what the store's groups give away."""
    found = [results.config.remark] if results.config.remark else []
    if results.evaluation is None:
        return found
    groups: dict[str | None, set[str | None]] = {}
    members: dict[str, set[str]] = {}
    for record in results.store.records:
        groups.setdefault(record.label, set()).add(record.group)
        for span in record.ranges:
            members.setdefault(span.split, set()).add(record.group or "")
    if results.evaluation["task"] == "classify" and all(
        len(g) == 1 and None not in g for g in groups.values()
    ):
        one = "speaker" if results.store.sample_rate else "group"
        found.append(
            f"Every label comes from one {one} alone, so the model may have learnt to tell the {one}s "
            f"apart: these figures say nothing about a {one} that it has not met."
        )
    test, train = members.get("test", set()) - {""}, members.get("train", set()) - {""}
    if test and train and not test & train:
        found.append(f"No group of the test split was seen in training; tested on {_some(sorted(test))}.")
    return found


def configuration(results: Results) -> str:
    """The composed configuration as YAML."""
    return yaml.safe_dump(
        dataclasses.asdict(results.config),
        sort_keys=False,
        default_flow_style=None,
        allow_unicode=True,
        width=100,
    )


def provenance(results: Results) -> list[tuple[str, str]]:
    """What was run, on what, and the checksum of what it read."""
    rows = [
        ("store", results.store.path.name),
        ("sha256 of the store's bytes", results.store.checksum),
        ("size of the store", wording.size(len(results.store.data))),
        ("files", _some(sorted({record.source for record in results.store.records if record.source}))),
    ]
    run = {key: value for key, value in (results.run or {}).items() if key != "config"}
    return rows + [(key.replace("_", " "), _plain(value)) for key, value in run.items()]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    return f"{value:,.1f}" if isinstance(value, float) else str(value)


def _some(names: list[str], at_most: int = 12) -> str:
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def _bits_interval(row: dict) -> str:
    return "" if row.get("low") is None else f"{row['low']:.3f}–{row['high']:.3f}"


def _accuracy_cell(point: dict | None) -> str:
    if point is None:
        return "–"
    interval = (
        "" if point.get("low") is None else f"\n{wording.percent_interval(point['low'], point['high'])}"
    )
    return wording.percent(point["value"]) + interval
