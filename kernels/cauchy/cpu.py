"""The Cauchy product on the CPU, compiled by Numba: vectors run along the points."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.kernels.cpu.arrays import whole_vectors
from ssm_seq.kernels.cpu.lanes import BYTES, compiled, load, splat, store, total, width
from ssm_seq.kernels.cpu.threads import run


@compiled
def _inverse(x, y, a, b, one):
    """s = 1 / ((z - w) (z - conj w)), z = x + i y, w = a + i b: its real part and minus its imaginary one.

    The differences come before the products: near a pole z^2 - 2 a z + |w|^2 would lose all digits.
    """
    apart = x - a
    real = apart * apart - (y - b) * (y + b)
    imaginary = (apart + apart) * y
    scale = one / (real * real + imaginary * imaginary)
    return real * scale, imaginary * scale


@compiled
def _forward(first, last, v, w, z, k):
    """An item is a vector of points of one head. Real and imaginary parts: v (heads, rows, pairs, 2),
    w (heads, pairs, 2), k (heads, rows, points, 2); z (2, points), filled up to whole vectors."""
    lanes = width(z)
    rows, pairs = v.shape[1], v.shape[2]
    vectors = z.shape[1] // lanes
    one, nothing = splat(z.dtype.type(1)), splat(z.dtype.type(0))
    inverses, sums = np.empty((pairs, 2, lanes), z.dtype), np.empty((2, lanes), z.dtype)
    for item in range(first, last):
        h, j = item // vectors, item % vectors * lanes
        x, y = load(z, (0, j)), load(z, (1, j))
        for n in range(pairs):
            real, minus_imaginary = _inverse(x, y, splat(w[h, n, 0]), splat(w[h, n, 1]), one)
            store(inverses, (n, 0, 0), real)
            store(inverses, (n, 1, 0), minus_imaginary)
        for r in range(rows):
            slope_real, slope_imaginary, level_real, level_imaginary = nothing, nothing, nothing, nothing
            for n in range(pairs):
                real, minus_imaginary = load(inverses, (n, 0, 0)), load(inverses, (n, 1, 0))
                slope = splat(v[h, r, n, 0])
                level = splat(v[h, r, n, 0] * w[h, n, 0] + v[h, r, n, 1] * w[h, n, 1])
                slope_real = slope_real + slope * real
                slope_imaginary = slope_imaginary - slope * minus_imaginary
                level_real = level_real - level * real
                level_imaginary = level_imaginary + level * minus_imaginary
            k_real = x * slope_real - y * slope_imaginary + level_real
            k_imaginary = x * slope_imaginary + y * slope_real + level_imaginary
            store(sums, (0, 0), k_real + k_real)
            store(sums, (1, 0), k_imaginary + k_imaginary)
            for i in range(min(lanes, k.shape[2] - j)):
                k[h, r, j + i, 0], k[h, r, j + i, 1] = sums[0, i], sums[1, i]


@compiled
def _backward(first, last, dk, v, w, z, drows, dpairs):
    """An item is a pair of one head. dk (heads, rows, 2, points), drows (heads, pairs, rows, 2): S0 and S1,
    dpairs (heads, pairs, 2): T0 and T1."""
    lanes = width(z)
    rows, pairs = v.shape[1], v.shape[2]
    one, nothing = splat(z.dtype.type(1)), splat(z.dtype.type(0))
    sums = np.empty((rows, 2, lanes), z.dtype)
    for item in range(first, last):
        h, n = item // pairs, item % pairs
        a, b = splat(w[h, n, 0]), splat(w[h, n, 1])
        t0, t1 = nothing, nothing
        for r in range(rows):
            store(sums, (r, 0, 0), nothing)
            store(sums, (r, 1, 0), nothing)
        for j in range(0, z.shape[1], lanes):
            x, y = load(z, (0, j)), load(z, (1, j))
            s_real, s_minus = _inverse(x, y, a, b, one)
            sz_real, sz_imaginary = s_real * x + s_minus * y, s_real * y - s_minus * x
            # Sums over rows of dk Re v and dk e; M is the conjugate of the first, times z, and of the second.
            slope_real, slope_imaginary, level_real, level_imaginary = nothing, nothing, nothing, nothing
            for r in range(rows):
                real, imaginary = load(dk, (h, r, 0, j)), load(dk, (h, r, 1, j))
                store(sums, (r, 0, 0), load(sums, (r, 0, 0)) + (real * s_real - imaginary * s_minus))
                store(sums, (r, 1, 0), load(sums, (r, 1, 0)) + (real * sz_real + imaginary * sz_imaginary))
                slope = splat(v[h, r, n, 0])
                level = splat(v[h, r, n, 0] * w[h, n, 0] + v[h, r, n, 1] * w[h, n, 1])
                slope_real = slope_real + slope * real
                slope_imaginary = slope_imaginary + slope * imaginary
                level_real = level_real - level * real
                level_imaginary = level_imaginary - level * imaginary
            m_real = slope_real * x + slope_imaginary * y + level_real
            m_imaginary = slope_real * y - slope_imaginary * x - level_imaginary
            # M s
            real = m_real * s_real + m_imaginary * s_minus
            imaginary = m_imaginary * s_real - m_real * s_minus
            t0 = t0 + (real * s_real + imaginary * s_minus)
            t1 = t1 + (real * sz_real - imaginary * sz_imaginary)
        for r in range(rows):
            drows[h, n, r, 0] = total(load(sums, (r, 0, 0)))
            drows[h, n, r, 1] = total(load(sums, (r, 1, 0)))
        dpairs[h, n, 0], dpairs[h, n, 1] = total(t0), total(t1)


def forward(v: Tensor, w: Tensor, z: Tensor) -> Tensor:
    """k (heads, rows, points) for v (heads, rows, pairs), w (heads, pairs), z (points,)."""
    points = _whole_vectors(z)
    k = torch.empty(*v.shape[:2], len(z), dtype=v.dtype)
    items = len(v) * points[0].nbytes // BYTES
    run(_forward, items, _parts(v), _parts(w), points.numpy(), _parts(k))
    return k


def backward(dk: Tensor, v: Tensor, w: Tensor, z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """S0, S1 (heads, rows, pairs), T0, T1 (heads, pairs), as in op.py."""
    points = _whole_vectors(z)
    planes = torch.view_as_real(dk).movedim(-1, -2)
    planes = F.pad(planes, (0, points.shape[1] - len(z))).contiguous()
    heads, rows, pairs = v.shape
    drows = torch.empty(heads, pairs, rows, 2, dtype=points.dtype)
    dpairs = torch.empty(heads, pairs, 2, dtype=points.dtype)
    arrays = (planes.numpy(), _parts(v), _parts(w), points.numpy(), drows.numpy(), dpairs.numpy())
    run(_backward, heads * pairs, *arrays)
    return *drows.transpose(1, 2).unbind(-1), *dpairs.unbind(-1)


def _parts(tensor: Tensor) -> np.ndarray:
    """Real and imaginary parts along a last axis."""
    return torch.view_as_real(tensor.detach()).numpy()


def _whole_vectors(z: Tensor) -> Tensor:
    """Real and imaginary parts (2, points), the last point repeated up to a multiple of the lanes."""
    parts = torch.view_as_real(z).t()
    missing = whole_vectors(len(z), parts.dtype) - len(z)
    return torch.cat([parts, parts[:, -1:].expand(2, missing)], dim=1).contiguous()
