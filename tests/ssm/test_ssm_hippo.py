"""HiPPO matrices, their bases and their normal-plus-low-rank forms."""

import math

import numpy as np
import pytest
import scipy.linalg
import scipy.special
import torch

from ssm_seq.ssm import (
    basis,
    conjugate_half,
    dense,
    hippo,
    low_rank,
    nplr,
    s4d_inv,
    s4d_legs,
    s4d_lin,
    s4d_real,
    state_basis,
    with_conjugates,
)

MEASURES = ["legs", "legt", "lagt", "fourier_truncated", "fourier_decayed", "fourier_diagonal"]
every_measure = pytest.mark.parametrize("measure", MEASURES)


def legendre(n, x):
    return math.sqrt(2 * n + 1) * scipy.special.eval_legendre(n, x)


def fourier(n, s):
    if n < 2:
        return np.ones_like(s) * (n == 0)
    return math.sqrt(2) * (np.sin if n % 2 else np.cos)(2 * math.pi * (n // 2) * s)


# K_n(s) = (exp(sA) B)_n in closed form, where there is one.
CLOSED_FORMS = {
    "legs": lambda n, s: np.exp(-s) * legendre(n, 2 * np.exp(-s) - 1),
    "lagt": lambda n, s: np.exp(-s) * scipy.special.eval_laguerre(n, s),
    "fourier_diagonal": lambda n, s: np.exp(-s / 2) * fourier(n, s),
}


@pytest.mark.parametrize("measure", CLOSED_FORMS)
def test_the_states_weigh_the_past_by_the_basis(measure):
    A, B = hippo(measure, 12)
    for s in [0.0, 0.05, 0.3, 1.0, 2.5]:
        weights = scipy.linalg.expm(s * A.numpy()) @ B.numpy()[:, 0]
        expected = [CLOSED_FORMS[measure](n, np.float64(s)) for n in range(12)]
        np.testing.assert_allclose(weights, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("measure", ["legt", "fourier_truncated"])
def test_windows_open_and_close(measure):
    """In the limit of many states: the basis on [0, 1], nothing beyond."""
    s = torch.linspace(0.05, 0.95, 19, dtype=torch.float64)

    def errors(N):
        A, B = hippo(measure, N)
        kept, lost = state_basis(A, B, s)[..., 0], state_basis(A, B, s + 1)[..., 0]
        inside = (kept - basis(measure, N, s))[:, :6].square().mean().sqrt()
        return inside.item(), lost[:, :6].square().mean().sqrt().item()

    (inside, outside), (inside_many, outside_many) = errors(16), errors(128)
    assert inside_many < inside / 2 and outside_many < outside / 4
    assert inside_many < 0.05 and outside_many < 0.01


def test_decayed_fourier_keeps_a_third_of_each_window():
    A, B = hippo("fourier_decayed", 128)
    s = torch.linspace(0.2, 0.8, 7, dtype=torch.float64)
    for window in range(3):
        weights = state_basis(A, B, s + window)[:, :6, 0]
        expected = 2 / 3 * (1 / 3) ** window * basis("fourier_truncated", 128, s)[:, :6]
        assert (weights - expected).square().mean().sqrt() < 0.004


@pytest.mark.parametrize(
    ("measure", "end"), [("legs", 40), ("legt", 1), ("lagt", 120), ("fourier_truncated", 1)]
)
def test_bases_are_orthonormal_by_quadrature(measure, end):
    nodes, weights = np.polynomial.legendre.leggauss(400)
    s = torch.tensor((nodes + 1) * end / 2)
    measure_weights = torch.tensor(weights * end / 2)
    if measure in ("legs", "lagt"):
        measure_weights = measure_weights * torch.exp(-s)
    phi = basis(measure, 10, s)
    gram = phi.T @ (measure_weights[:, None] * phi)
    expected = torch.eye(10, dtype=torch.float64)
    if measure == "fourier_truncated":
        expected[1, 1] = 0  # the constant's partner, sin(0)
    torch.testing.assert_close(gram, expected, rtol=0, atol=1e-9)


def test_legs_entries():
    A, B = hippo("legs", 3)
    r3, r5, r15 = math.sqrt(3), math.sqrt(5), math.sqrt(15)
    expected = torch.tensor([[-1, 0, 0], [-r3, -2, 0], [-r5, -r15, -3]], dtype=torch.float64)
    torch.testing.assert_close(A, expected)
    torch.testing.assert_close(B[:, 0], torch.tensor([1, r3, r5], dtype=torch.float64))


def test_truncated_fourier_entries():
    """The theorem's table: -2, -2 sqrt(2), -4 between cosines; 2 pi m between a cosine and its sine."""
    A, B = hippo("fourier_truncated", 6)
    r, w = 2 * math.sqrt(2), 2 * math.pi
    expected = torch.tensor(
        [
            [-2, 0, -r, 0, -r, 0],
            [0, 0, 0, 0, 0, 0],
            [-r, 0, -4, -w, -4, 0],
            [0, 0, w, 0, 0, 0],
            [-r, 0, -4, 0, -4, -2 * w],
            [0, 0, 0, 0, 2 * w, 0],
        ],
        dtype=torch.float64,
    )
    torch.testing.assert_close(A, expected)
    torch.testing.assert_close(B[:, 0], torch.tensor([2, 0, r, 0, r, 0], dtype=torch.float64))


@pytest.mark.parametrize(
    ("measure", "N"),
    [(m, N) for m in MEASURES for N in (1, 2, 7, 8, 64) if N % 2 == 0 or not m.startswith("fourier")],
)
def test_normal_plus_low_rank_reassembles(measure, N):
    A, B = hippo(measure, N)
    system = nplr(measure, N)
    V, identity = system.V, torch.eye(N, dtype=torch.complex128)
    assert (V @ dense(system.A) @ V.mH - A).abs().max() <= 1e-12
    assert (V @ system.B - B).abs().max() <= 1e-12
    assert (V.mH @ V - identity).abs().max() <= 1e-12
    assert system.A.P.shape == (N, {"legt": 2, "fourier_diagonal": 0}.get(measure, 1))
    normal = A + low_rank(measure, N) @ low_rank(measure, N).T
    torch.testing.assert_close(normal @ normal.T, normal.T @ normal, rtol=1e-10, atol=1e-9)


@every_measure
def test_half_of_the_modes_says_it_all(measure):
    system = nplr(measure, 16)
    half = conjugate_half(system)
    assert half.A.Lambda.shape == (8,) and bool((half.A.Lambda.imag >= 0).all())
    for whole, part in zip(system.A, half.A, strict=True):
        torch.testing.assert_close(with_conjugates(part, dim=0), whole, rtol=0, atol=1e-12)
    torch.testing.assert_close(with_conjugates(half.B, dim=0), system.B, rtol=0, atol=1e-12)
    torch.testing.assert_close(with_conjugates(half.V, dim=1), system.V, rtol=0, atol=1e-12)
    C = torch.randn(1, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    x = torch.randn(16, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    C_half, x_half = C.to(half.V.dtype) @ half.V, half.V.mH @ x.to(half.V.dtype)
    torch.testing.assert_close(2 * (C_half @ x_half).real, C @ x)


def test_diagonal_initialisations():
    n = torch.arange(32, dtype=torch.float64)
    torch.testing.assert_close(s4d_lin(64), torch.complex(torch.full((32,), -0.5).double(), math.pi * n))
    torch.testing.assert_close(
        s4d_inv(64).imag[:2], torch.tensor([64 * 63, 64 * (64 / 3 - 1)]).double() / math.pi
    )
    torch.testing.assert_close(s4d_real(5), -torch.arange(1.0, 6).double())
    Lambda, B = s4d_legs(64)
    assert Lambda.shape == (32,) and B.shape == (32, 1)
    # The eigenvalues of LegS's normal part, from numpy's general solver, and S4D-Inv's approximation of them.
    A, b = (part.numpy() for part in hippo("legs", 64))
    values = np.linalg.eigvals(A + b @ b.T / 2)
    np.testing.assert_allclose(np.sort(Lambda.imag.numpy()), np.sort(values.imag)[32:], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(Lambda.real.numpy(), -0.5, rtol=1e-12)
    largest, inverse = Lambda.imag.sort(descending=True).values[:4], s4d_inv(64).imag[:4]
    assert ((largest - inverse) / largest).abs().max() < 0.1


def test_s4d_legs_tends_to_legs():
    """For smooth inputs: the states after u(t - s) = s exp(-2s), integrals of exp(sA) B u: (2 - A)^-2 B."""

    def error(N):
        A, B = hippo("legs", N)
        shifted = 2 * torch.eye(N, dtype=torch.float64) - A
        expected = torch.linalg.solve(shifted, torch.linalg.solve(shifted, B))[:4, 0]
        Lambda, B = s4d_legs(N)
        V = conjugate_half(nplr("legs", N)).V
        states = 2 * (V @ (B[:, 0] / (2 - Lambda) ** 2)).real[:4]
        return (states - expected).abs().max().item()

    assert error(64) < 1e-2 * error(16) and error(64) < 1e-8


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: hippo("legz", 4), "measure='legz': there is no such measure; known: legs"),
        (lambda: hippo("legs", 0), "N=0: expected 1 or more"),
        (lambda: hippo("fourier_truncated", 7), "N=7: the states come in pairs"),
        (lambda: conjugate_half(nplr("legs", 5)), "N=5: the states come in pairs"),
        (lambda: s4d_lin(5), "N=5: the states come in pairs"),
        (lambda: s4d_inv(3), "N=3: the states come in pairs"),
        (lambda: s4d_legs(9), "N=9: the states come in pairs"),
        (lambda: s4d_real(0), "N=0: expected 1 or more"),
        (lambda: basis("fourier_decayed", 4, torch.zeros(1)), "measure='fourier_decayed': its states add"),
        (lambda: basis("x", 4, torch.zeros(1)), "measure='x': there is no such measure"),
    ],
)
def test_bad_input_is_refused(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(sentence)
