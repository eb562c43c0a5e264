"""The three forms of a state matrix: dense, diagonal, diagonal plus low rank (DPLR).

A dense matrix is a tensor (..., N, N). The structured forms keep what defines them, so that a product with a
vector costs O(N) or O(N r) instead of O(N^2). Leading dimensions are independent systems.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Diagonal(NamedTuple):
    """A = diag(Lambda). Lambda: (..., N), real or complex."""

    Lambda: Tensor


class DPLR(NamedTuple):
    """A = diag(Lambda) - P Q^*, rank r (Gu, Goel & Ré 2022, S4, section 3.1).

    Lambda: (..., N); P, Q: (..., N, r).
    """

    Lambda: Tensor
    P: Tensor
    Q: Tensor


StateMatrix = Tensor | Diagonal | DPLR


def dense(A: StateMatrix) -> Tensor:
    """The same matrix with all of its entries, (..., N, N)."""
    match A:
        case Diagonal(Lambda):
            return torch.diag_embed(Lambda)
        case DPLR(Lambda, P, Q):
            return torch.diag_embed(Lambda) - P @ Q.mH
    return A


def product(A: StateMatrix, X: Tensor) -> Tensor:
    """A X for X (..., N, k): O(N^2 k) operations if A is dense, O(N k) if diagonal, O(N r k) if DPLR."""
    match A:
        case Diagonal(Lambda):
            return Lambda[..., None] * X
        case DPLR():
            Lambda, P, Q, X = in_one_dtype(*A, X)
            return Lambda[..., None] * X - P @ (Q.mH @ X)
    A, X = in_one_dtype(A, X)
    return A @ X


def adjoint(A: StateMatrix) -> StateMatrix:
    """A^*, in the same form."""
    match A:
        case Diagonal(Lambda):
            return Diagonal(Lambda.conj())
        case DPLR(Lambda, P, Q):
            return DPLR(Lambda.conj(), Q, P)
    return A.mH


def power(A: StateMatrix, n: int) -> StateMatrix:
    """A^n: diagonal if A is, else dense, O(N^3 log n)."""
    if isinstance(A, Diagonal):
        return Diagonal(A.Lambda**n)
    return torch.linalg.matrix_power(dense(A), n)


def check_stable(A: StateMatrix) -> None:
    """Raises ValueError if x' = A x grows: an eigenvalue of A lies right of the imaginary axis, or A is not
    finite.

    O(N^3) operations unless A is diagonal, or DPLR with Q = P (the same tensor) and Re Lambda <= 0.

    A matrix whose Hermitian part has no positive eigenvalue can't grow, and that is well conditioned, unlike
    the eigenvalues of A, which rounding moves far in matrices as skewed as HiPPO's. Only where this
    sufficient test fails does the spectrum decide.
    """
    if not all(bool(torch.isfinite(part).all()) for part in ([A] if isinstance(A, Tensor) else A)):
        raise ValueError("A: an entry is infinite or not a number; expected a stable A")
    if isinstance(A, Diagonal):
        growth, slack = A.Lambda.detach().real.amax(), 0.0
    elif isinstance(A, DPLR) and A.P is A.Q and bool((A.Lambda.detach().real <= 0).all()):
        return
    else:
        matrix = dense(A).detach()
        eps, size = torch.finfo(matrix.dtype).eps, matrix.abs().sum(-1).amax().item()
        symmetric = torch.linalg.eigvalsh((matrix + matrix.mH) / 2)
        if symmetric.amax() <= 10 * eps * size:
            return
        growth, slack = torch.linalg.eigvals(matrix).real.amax(), eps**0.5 * size
    if not growth <= slack:
        raise ValueError(
            f"A: an eigenvalue has the real part {growth.item():g} > 0, so exp(tA) grows without bound; "
            "expected a stable A"
        )


def in_one_dtype(*tensors: Tensor | None) -> list[Tensor | None]:
    """The tensors in the smallest dtype that holds them all: complex where one is, float64 where one is."""
    dtype = None
    for tensor in tensors:
        if tensor is not None:
            dtype = tensor.dtype if dtype is None else torch.promote_types(dtype, tensor.dtype)
    return [None if tensor is None else tensor.to(dtype) for tensor in tensors]


def cast(A: StateMatrix, dtype: torch.dtype) -> StateMatrix:
    """The same form in another dtype."""
    return A.to(dtype) if isinstance(A, Tensor) else type(A)(*(part.to(dtype) for part in A))


def dtype_of(A: StateMatrix) -> torch.dtype:
    """The dtype that all parts of A fit in."""
    if isinstance(A, Tensor):
        return A.dtype
    return in_one_dtype(*A)[0].dtype
