"""A script in cells -> the page that shows its text, its code and the numbers that it found.

`# %% [markdown]` begins text: comment lines in which {name} or {name:.2f} is a variable of the script.
`# %%` begins code that the page shows, `# %% figure` code that only draws. Editors know such cells, and
Python just runs them from the top; at its end the script hands itself over.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from torch import Tensor

from ssm_seq.reporting.style import to_svg

_CELL = re.compile(r"^# %%(.*)\n", re.MULTILINE)


def page(source: str, names: Mapping[str, Any]) -> str:
    """The Markdown of a script's cells; what stands before the first cell is left out.

    Raises:
        KeyError: the text asks for a variable that the script doesn't have.
        ValueError: a cell of another kind.
    """
    _, *parts = _CELL.split(source)
    blocks = []
    for kind, cell in zip(parts[::2], parts[1::2], strict=True):
        match kind.strip():
            case "[markdown]":
                lines = [line.removeprefix("#").removeprefix(" ") for line in cell.strip().splitlines()]
                blocks.append("\n".join(lines).format_map(names))
            case "":
                blocks.append(f"```python\n{cell.strip()}\n```")
            case "figure":
                continue
            case other:
                raise ValueError(f"cell {other!r}: expected [markdown], figure or nothing after # %%")
    return "\n\n".join(blocks) + "\n"


def save_figure(path: Path, plot: Callable[..., Figure], *arguments: object) -> None:
    """Draw `plot(*arguments)` into an SVG file, white, since it stands on pages of any colour."""

    def on_white() -> Figure:
        drawing = plot(*arguments)
        drawing.set_facecolor("white")
        return drawing

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_svg(on_white))


def difference(ours: Tensor, expected: Tensor) -> float:
    """The largest difference of two tensors, relative to the largest number of the second."""
    return ((ours - expected).abs().max() / expected.abs().max()).item()


def below(error: float, bound: float) -> str:
    """ "less than 1e-10": what a page says of rounding errors, whose digits differ from machine to machine.

    Raises:
        ValueError: the error isn't below the bound.
    """
    if not error < bound:
        raise ValueError(f"an error of {error:.2g}, expected less than {bound:g}")
    return "less than " + f"{bound:.0e}".replace("e-0", "e-")
