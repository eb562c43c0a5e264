"""Ids generated a second against the batch, from decode_h100.json: decode_by_batch.svg.

After `ssm-seq bench --only decode --out docs/results/decode_h100.json`:
python docs/results/decode_by_batch.py
"""

import json
import re
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from ssm_seq.reporting.style import COLOURS, blank, to_svg

HERE = Path(__file__).parent
_NAME = re.compile(r"decode (\d+x\d+) batch (\d+)")


def by_batch(records: list[dict[str, Any]]) -> Figure:
    """A line for each size of model, and mamba-ssm's beside it."""
    series: dict[tuple[str, str], list[tuple[int, float]]] = {}
    for record in records:
        if matched := _NAME.fullmatch(record["name"]):
            for key in ("value", "peer_value"):
                if record.get(key) is not None:
                    series.setdefault((matched[1], key), []).append((int(matched[2]), record[key]))
    drawing = blank(3.6)
    drawing.set_facecolor("white")  # it stands on pages of any colour
    axes = drawing.subplots()
    for number, size in enumerate(dict.fromkeys(size for size, _ in series)):
        looks = {
            "value": {"label": f"{size.replace('x', ' x ')}", "marker": "o"},
            "peer_value": {
                "label": f"{size.replace('x', ' x ')}, mamba-ssm",
                "marker": "s",
                "linestyle": "--",
            },
        }
        for key, look in looks.items():
            if points := series.get((size, key)):
                axes.loglog(*zip(*sorted(points), strict=True), color=COLOURS[number], **look)
    batches = sorted({batch for points in series.values() for batch, _ in points})
    axes.set_xticks(batches, [f"{batch:,}" for batch in batches])
    axes.minorticks_off()
    axes.set(
        xlabel="sequences at once (layers x d_model, 16 states, bfloat16)", ylabel="ids a second, in all"
    )
    axes.legend()
    return drawing


def main() -> None:
    records = json.loads((HERE / "decode_h100.json").read_text())["records"]
    (HERE / "decode_by_batch.svg").write_text(to_svg(by_batch, records))


if __name__ == "__main__":
    main()
