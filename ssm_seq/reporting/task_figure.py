"""The result file of a task (from `ssm_seq.reporting.task_results`) -> its figure beside it.

    python -m ssm_seq.reporting.task_figure docs/results/induction_heads_h200.json

Accuracy, or the error, against length; bars where there is one length.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from ssm_seq.errors import InputError
from ssm_seq.files import whole_file
from ssm_seq.reporting.results_table import read_result
from ssm_seq.reporting.style import COLOURS, INK, MUTED, blank, grid, to_svg

MARKERS = "osD^vP*X<>dph8"


def task_figure(result: dict[str, Any]) -> Figure:
    """Values against length, a line for each point with its extremes; bars where there is one length."""
    points: dict[str, list[dict[str, Any]]] = {}
    for record in result["records"]:
        points.setdefault(record["point"], []).append(record)
    if all(len(records) == 1 for records in points.values()):
        return _bars([records[0] for records in points.values()])
    drawing = blank(3.4)
    drawing.set_facecolor("white")  # it stands on pages of any colour
    axes = drawing.subplots()
    for number, (name, records) in enumerate(points.items()):
        lengths = [record["length"] for record in records]
        turn, colour = divmod(number, len(COLOURS))  # dashed where colours come again
        look = {"color": COLOURS[colour], "marker": MARKERS[number % len(MARKERS)]}
        values = [record["value"] for record in records]
        axes.plot(lengths, values, label=name, linestyle=("-", "--", ":")[turn % 3], **look)
        bounds = ([record[end] for record in records] for end in ("low", "high"))
        axes.fill_between(lengths, *bounds, color=look["color"], alpha=0.15, linewidth=0)
    axes.set_xscale("log", base=2)
    axes.axvline(result["trained_at"], color=MUTED, linestyle=":", linewidth=1)
    over = {"transform": axes.get_xaxis_transform(), "va": "bottom", "size": 8}
    axes.text(result["trained_at"], 1.01, "trained here", color=MUTED, ha="center", **over)
    axes.set(xlabel="length of the test sequences", ylabel=_label(result["records"][0]))
    if _is_share(result["records"][0]):
        axes.set_ylim(0, 1.03)
        axes.yaxis.set_major_formatter(PercentFormatter(1))
    grid(axes)
    axes.legend(loc="center left", bbox_to_anchor=(1, 0.5))
    return drawing


def _bars(records: list[dict[str, Any]]) -> Figure:
    drawing = blank(0.3 * len(records) + 0.8)
    drawing.set_facecolor("white")
    axes = drawing.subplots()
    for height, record in enumerate(reversed(records)):
        axes.barh(height, record["value"], height=0.6, color=COLOURS[0], alpha=0.85)
        axes.plot([record["low"], record["high"]], [height, height], color=INK, linewidth=1.2)
    shares = _is_share(records[0])
    form = (lambda value: f"{100 * value:.4g} %") if shares else (lambda value: f"{value:.3g}")
    names = [f"{record['point']}: {form(record['value'])}" for record in reversed(records)]
    axes.set_yticks(range(len(records)), names)
    axes.tick_params(axis="y", length=0)
    axes.spines.left.set_visible(False)
    axes.set(xlabel=_label(records[0]))
    if shares:
        axes.set_xlim(0, 1)
        axes.xaxis.set_major_formatter(PercentFormatter(1))
    return drawing


def _is_share(record: dict[str, Any]) -> bool:
    return record["unit"] == "accuracy"


def _label(record: dict[str, Any]) -> str:
    return "right answers" if _is_share(record) else record["unit"]


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when all figures were written, 2 for bad input."""
    try:
        for path in map(Path, sys.argv[1:] if arguments is None else arguments):
            result = read_result(path)
            with whole_file(path.with_suffix(".svg")) as partial:
                partial.write_text(to_svg(task_figure, result))
    except InputError as error:
        print(f"task_figure: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
