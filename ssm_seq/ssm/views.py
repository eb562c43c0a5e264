"""The three views of one linear time-invariant system: continuous, recurrent, convolutional.

Continuous   x'(t) = A x(t) + B u(t)           y(t) = C x(t) + D u(t)
Recurrent    x_k = Abar x_(k-1) + Bbar u_k     y_k = C x_k + D u_k
Convolution  y = K * u + D u                   K_k = C Abar^k Bbar, the Markov parameters

One `System` holds either kind; `sampled` takes the first to the second. SISO systems have M = P = 1. Signals
are channels-last, (..., L, M) -> (..., L, P); leading dimensions of a system are independent heads and
broadcast against those of the signal. A system of one of each conjugate pair of modes gives complex outputs:
y = 2 Re.

Source: Gu 2023, thesis, sections 2.1 to 2.4; Gu et al. 2021 (LSSL).
"""

from typing import NamedTuple

import torch
from torch import Tensor

from ssm_seq.ssm.checks import check_size
from ssm_seq.ssm.discretise import Method, discretise
from ssm_seq.ssm.kernel import kernel_by_powers
from ssm_seq.ssm.matrices import (
    Diagonal,
    StateMatrix,
    adjoint,
    check_stable,
    dense,
    in_one_dtype,
    power,
    product,
)


class System(NamedTuple):
    """A: dense (..., N, N), `Diagonal` or `DPLR`. B: (..., N, M). C: (..., P, N). D: (..., P, M) or None."""

    A: StateMatrix
    B: Tensor
    C: Tensor
    D: Tensor | None = None


def sampled(system: System, delta: Tensor | float, method: Method = "zero_order_hold") -> System:
    """The discrete system with the time step delta; C and D stay."""
    A, B = discretise(system.A, system.B, delta, method)
    return system._replace(A=A, B=B)


def impulse_response(system: System, t: Tensor) -> Tensor:
    """C exp(tA) B of a continuous system at times t (T,): (..., T, P, M).

    With C = I these are the basis functions of the state: x(t) = integral of exp(sA) B u(t - s).

    Raises:
        ValueError: A is unstable.
    """
    return _product(system.C[..., None, :, :], state_basis(system.A, system.B, t))


def state_basis(A: StateMatrix, B: Tensor, t: Tensor) -> Tensor:
    """exp(tA) B at times t (T,): (..., T, N, M).

    Raises:
        ValueError: A is unstable.
    """
    check_stable(A)
    if isinstance(A, Diagonal):
        return torch.exp(t[:, None] * A.Lambda[..., None, :])[..., None] * B[..., None, :, :]
    matrix = dense(A)
    return _product(torch.linalg.matrix_exp(t[:, None, None] * matrix[..., None, :, :]), B[..., None, :, :])


