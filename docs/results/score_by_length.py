"""Time and memory of the scorer by the length of the sequence, from score_h100.json: score_by_length.svg.

After `ssm-seq bench --device cuda --only score --out docs/results/score_h100.json`:
python docs/results/score_by_length.py
"""

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ssm_seq.reporting.style import COLOURS, MUTED, blank, grid, to_svg

HERE = Path(__file__).parent
_NAME = re.compile(r"score 8x256 \(1,(\d+)\) bfloat16( peak)?")


def by_length(records: list[dict[str, Any]]) -> Figure:
    """Seconds, and GiB above the weights with their target."""
    series: dict[str, list[tuple[int, float]]] = {"time": [], "peak": []}
    for record in records:
        if (matched := _NAME.fullmatch(record["name"])) and record["value"] is not None:
            kind, scale = ("peak", 1) if matched[2] else ("time", 1e-3)
            series[kind].append((int(matched[1]), record["value"] * scale))
    drawing = blank(2.8)
    drawing.set_facecolor("white")  # it stands on pages of any colour
    time, memory = drawing.subplots(1, 2)
    time.loglog(*zip(*sorted(series["time"]), strict=True), "o-", color=COLOURS[0])
    time.set(xlabel="positions", ylabel="seconds", ylim=(0.08, 12))
    time.set_yticks([0.1, 1, 10], ["0.1", "1", "10"])
    memory.plot(*zip(*sorted(series["peak"]), strict=True), "o-", color=COLOURS[2])
    memory.axhline(1, color=MUTED, linestyle=":", linewidth=1)
    memory.set(xlabel="positions", ylabel="GiB above the weights", xscale="log", ylim=(0, 1.1))
    lengths = sorted(length for length, _ in series["time"])
    for axes in (time, memory):
        axes.set_xticks(lengths, [f"{length / 2**20:.0f} Mi" for length in lengths])
        axes.minorticks_off()
        grid(axes)
    return drawing


def main() -> None:
    records = json.loads((HERE / "score_h100.json").read_text())["records"]
    (HERE / "score_by_length.svg").write_text(to_svg(by_length, records))


if __name__ == "__main__":
    main()
