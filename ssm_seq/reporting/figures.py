"""Result files -> figures, one function each. They take the JSON of the result files as it stands."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from ssm_seq.reporting import wording
from ssm_seq.reporting.style import COLOURS, FAINT, INK, MUTED, PAPER, blank, grid

MODEL = COLOURS[0]
_SHORT = FuncFormatter(lambda value, _: wording.short_count(value))
_PERCENT = FuncFormatter(lambda value, _: f"{100 * value:.0f} %")


def loss_curves(metrics: Sequence[dict]) -> Figure:
    """Training and validation loss over the steps, the learning rate below.

    Args:
        metrics: the lines of metrics.jsonl.
    """
    training = [line for line in metrics if "loss" in line]
    validation = [line for line in metrics if "valid_loss" in line]
    figure = blank(3.3)
    loss, rate = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
    steps = [line["step"] for line in training]
    loss.plot(steps, [line["loss"] for line in training], color=MODEL, linewidth=1.1)
    labels = [(training[-1]["loss"], "training", MODEL)] if training else []
    if validation:
        values = [line["valid_loss"] for line in validation]
        loss.plot([line["step"] for line in validation], values, "o-", color=COLOURS[1], linewidth=1.1)
        labels.append((values[-1], "validation", COLOURS[1]))
    _end_labels(loss, labels)
    loss.set_ylabel("loss (nats)")
    grid(loss)
    rate.fill_between(steps, [line["lr"] for line in training], color=FAINT)
    rate.plot(steps, [line["lr"] for line in training], color=MUTED, linewidth=1)
    rate.set(ylabel="rate", xlabel="optimiser step", ylim=(0, None))
    rate.yaxis.set_major_locator(MaxNLocator(2))
    rate.xaxis.set_major_formatter(_SHORT)
    rate.margins(x=0.01)
    figure.align_ylabels()
    return figure


def confusion(classes: Sequence[str], matrix: Sequence[Sequence[int]]) -> Figure:
    """Counts, coloured by their share of the row (the true label)."""
    counts = np.asarray(matrix)
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = min(0.55 * len(classes) + 1.9, 7.0)
    figure = blank(side, min(side + 1.6, 7.2))
    axes = figure.subplots()
    axes.imshow(shares, cmap=_ramp(), vmin=0, vmax=1, aspect="equal")
    size = 9 if len(classes) <= 10 else 6
    for (row, column), share in np.ndenumerate(shares):
        # Not the inks of the style: cells keep their colours on a dark page, and so must the figures on them.
        colour = "#ffffff" if share > 0.5 else "#22272d" if counts[row, column] else "#8b9299"
        axes.text(column, row, counts[row, column], ha="center", va="center", color=colour, size=size)
    names = [name if len(name) <= 24 else f"{name[:23]}…" for name in classes]
    axes.set_xticks(range(len(classes)), names, rotation=35, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(classes)), names)
    axes.set(xlabel="said by the model", ylabel="true")
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xticks(np.arange(1, len(classes)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(classes)) - 0.5, minor=True)
    axes.grid(which="minor", color=PAPER, linewidth=1.5)
    return figure


def accuracy_by_length(results: Sequence[dict], baselines: Sequence[dict], unit: str) -> Figure:
    """Accuracy of the model at every window length with its interval, and what the baselines reach.

    Args:
        results: `results` of a classifier's evaluation.json; baselines: those of baselines.json.
        unit: what a position is, for the axis.
    """
    results = sorted(results, key=lambda result: result["length"])
    figure = blank(3.4)
    axes = figure.subplots()
    lengths = [result["length"] for result in results]
    labels = []
    for number, (name, points) in enumerate(_by_name(baselines, "accuracy").items()):
        colour = (COLOURS[7], COLOURS[6], COLOURS[5], COLOURS[3])[number % 4]
        if len(points) == 1 and points[0]["length"] is None:
            axes.axhline(points[0]["value"], color=colour, linewidth=1, linestyle=(0, (4, 3)))
        else:
            points = sorted(points, key=lambda point: point["length"] or 0)
            _with_interval(axes, [point["length"] for point in points], points, "value", colour, "s--", 1)
        labels.append((points[-1]["value"], name, colour))
    _with_interval(axes, lengths, results, "accuracy", MODEL, "o-", 1.6)
    labels.append((results[-1]["accuracy"], "this model", MODEL))
    axes.set_xscale("log", base=2)
    every = sorted(set(lengths) | {point["length"] for point in baselines if point["length"]})
    axes.set_xticks(every, [wording.count(length) for length in every])
    axes.set_xlim(every[0] / 1.25, every[-1] * 1.25)
    axes.set(ylim=(0, 1.03), xlabel=f"window length ({unit})", ylabel="accuracy")
    axes.yaxis.set_major_formatter(_PERCENT)
    grid(axes)
    _end_labels(axes, labels)
    return figure


def bits_per_byte(evaluation: dict, baselines: Sequence[dict], unit: str) -> Figure:
    """Bits that the model and the baselines need for one position: fewer are better.

    Args:
        evaluation: a language model's evaluation.json; baselines: `results` of baselines.json.
        unit: what a byte stands for, for the axis.
    """
    rows = [(point["name"], point, MUTED) for point in baselines if point["metric"] == "bits_per_byte"]
    rows.append(("this model", {**evaluation, "value": evaluation["bits_per_byte"]}, MODEL))
    rows.sort(key=lambda row: -row[1]["value"])
    figure = blank(0.36 * len(rows) + 0.75)
    axes = figure.subplots()
    for height, (_, point, colour) in enumerate(rows):
        axes.barh(height, point["value"], height=0.62, color=colour, alpha=0.35 if colour == MUTED else 0.9)
        if point.get("low") is not None:
            axes.plot([point["low"], point["high"]], [height, height], color=INK, linewidth=1.2)
        end = max(point["value"], point.get("high") or 0)
        _beside(axes, f"{point['value']:.3f}", (end, height), INK)
    axes.set_yticks(range(len(rows)), [row[0] for row in rows])
    axes.set(xlabel=f"bits per {unit}", xlim=(0, 1.1 * max(row[1]["value"] for row in rows)))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines.left.set_visible(False)
    return figure


def bits_by_context(by_context: Sequence[dict], baselines: Sequence[dict], unit: str) -> Figure:
    """How many bits a position costs, by how much the model has read before it."""
    figure = blank(2.9)
    axes = figure.subplots()
    positions = [point["position"] for point in by_context]
    values = [point["bits_per_byte"] for point in by_context]
    axes.plot(positions, values, "o-", color=MODEL, linewidth=1.3)
    labels = [(values[-1], "this model", MODEL)]
    for number, (name, points) in enumerate(_by_name(baselines, "bits_per_byte").items()):
        colour = (COLOURS[7], COLOURS[6], COLOURS[5], COLOURS[3])[number % 4]
        axes.axhline(points[0]["value"], color=colour, linewidth=1, linestyle=(0, (4, 3)))
        labels.append((points[0]["value"], name, colour))
    axes.set_xscale("log", base=2)
    axes.set_xticks(positions[::2], [wording.count(position) for position in positions[::2]])
    axes.set(xlabel=f"{unit}s read before", ylabel=f"bits per {unit}")
    grid(axes)
    _end_labels(axes, labels)
    return figure


def whole_pass(score: dict, unit: str) -> Figure:
    """One recurrent pass over a long record: what the model says along it, and the memory that it takes.

    Args:
        score: score.json of a classifier (`probabilities`) or a language model (`bits_per_byte`).
        unit: what a position is, for the axis.
    """
    figure = blank(3.6)
    track, memory = figure.subplots(2, 1, sharex=True, height_ratios=[2, 1])
    positions = [point["position"] for point in score["track"]]
    if score["classes"]:
        probabilities = np.array([point["probabilities"] for point in score["track"]])
        order = np.argsort(-probabilities[-1], kind="stable")
        labels = []
        for rank, label in enumerate(order):
            colour = COLOURS[rank] if rank < len(COLOURS) else FAINT
            track.plot(positions, probabilities[:, label], color=colour, linewidth=1.3)
            if rank < 6:
                labels.append((probabilities[-1, label], score["classes"][label], colour))
        track.set(ylabel="probability", ylim=(-0.03, 1.03))
        _end_labels(track, labels)
    else:
        bits = [point["bits_per_byte"] for point in score["track"]]
        track.plot(positions, bits, color=MODEL, linewidth=0.9)
        track.set(ylabel=f"bits per {unit}")
    track.xaxis.set_major_formatter(_SHORT)
    grid(track)
    resident = [point["resident_mib"] for point in score["memory"]]
    memory.plot([point["position"] for point in score["memory"]], resident, color=COLOURS[2])
    memory.set(ylabel="MiB resident", xlabel=f"position ({unit}s)", ylim=(0, 1.25 * max(resident)))
    memory.yaxis.set_major_locator(MaxNLocator(3))
    memory.margins(x=0.01)
    grid(memory)
    figure.align_ylabels()
    return figure


def timings(steps: Sequence[tuple[str, float, float | None]]) -> Figure:
    """Wall-clock seconds of every step as bars, with the memory that it needed at most.

    Args:
        steps: (name, seconds, resident MB at the peak or None), in the order to show.
    """
    figure = blank(0.27 * len(steps) + 0.7)
    axes = figure.subplots()
    longest = max(seconds for _, seconds, _ in steps)
    for height, (_, seconds, resident) in enumerate(reversed(steps)):
        axes.barh(height, seconds, height=0.62, color=MODEL, alpha=0.85)
        text = wording.duration(seconds) + (f", {wording.count(resident)} MB" if resident else "")
        _beside(axes, text, (seconds, height), MUTED)
    axes.set_yticks(range(len(steps)), [step[0] for step in reversed(steps)])
    axes.set(xlabel="seconds", xlim=(0, 1.22 * longest), ylim=(-0.6, len(steps) - 0.4))
    axes.tick_params(axis="y", length=0, labelcolor=INK)
    axes.spines.left.set_visible(False)
    return figure


def _ramp() -> object:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("paper to blue", ["#f3f5f7", "#9cc4de", "#0072b2", "#004c78"])


def _by_name(baselines: Sequence[dict], metric: str) -> dict[str, list[dict]]:
    named: dict[str, list[dict]] = {}
    for point in baselines:
        if point["metric"] == metric:
            named.setdefault(point["name"], []).append(point)
    return named


def _with_interval(
    axes: Axes, x: Sequence[float], points: Sequence[dict], key: str, colour: str, line: str, width: float
) -> None:
    axes.plot(x, [point[key] for point in points], line, color=colour, linewidth=width, markersize=4)
    low, high = ([point[end] for point in points] for end in ("low", "high"))
    axes.vlines(x, low, high, color=colour, linewidth=1)


def _beside(axes: Axes, text: str, point: tuple[float, float], colour: str, **place: object) -> None:
    """Text just right of a point; `place` says what the point's coordinates are."""
    axes.annotate(text, point, (6, 0), textcoords="offset points", va="center", size=8, color=colour, **place)


def _end_labels(axes: Axes, labels: Sequence[tuple[float, str, str]]) -> None:
    """Names at the right end of the lines instead of a legend, moved apart where they would touch."""
    low, high = axes.get_ylim()
    height = axes.figure.get_figheight() * axes.get_subplotspec().get_position(axes.figure).height
    gap = 12 / (72 * height)  # a line of text in points, as a share of the axes' height
    wanted = sorted(((value - low) / (high - low), name, colour) for value, name, colour in labels)
    heights: list[float] = []
    for share, _, _ in wanted:
        heights.append(max(share, heights[-1] + gap) if heights else share)
    overshoot = max(0.0, heights[-1] - 1.0) if heights else 0.0
    for number in reversed(range(len(heights))):
        ceiling = heights[number + 1] - gap if number + 1 < len(heights) else heights[number] - overshoot
        heights[number] = min(heights[number], ceiling)
    for height, (_, name, colour) in zip(heights, wanted, strict=True):
        _beside(axes, name, (1, height), colour, xycoords="axes fraction", annotation_clip=False)
    axes.set_ylim(low, high)
