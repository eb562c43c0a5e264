"""What makes one layer a case of another."""

import torch

from ssm_seq.kernels import lti_scan, selective_scan
from ssm_seq.layers.scan import scan
from ssm_seq.ssm import Diagonal, System, recurrent, s4d_real, zero_order_hold


def test_s6_with_a_constant_selection_is_s4d_real():
    """delta, B and C that do not depend on the input; S6 takes B by Euler's rule, Bbar = delta B (Mamba,
    section 3.6), so its B is S4D's times (exp(delta A) - 1) / (delta A)."""
    torch.manual_seed(0)
    batch, length, d_model, N, delta = 2, 90, 3, 4, 0.1
    u = torch.randn(batch, length, d_model, dtype=torch.float64)
    A, C = s4d_real(N), torch.randn(N, dtype=torch.float64)
    Abar, Bbar = zero_order_hold(Diagonal(A), torch.ones(N, 1, dtype=torch.float64), delta)
    system = System(Abar, Bbar, C[None])
    y, final = recurrent(system, u.mT[..., None])  # each channel is a sequence of its own
    selected = selective_scan(
        u,
        torch.full_like(u, delta),
        A.expand(d_model, N),
        (Bbar[:, 0] / delta).expand(batch, length, N),
        C.expand(batch, length, N),
    )
    torch.testing.assert_close(selected[0], y[..., 0].mT, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(selected[1], final, rtol=1e-10, atol=1e-12)

    def modes(part):  # real ones come as conjugate pairs that coincide
        return torch.complex(part, torch.zeros_like(part)).expand(d_model, N)

    scanned = lti_scan(u, modes(delta * A), modes(Bbar[:, 0]), modes(C / 2))
    torch.testing.assert_close(scanned[0], selected[0], rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(scanned[1].real, selected[1], rtol=1e-10, atol=1e-12)


def test_a_scan_is_its_recurrence():
    torch.manual_seed(0)
    for length in (1, 15, 16, 17, 256, 300):
        exponent = torch.complex(-torch.rand(3).double(), 3 * torch.randn(3).double())
        v, x = (torch.randn(2, size, 3, dtype=torch.complex128) for size in (length, 1))
        x = x[:, 0]
        states = scan(v, exponent, x)
        for k in range(length):
            x = torch.exp(exponent) * x + v[:, k]
            torch.testing.assert_close(states[:, k], x, rtol=1e-10, atol=1e-11)
