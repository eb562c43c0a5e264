"""Numbers as a reader wants them: the only arithmetic of the reports is rounding."""

UNITS = {
    "dna": ("base", "bases"),
    "mu_law": ("sample", "samples"),
    "linear": ("sample", "samples"),
    "bytes": ("byte", "bytes"),
}


def percent(value: float) -> str:
    """0.9731 -> '97.3 %'."""
    return f"{100 * value:.1f} %"


def percent_interval(low: float, high: float) -> str:
    """0.951, 0.986 -> '95.1–98.6'."""
    return f"{100 * low:.1f}–{100 * high:.1f}"


def count(value: float) -> str:
    """12345 -> '12,345'."""
    return f"{value:,.0f}"


def short_count(value: float) -> str:
    """For axes: 65536 -> '65.5k', 4600000 -> '4.6M', 256 -> '256'."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:g}"


def figure(value: float) -> str:
    """Any measured value, to four digits: 0.94812 -> '0.9481', 73400.2 -> '73,400'."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def duration(seconds: float) -> str:
    """4000 -> '1 h 6 min', 75 -> '1 min 15 s', 4.21 -> '4.2 s'."""
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(n_bytes: float) -> str:
    """5300000 -> '5.3 MB'."""
    for scale, unit in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= scale:
            return f"{n_bytes / scale:.1f} {unit}"
    return f"{n_bytes:.0f} B"


def length(positions: int, alphabet: str | None, sample_rate: int | None) -> str:
    """1024 -> '1,024 bases', or '8,192 samples (1.02 s)' for sound."""
    unit = UNITS.get(alphabet or "", ("position", "positions"))[positions != 1]
    seconds = f" ({positions / sample_rate:.2f} s)" if sample_rate else ""
    return f"{count(positions)} {unit}{seconds}"
