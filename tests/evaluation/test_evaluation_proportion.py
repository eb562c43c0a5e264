"""Wilson's interval: its defining equation, and its ends."""

import math

import pytest

from ssm_seq.evaluation.proportion import wilson


@pytest.mark.parametrize(("value", "n"), [(0.5, 10), (0.9, 40), (0.125, 8), (0.37, 1000)])
def test_its_ends_are_where_the_share_is_z_standard_errors_away(value, n):
    share = wilson(value, n, z=1.96)
    for end in (share.low, share.high):
        assert abs(value - end) / math.sqrt(end * (1 - end) / n) == pytest.approx(1.96, rel=1e-9)


def test_all_right_is_not_certain():
    low = 64 / (64 + 1.96**2)
    assert wilson(1, 64) == (1, pytest.approx(low), 1)
    assert wilson(0, 64) == (0, 0, pytest.approx(1 - low))


@pytest.mark.parametrize(("value", "n"), [(1.2, 4), (-0.1, 4), (0.5, 0)])
def test_no_share(value, n):
    with pytest.raises(ValueError, match="expected a share"):
        wilson(value, n)
