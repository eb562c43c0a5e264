"""Online function approximation: 64 numbers that remember 10,000 samples."""

import math

import numpy as np
import pytest
import torch

from ssm_seq.ssm import project, project_scaled, reconstruct, reconstruct_scaled

CYCLES = [5, 10, 15, 20]


def pink(cycles, length):
    """A band-limited signal: sines of 1, 2, ... `cycles` cycles in the window, of power 1 / frequency."""
    t = np.arange(length) / length
    return sum(np.sin(2 * math.pi * j * t) / math.sqrt(j) for j in range(1, cycles + 1))


def relative_rmse(ours, expected):
    return ((ours - expected).norm(dim=0) / expected.norm(dim=0)).tolist()


@pytest.fixture(scope="module")
def ten_thousand():
    """Signals (10,000, 8): pink up to 5, 10, 15, 20 cycles, and sines of as many; their coefficients."""
    t = np.arange(10_000) / 10_000
    pinks = [pink(cycles, 10_000) for cycles in CYCLES]
    sines = [np.sin(2 * math.pi * cycles * t) for cycles in CYCLES]
    u = torch.tensor(np.stack([*pinks, *sines], axis=1))
    return u, project_scaled(u, N=64)[[4999, 9999]].clone()


def test_64_numbers_remember_10_000_samples(ten_thousand):
    u, coefficients = ten_thousand
    past = (torch.arange(10_000, dtype=torch.float64) + 0.5) / 10_000
    errors = relative_rmse(reconstruct_scaled(coefficients[1], past).T, u)
    for error, bound in zip(errors[:4], [7e-4, 1.4e-3, 2.6e-3, 2.1e-2], strict=True):
        assert error <= bound
    # A sine of 20 cycles is more than 64 polynomials can hold: no method does better than `best`.
    for error, bound in zip(errors[4:], [1e-3, 1.9e-3, 2.9e-3, 0.15], strict=True):
        assert error <= bound
    x = 2 * past.numpy() - 1
    fit = np.polynomial.legendre.legfit(x, u[:, 7].numpy(), 63)
    best = np.linalg.norm(np.polynomial.legendre.legval(x, fit) - u[:, 7].numpy()) / u[:, 7].norm()
    assert best <= errors[7] <= 1.01 * best


def test_every_moment_has_its_past(ten_thousand):
    """The coefficients half-way hold the first half, in which there are half as many cycles."""
    u, coefficients = ten_thousand
    past = (torch.arange(5000, dtype=torch.float64) + 0.5) / 5000
    errors = relative_rmse(reconstruct_scaled(coefficients[0], past).T, u[:5000])
    assert max(errors) < 5e-3


def test_the_scaled_measure_has_no_time_scale():
    """A signal drawn out, each sample three times, has the same coefficients; exactly so with the hold."""
    u = torch.tensor(pink(3, 200))
    fast = project_scaled(u, 8, "zero_order_hold")[-1]
    slow = project_scaled(u.repeat_interleave(3), 8, "zero_order_hold")[-1]
    torch.testing.assert_close(slow, fast, rtol=1e-10, atol=1e-11)


def test_the_hold_is_the_projection():
    """Against integrals of the held signal with the Legendre polynomials, by quadrature in each step."""
    L, N = 30, 10
    u = torch.tensor(np.random.default_rng(0).normal(size=L))
    coefficients = project_scaled(u, N, "zero_order_hold")
    nodes, weights = np.polynomial.legendre.leggauss(12)
    for k in (1, 7, 30):
        expected = np.zeros(N)
        for j in range(k):
            x = 2 * (j + (nodes + 1) / 2) / k - 1
            for n in range(N):
                values = math.sqrt(2 * n + 1) * np.polynomial.legendre.legval(x, np.eye(N)[n])
                expected[n] += u[j].item() * (weights / 2 * values).sum() / k
        np.testing.assert_allclose(coefficients[k - 1], expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("method", ["forward_euler", "backward_euler", "bilinear"])
def test_the_other_methods_come_near_the_hold(method):
    u = torch.tensor(pink(3, 4000))
    exact = project_scaled(u, 6, "zero_order_hold")[-1]
    error = (project_scaled(u, 6, method)[-1] - exact).norm() / exact.norm()
    assert error < 3e-3


@pytest.mark.parametrize(
    ("measure", "whole", "middle"), [("legt", 0.03, 0.02), ("fourier_truncated", 0.1, 0.03)]
)
def test_windows_are_reconstructed(measure, whole, middle):
    """The last 500 samples from 64 numbers; Fourier series ring at the ends, which don't meet."""
    u = torch.tensor(pink(8, 1500))
    coefficients = project(u, measure, 64, delta=1 / 500)
    assert coefficients.shape == (1500, 64)
    for k in (700, 1499):
        lags = torch.arange(500)
        difference = reconstruct(coefficients[k], measure, (lags + 0.5) / 500) - u[k - lags]
        assert difference[:450].norm() < whole * u[k - lags].norm()
        assert difference[100:400].norm() < middle * u[k - lags].norm()


@pytest.mark.parametrize(("measure", "bound"), [("lagt", 0.08), ("legs", 0.02)])
def test_fading_memories_are_reconstructed(measure, bound):
    u = torch.tensor(pink(4, 2000))
    coefficients = project(u, measure, 48, delta=1 / 500)
    lags = torch.arange(500)
    ours = reconstruct(coefficients[-1], measure, (lags + 0.5) / 500)
    expected = u[1999 - lags]
    assert (ours - expected).norm() < bound * expected.norm()


def test_three_numbers_hold_a_quadratic():
    """Under LegT what leaves the window is estimated exactly if it lies in the basis."""
    now = 8.0
    t = torch.arange(1, 8 * 500 + 1, dtype=torch.float64) / 500
    coefficients = project(1 + t - 0.3 * t**2, "legt", 3, 1 / 500)
    s = torch.linspace(0, 1, 9, dtype=torch.float64)
    expected = 1 + (now - s) - 0.3 * (now - s) ** 2
    assert (reconstruct(coefficients[-1], "legt", s) - expected).abs().max() < 1e-2 * expected.abs().max()


def test_many_signals_are_one_each():
    u = torch.tensor(np.random.default_rng(1).normal(size=(40, 2, 3)))
    for run in (lambda u: project(u, "legt", 5, 0.1), lambda u: project_scaled(u, 5)):
        together = run(u)
        assert together.shape == (40, 2, 3, 5)
        torch.testing.assert_close(together[:, 1, 2], run(u[:, 1, 2]), rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda: project(torch.zeros(0), "legt", 4, 0.1), "L=0: expected 1 or more"),
        (lambda: project(torch.zeros(3), "legt", 4, 0.0), "delta=0: expected a positive number"),
        (lambda: project_scaled(torch.zeros(0), 4), "L=0: expected 1 or more"),
        (lambda: project_scaled(torch.zeros(3), 0), "N=0: expected 1 or more"),
        (lambda: project_scaled(torch.zeros(3), 4, "rk4"), "method='rk4': there is no such method"),
        (lambda: reconstruct_scaled(torch.zeros(4), torch.tensor([1.5])), "position: outside the past"),
    ],
)
def test_bad_input_is_refused(call, sentence):
    with pytest.raises(ValueError) as caught:
        call()
    assert str(caught.value).startswith(sentence)
