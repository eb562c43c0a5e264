"""Figures: sound SVG, the same bytes every time, nothing where there is nothing to show."""

import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest

from ssm_seq.reporting import figures, style
from ssm_seq.reporting.sounds import Sound, sound_pictures

RNG = np.random.default_rng(0)
NOISE = RNG.uniform(-0.5, 0.5, 4000).astype(np.float32)
ACCURACY = [
    {"length": 256, "accuracy": 0.6, "low": 0.5, "high": 0.7},
    {"length": 4096, "accuracy": 0.9, "low": 0.85, "high": 0.95},
]
BASELINES = [
    {"name": "majority class", "length": None, "metric": "accuracy", "value": 0.2},
    {"name": "4-mer", "length": 256, "metric": "accuracy", "value": 0.5, "low": 0.4, "high": 0.6},
    {"name": "FLAC", "length": 256, "metric": "bits_per_byte", "value": 5.0, "low": 4.9, "high": 5.1},
]
METRICS = [
    {"step": 10, "loss": 2.0, "lr": 1e-3},
    {"step": 20, "loss": 1.0, "lr": 5e-4},
    {"step": 20, "valid_loss": 1.5},
]
SCORE = {
    "classes": ["a", "b"],
    "track": [{"position": p, "probabilities": [0.9, 0.1]} for p in (1000, 2000)],
    "memory": [{"position": p, "resident_mib": 300.0} for p in (1000, 2000)],
}
BITS_SCORE = SCORE | {"classes": None, "track": [{"position": p, "bits_per_byte": 1.9} for p in (1000, 2000)]}
CURVE = [{"position": 2**k, "bits_per_byte": 6 - k / 4} for k in range(8)]
DRAWN = {
    "loss": (figures.loss_curves, METRICS),
    "loss without validation": (figures.loss_curves, METRICS[:2]),
    "confusion": (figures.confusion, ["one", "two"], [[3, 1], [0, 0]]),
    "accuracy": (figures.accuracy_by_length, ACCURACY, BASELINES, "bases"),
    "accuracy alone": (figures.accuracy_by_length, ACCURACY[:1], [], "bases"),
    "bits": (figures.bits_per_byte, {"bits_per_byte": 4.5, "low": 4.4, "high": 4.6}, BASELINES, "sample"),
    "context": (figures.bits_by_context, CURVE, BASELINES, "sample"),
    "pass of a classifier": (figures.whole_pass, SCORE, "base"),
    "pass of a language model": (figures.whole_pass, BITS_SCORE, "base"),
    "timings": (figures.timings, [("train a", 75.0, 390.5), ("score a", 0.2, None)]),
    "sounds": (sound_pictures, [Sound("made", "x.wav", NOISE, 8000), Sound("tiny", "y", NOISE[:100], 8000)]),
}


def texts(svg: str) -> set[str]:
    return {
        "".join(node.itertext()).strip() for node in ElementTree.fromstring(svg).iter() if "text" in node.tag
    }


@pytest.mark.parametrize("name", DRAWN)
def test_same_input_gives_same_bytes(name: str) -> None:
    svg = style.to_svg(*DRAWN[name])
    assert svg == style.to_svg(*DRAWN[name])
    ElementTree.fromstring(svg)
    assert not re.search(r"matplotlib v|<dc:date>|20\d\d-\d\d-\d\d", svg)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("loss", {"training", "validation", "optimiser step"}),
        ("confusion", {"one", "two", "3", "1", "0"}),
        ("accuracy", {"this model", "majority class", "4-mer", "4,096", "window length (bases)"}),
        ("bits", {"this model", "FLAC", "4.500", "5.000"}),
        ("context", {"this model", "FLAC", "samples read before"}),
        ("pass of a classifier", {"a", "b", "probability", "MiB resident"}),
        ("pass of a language model", {"bits per base"}),
        ("timings", {"train a", "1 min 15 s, 390 MB", "0.2 s"}),
        ("sounds", {"made", "tiny", "kHz", "seconds"}),
    ],
)
def test_figure_says_what_it_shows(name: str, words: set[str]) -> None:
    assert words <= texts(style.to_svg(*DRAWN[name]))


def test_baselines_of_another_metric_stay_out() -> None:
    assert "FLAC" not in texts(style.to_svg(*DRAWN["accuracy"]))
    assert "majority class" not in texts(style.to_svg(*DRAWN["bits"]))


def test_end_labels_keep_their_distance() -> None:
    tracks = [{"position": p, "probabilities": [0.25] * 4} for p in (1000, 2000)]
    score = SCORE | {"classes": ["k", "l", "m", "n"], "track": tracks}
    svg = style.to_svg(figures.whole_pass, score, "base")
    places = [
        float(re.search(r"translate\([\d.]+ ([\d.]+)\)|y=\"([\d.]+)\"", node)[0].split()[-1].strip(')y="'))
        for node in re.findall(r"<text[^>]*>[klmn]</text>", svg)
    ]
    assert len(places) == 4
    assert min(np.diff(sorted(places))) > 8  # points, the size of the type


def test_theme_keeps_ids_apart_and_follows_the_page() -> None:
    svg = style.to_svg(*DRAWN["accuracy"])
    one, two = style.themed(svg, "one"), style.themed(svg, "two")
    assert set(re.findall(r'\bid="([^"]+)"', one)).isdisjoint(re.findall(r'\bid="([^"]+)"', two))
    referred = set(re.findall(r'(?:url\(#|href="#)([^")]+)', one))
    assert referred
    assert referred <= set(re.findall(r'\bid="([^"]+)"', one))
    assert "var(--accent" in one and "var(--muted" in one
    assert one.startswith("<svg")
    assert "var(--" not in svg  # a file of its own needs no page


def test_rows_without_windows_have_no_colour() -> None:
    figure = figures.confusion(["one", "two"], [[3, 1], [0, 0]])
    shares = figure.axes[0].images[0].get_array()
    np.testing.assert_allclose(shares, [[0.75, 0.25], [0, 0]])


def test_spectrogram_finds_the_tone() -> None:
    tone = np.sin(2 * np.pi * 1000 * np.arange(8000) / 8000).astype(np.float32)
    image = sound_pictures([Sound("tone", "", tone, 8000)]).axes[1].images[0]
    loudest = (
        image.get_array().mean(axis=1).argmax() / (image.get_array().shape[0] - 1) * image.get_extent()[3]
    )
    assert loudest == pytest.approx(1.0, abs=0.05)  # kHz
