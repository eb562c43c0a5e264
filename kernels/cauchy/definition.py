"""The Cauchy product as its equation."""

from torch import Tensor


def cauchy(v: Tensor, w: Tensor, z: Tensor) -> Tensor:
    """k_j = sum over n of v_n / (z_j - w_n) + conj(v_n) / (z_j - conj(w_n)).

    Args:
        v: (..., rows, pairs), numerators.
        w: (..., pairs), poles.
        z: (points,).

    Returns:
        k: (..., rows, points).
    """
    w, v = w[..., None, :, None], v[..., None]
    return (v / (z - w) + v.conj() / (z - w.conj())).sum(-2)