def step(system: System, u: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """One step of a discrete system: u (..., M), state before x (..., N) -> y (..., P), state after."""
    before, drive = in_one_dtype(product(system.A, x[..., None]), _product(system.B, u[..., None]))
    x = before + drive
    y = _product(system.C, x)
    if system.D is not None:
        y = y + _product(system.D, u[..., None])
    return y[..., 0], x[..., 0]


def recurrent(system: System, u: Tensor, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A discrete system over u (..., L, M) after the state x (..., N), zero if None.

    O(L) steps of O(N^2) operations (dense) or O(N) (diagonal, DPLR), a state of N numbers.

    Returns:
        y (..., L, P) and the last state (..., N).

    Raises:
        ValueError: L = 0.
    """
    check_size("L", u.shape[-2])
    if x is None:
        x = torch.zeros_like(_product(system.B, u[..., 0, :, None])[..., 0])
    outputs = []
    for u_k in u.unbind(-2):
        y_k, x = step(system, u_k, x)
        outputs.append(y_k)
    return torch.stack(outputs, dim=-2), x


def convolutional(system: System, u: Tensor, width: int | None = None) -> Tensor:
    """A discrete system over u (..., L, M) as a convolution: y (..., L, P).

    width: Markov parameters that are kept, all L if None; a shorter kernel forgets what is older.

    Raises:
        ValueError: L = 0 or width < 1.
    """
    check_size("L", u.shape[-2])
    kernel = kernel_by_powers(system.A, system.B, system.C, u.shape[-2] if width is None else width)
    y = convolve(kernel, u)
    return y if system.D is None else y + _product(u, system.D.mT)


def convolve(kernel: Tensor, u: Tensor) -> Tensor:
    """y_k = sum over j of K_j u_(k-j) by FFT: kernel (..., W, P, M), u (..., L, M) -> y (..., L, P).

    O(L log L): both are padded to the length of their sum, so that nothing wraps around.

    Raises:
        ValueError: L = 0 or W = 0.
    """
    L = u.shape[-2]
    check_size("L", L)
    check_size("W", kernel.shape[-3])
    kernel, u = in_one_dtype(kernel[..., :L, :, :], u)
    size = 2 ** (L + kernel.shape[-3] - 2).bit_length()
    forward, back = (torch.fft.fft, torch.fft.ifft) if u.is_complex() else (torch.fft.rfft, torch.fft.irfft)
    spectrum = forward(kernel, n=size, dim=-3) @ forward(u, n=size, dim=-2)[..., None]
    return back(spectrum[..., 0], n=size, dim=-2)[..., :L, :]


def chunked(system: System, u: Tensor, chunk: int, x: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """A discrete system over u (..., L, M) in chunks: a convolution within each, the state between them.

    y_k = sum over the chunk of K_(k-j) u_j + C Abar^(k+1) x, and after `chunk` inputs the state is
    Abar^chunk x + sum of Abar^(chunk-1-j) Bbar u_j. O(chunk N M) numbers of powers are kept.

    Returns:
        y (..., L, P) and the last state (..., N).

    Raises:
        ValueError: L = 0 or chunk < 1.
    """
    check_size("L", u.shape[-2])
    check_size("chunk", chunk)
    if x is None:
        x = torch.zeros_like(_product(system.B, u[..., 0, :, None])[..., 0])
    widest = min(chunk, u.shape[-2])
    identity = torch.eye(system.B.shape[-2], dtype=system.B.dtype, device=system.B.device)
    into = kernel_by_powers(system.A, system.B, identity, widest)  # Abar^k Bbar, (..., widest, N, M)
    out_of = kernel_by_powers(adjoint(system.A), system.C.mH, identity, widest + 1).mH  # C Abar^k
    kernel = _product(system.C[..., None, :, :], into)
    outputs = []
    for part in u.split(chunk, dim=-2):
        n = part.shape[-2]
        y = convolve(kernel, part) + _product(out_of[..., 1 : n + 1, :, :], x[..., None, :, None])[..., 0]
        outputs.append(y if system.D is None else y + _product(part, system.D.mT))
        entered = _product(into[..., :n, :, :].flip(-3), part[..., None])[..., 0].sum(-2)
        x = product(power(system.A, n), x[..., None])[..., 0] + entered
    return torch.cat(outputs, dim=-2), x


def multi_head(system: System, u: Tensor) -> Tensor:
    """H systems side by side: u (batch, L, H M) -> y (batch, L, H P); all parts of `system` begin with H.

    Head h reads channels h M ... (h + 1) M - 1. H = d_model and M = P = 1 is S4's bank of SISO systems,
    H = 1 and M = P = d_model S5's one MIMO system.

    Raises:
        ValueError: the channels don't divide into the system's heads.
    """
    H, M = system.B.shape[0], system.B.shape[-1]
    if u.shape[-1] != H * M:
        raise ValueError(f"u: {u.shape[-1]} channels, expected {H} heads of {M}")
    y = convolutional(system, u.unflatten(-1, (H, M)).transpose(-3, -2))
    return y.transpose(-3, -2).flatten(-2)


def _product(a: Tensor, b: Tensor) -> Tensor:
    """a b, of which one may be complex."""
    a, b = in_one_dtype(a, b)
    return a @ b
