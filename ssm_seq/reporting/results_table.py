"""Measured results (docs/results/*.json) -> a table in Markdown and a figure beside the JSON.

    python -m ssm_seq.reporting.results_table docs/results/*.json
    python -m ssm_seq.reporting.results_table --into README.md

The second fills what stands between `<!-- table: docs/results/NAME.json -->` and `<!-- end -->`; with
`NAME.json targets` only the records that have a target. A result is {what, command, commit, date, hardware,
software, records: [{name, value, unit, low, high, floor, target, peer, peer_value, failed}]}; low and high
are an interval or extremes, floor is what the hardware allows, and only name, value and unit must be there.
A value of null was tried: `failed` says why there is none. `peers`, beside `what`, says where figures of
peers come from that were not measured in the same run.
"""

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ssm_seq.errors import InputError
from ssm_seq.files import whole_file
from ssm_seq.reporting.style import COLOURS, INK, MUTED, PAPER, blank, to_svg
from ssm_seq.reporting.wording import figure, short_count

_MARKED = re.compile(r"(<!-- table: (\S+)( targets)? -->\n).*?(<!-- end -->)", re.DOTALL)
_HEAD = ("what", "command", "commit", "date", "hardware", "software", "records")


def read_result(path: Path) -> dict[str, Any]:
    """A measured result.

    Raises:
        InputError: no such file, not JSON, or something is missing.
    """
    try:
        result = json.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such file") from None
    except ValueError as error:
        raise InputError(f"{path}: this is not JSON ({error})") from None
    if missing := [key for key in _HEAD if key not in result]:
        raise InputError(f"{path}: {', '.join(missing)} missing; expected {', '.join(_HEAD)}")
    for number, record in enumerate(result["records"]):
        if missing := [key for key in ("name", "value", "unit") if key not in record]:
            raise InputError(f"{path}: record {number}: {', '.join(missing)} missing")
    return result


def markdown_table(result: dict[str, Any], targets_only: bool = False) -> str:
    """The records, or those that have a target, as a Markdown table, and below it how they were measured."""
    columns = {
        "": lambda record: record["name"],
        "measured": lambda record: _measured(record),
        "interval": lambda record: _interval(record),
        "floor": lambda record: _with_unit(record.get("floor"), record["unit"]),
        "target": lambda record: _with_unit(record.get("target"), record["unit"]),
        "beside it": lambda record: _peer(record),
    }
    shown = [record for record in result["records"] if not targets_only or record.get("target") is not None]
    rows = [[cell(record) for cell in columns.values()] for record in shown]
    used = [number for number in range(len(columns)) if number < 2 or any(row[number] for row in rows)]
    lines = [[list(columns)[number] for number in used], ["---", *["---:"] * (len(used) - 1)]]
    lines += [[row[number] for number in used] for row in rows]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    measured = f"{result['what']}: `{result['command']}`, {result['hardware']}, {result['date']}"
    peers = f" {result['peers']}." if "peers" in result else ""
    return f"{table}\n\n{measured}, commit {_short(result['commit'])}.{peers}\n"


def results_figure(result: dict[str, Any]) -> Figure:
    """Bars of the measured values, a panel for each unit, with intervals, targets and peers."""
    measured = [record for record in result["records"] if record["value"] is not None]
    units = list(dict.fromkeys(record["unit"] for record in measured))
    groups = [[record for record in measured if record["unit"] == unit] for unit in units]
    drawing = blank(sum(0.3 * len(group) + 0.6 for group in groups) + 0.25)
    drawing.set_facecolor("white")  # it stands on pages of any colour
    heights = [len(group) + 0.6 for group in groups]
    panels = drawing.subplots(len(groups), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axes, unit, group in zip(panels, units, groups, strict=True):
        ends = [_bar(axes, height, record) for height, record in enumerate(reversed(group))]
        # Not beside the bars, where targets and peers would be in the way.
        names = [f"{record['name']}: {figure(record['value'])}" for record in reversed(group)]
        axes.set_yticks(range(len(group)), names)
        axes.set(xlabel=unit, xlim=(0, 1.04 * max(ends)), ylim=(-0.6, len(group) - 0.4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: short_count(value)))
        axes.tick_params(axis="y", length=0, labelcolor=INK)
        axes.spines.left.set_visible(False)
    marks = {"low": "black line: interval", "target": "orange: target", "peer_value": "ring: peer"}
    used = [text for key, text in marks.items() if any(r.get(key) is not None for r in measured)]
    panels[0].set_title(", ".join(used), loc="right", color=MUTED, size=8)  # the left has room for it
    return drawing


def _bar(axes: Axes, height: int, record: dict[str, Any]) -> float:
    """One record with its marks; gives back how far they reach."""
    marks = [record["value"], *(record.get(key) or 0 for key in ("high", "target", "peer_value"))]
    axes.barh(height, record["value"], height=0.6, color=COLOURS[0], alpha=0.85)
    if record.get("low") is not None:
        axes.plot([record["low"], record["high"]], [height, height], color=INK, linewidth=1.2)
    if record.get("target") is not None:
        axes.plot([record["target"]] * 2, [height - 0.4, height + 0.4], color=COLOURS[1])
    if record.get("peer_value") is not None:
        axes.plot(record["peer_value"], height, "o", markerfacecolor=PAPER, color=MUTED)
    return max(marks)


def fill_tables(text: str, folder: Path) -> str:
    """The text with every marked table made anew; paths in the marks are relative to `folder`."""

    def filled(mark: re.Match[str]) -> str:
        table = markdown_table(read_result(folder / mark[2]), targets_only=mark[3] is not None)
        return f"{mark[1]}\n{table}\n{mark[4]}"

    return _MARKED.sub(filled, text)


def _short(commit: str) -> str:
    """Twelve digits of each commit, and whether it was edited."""
    return re.sub(r"([0-9a-f]{12})[0-9a-f]{28}", r"\1", str(commit))


def _with_unit(value: float | None, unit: str) -> str:
    return "" if value is None else f"{figure(value)} {unit}".strip()


def _measured(record: dict[str, Any]) -> str:
    if record["value"] is None:
        return record.get("failed", "failed")
    return _with_unit(record["value"], record["unit"])


def _interval(record: dict[str, Any]) -> str:
    return "" if record.get("low") is None else f"{figure(record['low'])}–{figure(record['high'])}"


def _peer(record: dict[str, Any]) -> str:
    if record.get("peer_value") is None:
        return record.get("peer", "")
    return f"{record['peer']}: {_with_unit(record['peer_value'], record['unit'])}"


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when everything was written, 2 for bad input."""
    parser = argparse.ArgumentParser(
        "python -m ssm_seq.reporting.results_table", description=__doc__.splitlines()[0]
    )
    parser.add_argument("results", nargs="*", type=Path, help="JSON files; FILE.svg is written beside each")
    parser.add_argument("--into", type=Path, metavar="FILE.md", help="fill the marked tables of this file")
    options = parser.parse_args(arguments)
    try:
        for path in options.results:
            result = read_result(path)
            print(markdown_table(result))
            with whole_file(path.with_suffix(".svg")) as partial:
                partial.write_text(to_svg(results_figure, result))
        if options.into:
            filled = fill_tables(options.into.read_text(), options.into.parent)
            with whole_file(options.into) as partial:
                partial.write_text(filled)
    except InputError as error:
        print(f"results_table: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
