"""The table of scored variants -> how their scores are distributed, by kind.

python -m ssm_seq.reporting.variants_figure results/variants/NAME/variants.tsv results/variants/NAME.svg
"""

import csv
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from ssm_seq.errors import InputError
from ssm_seq.files import whole_file
from ssm_seq.reporting.style import COLOURS, blank, grid, to_svg

KINDS = ("substitution", "insertion", "deletion")


def read_scores(path: Path) -> dict[str, list[float]]:
    """Scores in nats by kind, from the table that `ssm-seq score --variants` writes.

    Raises:
        InputError: there is no such table.
    """
    scores: dict[str, list[float]] = {kind: [] for kind in KINDS}
    try:
        with path.open() as file:
            for row in csv.DictReader(file, delimiter="\t"):
                longer = len(row["alt"]) - len(row["ref"])
                scores[KINDS[0 if longer == 0 else 1 if longer > 0 else 2]].append(float(row["llr"]))
    except FileNotFoundError:
        raise InputError(f"{path}: no such table of scored variants") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: not a table of scored variants ({error})") from None
    return scores


def by_kind(scores: Mapping[str, Sequence[float]]) -> Figure:
    """A histogram of the scores of each kind, on one axis; kinds without variants are left out."""
    found = {kind: values for kind, values in scores.items() if values}
    drawing = blank(1.3 * max(len(found), 1) + 0.5)
    every = np.concatenate(list(found.values())) if found else np.zeros(1)
    edges = np.histogram_bin_edges(every, bins=60)
    panels = drawing.subplots(max(len(found), 1), 1, sharex=True, squeeze=False)[:, 0]
    for axes, (number, kind) in zip(panels, enumerate(found), strict=False):
        axes.hist(found[kind], bins=edges, color=COLOURS[number], alpha=0.85)
        axes.axvline(0, color=COLOURS[7], linewidth=0.8)
        axes.set_title(f"{kind}: {len(found[kind]):,}")
        grid(axes)
    panels[-1].set_xlabel("log-likelihood of the alternative minus the reference allele (nats)")
    drawing.supylabel("alleles", size=9)
    return drawing


def main(arguments: Sequence[str] | None = None) -> int:
    """0 when the figure was written, 2 for bad input."""
    try:
        table, out = map(Path, sys.argv[1:] if arguments is None else arguments)
        with whole_file(out) as partial:
            partial.write_text(to_svg(by_kind, read_scores(table)))
    except InputError as error:
        print(f"variants_figure: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
