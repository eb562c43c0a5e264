"""Time of the scan against the length of the sequence, from kernels_h100.json: kernels_by_length.svg.

After `ssm-seq bench --out docs/results/kernels_h100.json`: python docs/results/kernels_by_length.py
"""

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ssm_seq.reporting.style import COLOURS, MUTED, blank, to_svg

HERE = Path(__file__).parent
_NAME = re.compile(r"scan (fwd|fwd\+bwd) \(1,512,(\d+)\) N16")


def by_length(records: list[dict[str, Any]]) -> Figure:
    """Ours, the peer's and the floor."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for record in records:
        if matched := _NAME.fullmatch(record["name"]):
            for key in ("value", "peer_value", "floor"):
                if record.get(key) is not None:
                    series.setdefault((matched[1], key), []).append((int(matched[2]), record[key]))
    peer = {"marker": "s", "linestyle": "--"}
    looks = {
        ("fwd", "value"): ("forward", {"color": COLOURS[0], "marker": "o"}),
        ("fwd+bwd", "value"): ("forward and backward", {"color": COLOURS[1], "marker": "o"}),
        ("fwd", "peer_value"): (
            "mamba-ssm, forward",
            peer | {"color": COLOURS[0]},
        ),
        ("fwd+bwd", "peer_value"): (
            "mamba-ssm, both",
            peer | {"color": COLOURS[1]},
        ),
        ("fwd", "floor"): ("floor of the forward pass", {"color": MUTED, "linestyle": ":"}),
    }
    drawing = blank(3.6)
    drawing.set_facecolor("white")  # it stands on pages of any colour
    axes = drawing.subplots()
    for key, (label, look) in looks.items():
        if points := series.get(key):
            axes.loglog(*zip(*sorted(points), strict=True), label=label, **look)
    lengths = sorted({length for points in series.values() for length, _ in points})
    axes.set_xticks(lengths, [f"{length:,}" for length in lengths])
    axes.minorticks_off()
    axes.set(xlabel="positions (batch 1, 512 channels, 16 states, bfloat16)", ylabel="ms")
    axes.legend()
    return drawing


def main() -> None:
    records = json.loads((HERE / "kernels_h100.json").read_text())["records"]
    (HERE / "kernels_by_length.svg").write_text(to_svg(by_length, records))


if __name__ == "__main__":
    main()
