"""HiPPO matrices as normal plus low rank, and their eigen-decomposition.

A = V (diag(Lambda) - P P^*) V^* with V unitary: normal matrices are what unitary matrices diagonalise, so
float64 keeps all of its digits, where the eigenvectors of A itself grow like 2^(4N/3).
Source: Gu, Goel & Ré 2022, "Efficiently Modeling Long Sequences", theorem 1 and appendix C.1.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_seq.ssm.checks import check_pairs
from ssm_seq.ssm.hippo import Measure, hippo
from ssm_seq.ssm.matrices import DPLR


class NPLR(NamedTuple):
    """A (N, N), B (N, 1) of HiPPO are V dense(A) V^* and V B, complex128.

    A: Lambda (N,), P = Q (N, r). B: (N, 1). V: (N, N), unitary.
    Order: the modes with Im Lambda > 0, rising; their conjugates in the same order; for odd N the real one.
    """

    A: DPLR
    B: Tensor
    V: Tensor


def low_rank(measure: Measure, N: int) -> Tensor:
    """P (N, r) float64 such that A + P P^T is normal: a multiple of the identity plus a skew matrix.

    r is 1 for LegS and LagT, 2 for LegT, 1 for truncated and decayed Fourier, 0 for diagonal Fourier.
    """
    _, B = hippo(measure, N)
    match measure:
        case "legs":
            return B / math.sqrt(2)
        case "lagt":
            return B / math.sqrt(2)
        case "legt":  # one column for the even, one for the odd polynomials
            parity = torch.arange(N) % 2
            return B * torch.stack([parity == 0, parity == 1], dim=-1)
        case "fourier_truncated":  # B = 2 p
            return B / math.sqrt(2)
        case "fourier_decayed":
            return B
    return B[:, :0]


def nplr(measure: Measure, N: int) -> NPLR:
    """The measure's A and B in the coordinates in which A is diagonal plus low rank."""
    A, B = hippo(measure, N)
    P = low_rank(measure, N)
    normal = A + P @ P.T
    shift = normal.diagonal().mean()
    frequencies, V = _skew_eigen((normal - normal.T) / 2)
    Lambda = torch.complex(shift.expand(N), frequencies)
    P, B = V.mH @ P.to(V.dtype), V.mH @ B.to(V.dtype)
    return NPLR(DPLR(Lambda, P, P), B, V)


def conjugate_half(system: NPLR) -> NPLR:
    """One mode of each conjugate pair, Im Lambda >= 0: Lambda (N/2,), P (N/2, r), B (N/2, 1), V (N, N/2).

    A real C in these coordinates is C V, and outputs are y = 2 Re(C x).

    Raises:
        ValueError: N is odd, so that one mode has no partner.
    """
    N = len(system.A.Lambda)
    check_pairs(N)
    Lambda, P, Q = (part[: N // 2] for part in system.A)
    return NPLR(DPLR(Lambda, P, Q), system.B[: N // 2], system.V[:, : N // 2])


def with_conjugates(part: Tensor, dim: int) -> Tensor:
    """The modes along `dim` followed by their conjugates: undoes `conjugate_half` for Lambda, P, B or C."""
    return torch.cat([part, part.conj()], dim=dim)


def _skew_eigen(S: Tensor) -> tuple[Tensor, Tensor]:
    """S = V (i diag(frequencies)) V^* of a real skew S, in the order that `NPLR` describes.

    -i S is Hermitian, so its eigenvalues are real to the last bit and V unitary. Eigenvalues come as +-pairs
    with conjugate vectors; only the upper ones are used, and the lower ones copied from them.
    """
    N, pairs = len(S), len(S) // 2
    frequencies, V = torch.linalg.eigh(-1j * S.to(torch.complex128))
    upper, vectors = frequencies[N - pairs :], V[:, N - pairs :].clone()
    if N > 1 and N % 2 == 0 and upper[0] < 1e-12 * upper[-1].clamp(min=1):
        upper = upper.clone()
        upper[0], vectors[:, 0] = 0, _null_vector(V[:, pairs - 1 : pairs + 1])
    frequencies, V = torch.cat([upper, -upper]), torch.cat([vectors, vectors.conj()], dim=1)
    if N % 2:
        _, real = torch.linalg.eigh((torch.eye(N, dtype=V.dtype) - V @ V.mH).real)
        frequencies = torch.cat([frequencies, frequencies.new_zeros(1)])
        V = torch.cat([V, real[:, -1:].to(V.dtype)], dim=1)
    return frequencies, V


def _null_vector(V: Tensor) -> Tensor:
    """A vector (N,) that spans with its conjugate, at a right angle, the real plane that V (N, 2) spans."""
    _, vectors = torch.linalg.eigh((V @ V.mH).real)
    return torch.complex(vectors[:, -1], vectors[:, -2]) / math.sqrt(2)
