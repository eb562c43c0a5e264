"""What makes one layer a case of another."""

import torch

from ssm_seq.kernels import selective_scan
from ssm_seq.layers.chunked import bank, bank_step, scan
from ssm_seq.ssm import Diagonal, System, recurrent, s4d_real, zero_order_hold


def test_s6_with_a_constant_selection_is_s4d_real():
    """delta, B and C that do not depend on the input; S6 takes B by Euler's rule, Bbar = delta B (Mamba,
    section 3.6), so its B is S4D's times (exp(delta A) - 1) / (delta A)."""
    torch.manual_seed(0)
    batch, length, d_model, N, delta = 2, 90, 3, 4, 0.1
    u = torch.randn(batch, length, d_model, dtype=torch.float64)
    A, C = s4d_real(N), torch.randn(N, dtype=torch.float64)
    Abar, Bbar = zero_order_hold(Diagonal(A), torch.ones(N, 1, dtype=torch.float64), delta)
    exponent, Bbar, rows = (part.expand(d_model, N) for part in (torch.log(Abar.Lambda), Bbar[:, 0], C))
    y, final = bank(u, exponent, Bbar, rows, u.new_zeros(batch, d_model, N))
    selected = selective_scan(
        u,
        torch.full_like(u, delta),
        A.expand(d_model, N),
        (Bbar[0] / delta).expand(batch, length, N),
        C.expand(batch, length, N),
    )
    torch.testing.assert_close(selected[0], y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(selected[1], final, rtol=1e-10, atol=1e-12)
    system = System(Abar, Bbar[0][:, None], C[None])
    torch.testing.assert_close(recurrent(system, u.mT[..., None])[0][..., 0].mT, y, rtol=1e-10, atol=1e-12)


def test_a_bank_is_its_systems_one_by_one():
    torch.manual_seed(0)
    exponent = torch.complex(-torch.rand(3, 4).double(), 3 * torch.randn(3, 4).double())
    B, C = torch.randn(2, 3, 4, dtype=torch.complex128)
    u = torch.randn(2, 150, 3, dtype=torch.float64)
    y, final = bank(u, exponent, B, C, torch.zeros(2, 3, 4, dtype=torch.complex128))
    x = torch.zeros(2, 3, 4, dtype=torch.complex128)
    for k in range(150):
        y_k, x = bank_step(u[:, k], exponent, B, C, x)
        torch.testing.assert_close(y[:, k], y_k, rtol=1e-10, atol=1e-11)
    torch.testing.assert_close(final, x, rtol=1e-10, atol=1e-11)


def test_a_scan_is_its_recurrence():
    torch.manual_seed(0)
    for length in (1, 15, 16, 17, 256, 300):
        exponent = torch.complex(-torch.rand(2, 3).double(), 3 * torch.randn(2, 3).double())
        v, x = (
            torch.randn(2, length, 2, 3, dtype=torch.complex128),
            torch.randn(2, 2, 3, dtype=torch.complex128),
        )
        states = scan(v, exponent, x)
        for k in range(length):
            x = torch.exp(exponent) * x + v[:, k]
            torch.testing.assert_close(states[:, k], x, rtol=1e-10, atol=1e-11)
