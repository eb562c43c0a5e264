"""The interval of a share."""

import math
from typing import NamedTuple


class Share(NamedTuple):
    """value in [0, 1] and its interval."""

    value: float
    low: float
    high: float


def wilson(value: float, n: int, z: float = 1.96) -> Share:
    """Wilson's score interval (1927) of a share `value` seen in n independent cases; 95 % for z = 1.96.

    Where a case has several answers, their mean may stand for it: the interval is then too wide, never too
    narrow. Unlike a bootstrap it doesn't shrink to a point when all cases were right.
    """
    if not 0 <= value <= 1 or n < 1:
        raise ValueError(f"value={value}, n={n}: expected a share in [0, 1] of at least one case")
    centre = (value + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(value * (1 - value) / n + z * z / (4 * n * n))
    return Share(value, max(0.0, centre - half), min(1.0, centre + half))
