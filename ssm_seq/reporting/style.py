"""How every figure looks, and how it becomes bytes: small SVG whose bytes depend on the data alone."""

import io
import re
from collections.abc import Callable

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

# The inks of axes and text. A page that holds a figure inline swaps them for its own (`themed`).
INK, MUTED, FAINT, PAPER = "#24292f", "#6b7178", "#dfe2e6", "#fefefe"

# Okabe and Ito's palette, told apart with every common colour blindness; its yellow is too pale on white.
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8a6d3b", "#7f878f")

WIDTH = 7.2  # inches, the text width of a page

_STYLE = {
    "font.family": "DejaVu Sans",  # comes with matplotlib: the same layout on every machine
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlelocation": "left",
    "axes.titlecolor": INK,
    "axes.labelsize": 9,
    "axes.labelcolor": MUTED,
    "axes.edgecolor": MUTED,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.prop_cycle": matplotlib.cycler(color=COLOURS),
    "axes.axisbelow": True,
    "grid.color": FAINT,
    "grid.linewidth": 0.7,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "lines.linewidth": 1.6,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "figure.facecolor": "none",
    "axes.facecolor": "none",
    "savefig.facecolor": "auto",
    "svg.fonttype": "none",
    "svg.hashsalt": "ssm_seq",
}

# Readers see their own sans-serif face; DejaVu, which the layout is measured with, is wider than these.
_FACES = "system-ui, 'Helvetica Neue', Arial, 'DejaVu Sans', sans-serif"


def blank(height: float, width: float = WIDTH) -> Figure:
    """An empty figure; sizes in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def to_svg(plot: Callable[..., Figure], *arguments: object) -> str:
    """Draw `plot(*arguments)` in the project's style, as SVG without date, version or random id."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(_STYLE):
        plot(*arguments).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    return re.sub(r"(font: [^\"';]*)'DejaVu Sans'", rf"\g<1>{_FACES}", buffer.getvalue().decode())


def themed(svg: str, prefix: str) -> str:
    """An SVG document as an element to stand inside a page: the page's inks, ids that are its own.

    Args:
        svg: what `to_svg` gave.
        prefix: unique on the page; goes before every id.
    """
    element = svg[svg.index("<svg") :]
    element = re.sub(r"<metadata>.*?</metadata>", "", element, flags=re.DOTALL)
    element = re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{prefix}-", element)
    inks = {"ink": INK, "muted": MUTED, "faint": FAINT, "paper": PAPER, "accent": COLOURS[0]}
    for name, ink in inks.items():
        # matplotlib writes `fill: #24292f` inside style attributes, where CSS variables work.
        element = element.replace(f": {ink}", f": var(--{name}, {ink})")
    return element


def grid(axes: Axes, axis: str = "y") -> None:
    """Faint lines to read values by, along one axis."""
    axes.grid(True, axis=axis)
    axes.tick_params(axis=axis, length=0)
