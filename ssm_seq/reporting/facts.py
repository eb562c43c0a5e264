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
    """Cells are text: a name, then numbers; a second line of a cell is shown faintly."""

    head: list[str]
    rows: list[list[str]]
    strong: str = ""  # the row of this name is the one to look at


def headline(results: Results) -> tuple[str, str]:
    """The figure that counts, and the sentence that goes on from it."""
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
        return _store_headline(results)
    return figure, text + (f"Beside it: {', '.join(beside)}." if beside else "")


def _store_headline(results: Results) -> tuple[str, str]:
    """Of an experiment that ends with its store."""
    summary = results.summary
    compared = [found for found in summary["consensus"] if found["identical"] is not None]
    if compared:
        text = (
            f"of {wording.count(compared[0]['compared'])} positions of the consensus are those of the "
            f"reference {compared[0]['record']}, at a mean depth of {compared[0]['mean_depth']:.1f} reads."
        )
        return f"{100 * compared[0]['identical']:.3f} %", text
    skipped = ", ".join(f"{wording.count(n)} for {why}" for why, n in summary["skipped_reads"].items())
    text = f"with {wording.count(summary['positions'])} {results.unit}s are in the store."
    return f"{wording.count(summary['records'])} records", text + (
        f" Left out: {skipped}." if skipped else ""
    )


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
    """Positions and records of every label in every split, as the store's summary counts them."""
    cells = {(part["label"], part["split"]): part for part in results.summary["parts"]}
    splits = [split for split in (*SPLITS, None) if any(split == known for _, known in cells)]
    rows = []
    for label in dict.fromkeys(label for label, _ in cells):
        parts = [cells.get((label, split)) for split in splits]
        rows.append([label or "all records", *(_part_cell(part, results.unit) for part in parts)])
    return Table(["", *(split or "in no split" for split in splits)], rows)


def consensus_table(results: Results) -> Table | None:
    """The consensus of alignments beside the reference."""
    rows = [
        [
            found["record"],
            wording.count(found["length"]),
            f"{found['mean_depth']:.1f}",
            wording.count(found["unknown"]),
            wording.count(found["compared"]),
            wording.count(found["mismatches"]),
            "–" if found["identical"] is None else f"{100 * found['identical']:.3f} %",
        ]
        for found in results.summary["consensus"]
    ]
    head = ["", "positions", "mean depth", "not called (N)", "compared", "differ", "identical"]
    return Table(head, rows) if rows else None


def mismatch_table(results: Results) -> Table | None:
    """The first positions where the consensus differs from the reference."""
    rows = [
        [found["record"], wording.count(place["position"]), place["reference"], place["consensus"]]
        for found in results.summary["consensus"]
        for place in found["first_mismatches"]
    ]
    return Table(["", "position (from 1)", "reference", "consensus"], rows) if rows else None


def remarks(results: Results) -> list[str]:
    """What to bear in mind: the experiment's own remark, and what the store's groups give away."""
    found = [results.config.remark] if results.config.remark else []
    if results.evaluation is None:
        return found
    groups: dict[str | None, set[str | None]] = {}
    members: dict[str, set[str | None]] = {}
    for record in results.store.records:
        groups.setdefault(record.label, set()).add(record.group)
        for span in record.ranges:
            members.setdefault(span.split, set()).add(record.group)
    one = "speaker" if results.store.sample_rate else "group"
    one_each = all(len(names) == 1 and None not in names for names in groups.values())
    if results.evaluation["task"] == "classify" and one_each and not found:
        names = ", ".join(f"{label}: {next(iter(group))}" for label, group in sorted(groups.items()))
        found.append(
            f"Each label has one {one} only ({names}), so the model may tell {one}s apart instead of labels: "
            f"these figures say nothing about a {one} that it has not met."
        )
    test, train = members.get("test", set()), members.get("train", set())
    if test and train and None not in test | train and not test & train:
        names = _some(sorted(str(name) for name in test))
        found.append(f"No {one} of the test split was seen in training; tested on {names}.")
    if results.run and results.run["store"]["checksum"] != results.store.checksum:
        found.append("The store's bytes are not those that the model was trained on.")
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


def sources(results: Results) -> list[tuple[str, str]]:
    """Where the data came from, and the checksum by which it is known again."""
    n_files = len({record.source for record in results.store.records})
    return [
        ("store", f"{results.store.path.name}, {wording.size(len(results.store.data))}"),
        ("sha256", results.store.checksum),
        ("files", f"{wording.count(n_files)}, named in {results.config.data.store.samples}"),
    ]


def training(results: Results) -> list[tuple[str, str]]:
    """What the training run says of itself, without what stands elsewhere on the page."""
    run = {key: value for key, value in (results.run or {}).items() if key not in ("config", "store")}
    return [(key.replace("_", " "), _plain(value)) for key, value in run.items()]


def _plain(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_plain(item)}" for key, item in value.items())
    if isinstance(value, int | float):
        return f"{value:,.1f}" if isinstance(value, float) else f"{value:,}"
    return str(value)


def _some(names: list[str], at_most: int = 12) -> str:
    rest = len(names) - at_most
    return ", ".join(names[:at_most]) + (f" and {rest} more" if rest > 0 else "")


def _part_cell(part: dict | None, unit: str) -> str:
    if part is None:
        return "–"
    records = "1 record" if part["records"] == 1 else f"{wording.count(part['records'])} records"
    return f"{wording.count(part['positions'])} {unit}s\n{records}"


def _bits_interval(row: dict) -> str:
    return "" if row.get("low") is None else f"{row['low']:.3f}–{row['high']:.3f}"


def _accuracy_cell(point: dict | None) -> str:
    if point is None:
        return "–"
    text = wording.percent(point["value"])
    certain = point.get("low") in (None, point.get("high"))
    return text if certain else f"{text}\n{wording.percent_interval(point['low'], point['high'])}"
