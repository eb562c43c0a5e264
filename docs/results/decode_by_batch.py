"""Ids generated a second against the batch, from decode_h100.json: decode_by_batch.svg.

After `ssm-seq bench --device cuda --only decode --out docs/results/decode_h100.json`:
python docs/results/decode_by_batch.py
"""

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssm_seq.reporting.style import COLOURS, MUTED, blank, grid, to_svg

HERE = Path(__file__).parent
RATE = 16_000  # Hz
_NAME = re.compile(r"decode (?P<model>(?:s4d )?\d+x\d+) batch (?P<batch>\d+)(?P<peer>, .*)?")
_MODELS = {"8x256": 0, "s4d 8x256": 4, "12x512": 2, "48x1024": 3}  # and their colours
Points = list[tuple[int, float]]


def by_batch(records: list[dict[str, Any]]) -> Figure:
    """A line for each model, marks where mamba-ssm was recorded, and what real time asks for."""
    ours: dict[str, Points] = {}
    recorded: dict[str, Points] = {}
    theirs: Points = []
    for record in records:
        matched = _NAME.fullmatch(record["name"])
        if matched is None or record["value"] is None:
            continue
        model, batch = matched["model"], int(matched["batch"])
        if matched["peer"]:
            theirs.append((batch, record["value"]))
            continue
        ours.setdefault(model, []).append((batch, record["value"]))
        if record.get("peer_value") is not None:
            recorded.setdefault(model, []).append((batch, record["peer_value"]))
    drawing = blank(3.9)
    drawing.set_facecolor("white")  # it stands on pages of any colour
    axes = drawing.subplots()
    for model, colour in _MODELS.items():
        _line(axes, ours.get(model, []), "o-", COLOURS[colour], _title(model))
        _line(axes, recorded.get(model, []), "s", COLOURS[colour], "")
    if recorded:
        axes.plot([], [], "s", color=MUTED, markerfacecolor="none", label="mamba-ssm, recorded")
    _line(axes, theirs, "^:", MUTED, "transformers, 8 x 256")
    batches = sorted({batch for points in ours.values() for batch, _ in points})
    axes.plot(batches, [RATE * batch for batch in batches], "--", color=MUTED, linewidth=1)
    axes.annotate(
        "16 kHz sound, each in real time",
        (batches[-1], RATE * batches[-1]),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        color=MUTED,
        size=8,
    )
    axes.set(xscale="log", yscale="log", ylabel="ids a second, in all")
    axes.set_xlabel("sequences at once")
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    axes.minorticks_off()
    grid(axes)
    drawing.legend(loc="outside right center", fontsize=8)
    return drawing


def _line(axes: Axes, points: Points, form: str, colour: str, label: str) -> None:
    if points:
        filled = "none" if form == "s" else colour
        axes.plot(*zip(*sorted(points), strict=True), form, color=colour, label=label, markerfacecolor=filled)


def _title(model: str) -> str:
    layer, size = ("S4D", model[4:]) if model.startswith("s4d") else ("Mamba", model)
    return f"{layer} {size.replace('x', ' x ')}"


def main() -> None:
    records = json.loads((HERE / "decode_h100.json").read_text())["records"]
    (HERE / "decode_by_batch.svg").write_text(to_svg(by_batch, records))


if __name__ == "__main__":
    main()
