"""Numbers as a reader sees them."""

import pytest

from ssm_seq.reporting import wording


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (wording.percent(0.9731), "97.3 %"),
        (wording.percent_interval(0.951, 0.986), "95.1–98.6"),
        (wording.count(12345), "12,345"),
        (wording.short_count(65536), "65.5k"),
        (wording.short_count(4_600_000), "4.6M"),
        (wording.short_count(0.25), "0.25"),
        (wording.duration(4.21), "4.2 s"),
        (wording.duration(59.97), "1 min 0 s"),
        (wording.duration(75.4), "1 min 15 s"),
        (wording.duration(4000), "1 h 6 min"),
        (wording.size(12_250_000), "12.2 MB"),
        (wording.size(999), "999 B"),
        (wording.figure(73_400.2), "73,400"),
        (wording.figure(0.94812), "0.9481"),
        (wording.length(1, "dna", None), "1 base"),
        (wording.length(8192, "mu_law", 8000), "8,192 samples (1.02 s)"),
    ],
)
def test_wording(said: str, expected: str) -> None:
    assert said == expected
