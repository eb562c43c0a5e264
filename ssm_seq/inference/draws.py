"""Random numbers that are looked up, not drawn one after another: for any item and any position, at any time.

Philox 4x32 with ten rounds (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3").
"""

from torch import Tensor

_WORD = 0xFFFFFFFF
_MULTIPLIERS = 0xD2511F53, 0xCD9E8D57
_WEYL = 0x9E3779B9, 0xBB67AE85


def uniform(seed: int, items: Tensor, positions: Tensor) -> Tensor:
    """Float64 numbers in [0, 1), one for each pair of items and positions, two int64 tensors that broadcast.

    Each is made of its seed (below 2^64), item and position alone.
    """
    words = philox([positions & _WORD, positions >> 32, items & _WORD, items >> 32], seed)
    return ((words[0] << 21) | (words[1] >> 11)).double() * 2.0**-53


def philox(counter: list[Tensor], seed: int) -> list[Tensor]:
    """Four words of 32 random bits in int64 tensors, from four such words."""
    a, b, c, d = counter
    low, high = seed & _WORD, seed >> 32 & _WORD
    for _ in range(10):
        # Products of two words wrap around beyond 2^63; their bits are right.
        left, right = a * _MULTIPLIERS[0], c * _MULTIPLIERS[1]
        a, b, c, d = (
            (right >> 32 & _WORD) ^ b ^ low,
            right & _WORD,
            (left >> 32 & _WORD) ^ d ^ high,
            left & _WORD,
        )
        low, high = low + _WEYL[0] & _WORD, high + _WEYL[1] & _WORD
    return [a, b, c, d]
