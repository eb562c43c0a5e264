"""Time of the ways to S4's kernel against its length and the size of the state: s4_kernel.svg.

After `ssm-seq bench --only s4_kernel --out docs/results/s4_kernel_h100.json` (or _cpu.json, on a CPU):
python docs/results/s4_kernel.py
"""

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssm_seq.reporting.style import COLOURS, MUTED, blank, grid, to_svg

HERE = Path(__file__).parent
FILES = {"H100": "s4_kernel_h100.json", "two CPU threads": "s4_kernel_cpu.json"}
LABELS = {
    "powers": "naive powers",
    "doubling": "dense LSSL (doubling)",
    "dplr": "S4: Cauchy products, from C",
    "dplr from Ctilde": "S4: Cauchy products, from Ctilde",
    "vandermonde": "S4D: Vandermonde product",
}
_NAME = re.compile(rf"s4_kernel ({'|'.join(LABELS)}) \((\d+),(\d+)\) N(\d+)")


class Point(NamedTuple):
    way: str
    channels: int
    length: int
    d_state: int
    ms: float


def cost(results: dict[str, list[dict[str, Any]]]) -> Figure:
    """A row for each device: against L at the N, and against N at the L, of which there is most."""
    drawing = blank(2.6 * len(results) + 0.6)
    drawing.set_facecolor("white")  # it stands on pages of any colour
    rows = drawing.subplots(len(results), 2, squeeze=False, sharey="row")
    for (device, records), (by_length, by_state) in zip(results.items(), rows, strict=True):
        points = [
            Point(matched[1], *map(int, matched.groups()[1:]), record["value"])
            for record in records
            if (matched := _NAME.fullmatch(record["name"])) and record["value"] is not None
        ]
        N = _commonest([point.d_state for point in points])
        L = _commonest([point.length for point in points])
        title = f"{device}, {points[0].channels} channels"
        _slope(by_length, [(p.length, p.ms) for p in points if (p.way, p.d_state) == ("dplr", N)], 1, "L")
        _slope(by_state, [(p.d_state, p.ms) for p in points if (p.way, p.length) == ("powers", L)], 2, "N²")
        _lines(by_length, [(p.way, p.length, p.ms) for p in points if p.d_state == N])
        _lines(by_state, [(p.way, p.d_state, p.ms) for p in points if p.length == L])
        by_length.set(xlabel=f"L (N = {N})", ylabel="ms", title=title)
        by_state.set(xlabel=f"N (L = {L:,})")
    drawing.legend(*rows[0][0].get_legend_handles_labels(), loc="outside lower center", ncols=2)
    return drawing


def _lines(axes: Axes, points: list[tuple[str, int, float]]) -> None:
    for (way, label), colour in zip(LABELS.items(), COLOURS, strict=False):
        if line := sorted((x, ms) for found, x, ms in points if found == way):
            axes.loglog(*zip(*line, strict=True), label=label, color=colour, marker="o")
    sizes = sorted({x for _, x, _ in points})
    axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
    axes.minorticks_off()
    grid(axes)


def _slope(axes: Axes, line: list[tuple[int, float]], power: int, label: str) -> None:
    """What grows like x^power, for the eye, below the end of a line."""
    (first, _), (last, ms) = min(line), max(line)
    start = max(first, last // 16)
    ends = [start, last], [ms / 2 * (x / last) ** power for x in (start, last)]
    axes.loglog(*ends, color=MUTED, linestyle=":", linewidth=1)
    axes.annotate(label, (last, ends[1][1]), color=MUTED, fontsize=8, va="top")


def _commonest(sizes: list[int]) -> int:
    return max(sizes, key=sizes.count)


def results() -> dict[str, list[dict[str, Any]]]:
    """The records of each device that was measured."""
    found = {device: HERE / name for device, name in FILES.items() if (HERE / name).exists()}
    return {device: json.loads(path.read_text())["records"] for device, path in found.items()}


if __name__ == "__main__":
    (HERE / "s4_kernel.svg").write_text(to_svg(cost, results()))
