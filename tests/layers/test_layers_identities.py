"""What makes one layer a case of another, and all of them those of `ssm_seq.ssm`."""

import pytest
import torch

from ssm_seq.kernels import lti_scan, selective_scan
from ssm_seq.layers import DSS, EMA, LSSL, S4, S4D, S5
from ssm_seq.layers.scan import scan
from ssm_seq.ssm import (
    DPLR,
    Diagonal,
    System,
    bilinear,
    convolve,
    kernel_by_powers,
    kernel_dplr,
    kernel_vandermonde,
    recurrent,
    s4d_real,
    with_conjugates,
    zero_order_hold,
)

L = 300


def system_of(layer, u):
    """The layer's linear system over u, from a zero state."""
    if isinstance(layer, S4D):
        return lti_scan(u, *layer._discretise())[0]
    return layer.ssm(u, layer.initial_state(len(u)))[0]


def impulse_responses(layer, d_model):
    """(L, outputs, inputs): one sequence for each input with an impulse in it."""
    impulses = torch.zeros(d_model, L, d_model, dtype=torch.float64)
    impulses[:, 0] = torch.eye(d_model, dtype=torch.float64)
    return system_of(layer, impulses).permute(1, 2, 0)


@pytest.mark.parametrize("kind", [S4, S4D, S5, DSS, LSSL, EMA])
def test_every_layer_is_the_convolution_with_its_impulse_response(kind):
    """By FFT, and by chunks with a state between them: one map."""
    torch.manual_seed(0)
    layer = kind(3, 16).double()
    u = torch.randn(2, L, 3, dtype=torch.float64)
    y = system_of(layer, u)
    torch.testing.assert_close(convolve(impulse_responses(layer, 3), u), y, rtol=1e-10, atol=1e-10)


def kernel_of(layer):
    """The layer's kernels (d_model, L) by the functions of `ssm_seq.ssm`, from its parameters alone."""
    if isinstance(layer, LSSL):
        A, dt = layer.K - layer.K.mT - layer.W @ layer.W.mT, layer.log_dt.exp()
        return kernel_by_powers(*bilinear(A, layer.B, dt), layer.C[:, None], L)[..., 0, 0]
    if isinstance(layer, EMA):
        alpha, delta = torch.sigmoid(layer.alpha), torch.sigmoid(layer.delta)
        C = layer.eta / layer.eta.shape[1] ** 0.5
        Abar, Bbar = Diagonal(1 - alpha * delta), (alpha * layer.beta)[..., None]
        return kernel_vandermonde(Abar, Bbar, C[:, None], L)[..., 0, 0]
    Lambda, C = torch.complex(-layer.log_A_real.exp(), layer.A_imag), torch.view_as_complex(layer.C)
    if isinstance(layer, S4):
        Lambda, P, B, C = (
            with_conjugates(part, dim=-1)
            for part in (Lambda, torch.view_as_complex(layer.P), torch.view_as_complex(layer.B), C)
        )
        A = DPLR(Lambda, P[..., None], P[..., None])
        return kernel_dplr(A, B[..., None], C[:, None], layer.log_dt.exp(), L, real=True)[..., 0, 0]
    one = torch.ones_like(Lambda)[..., None]
    Abar, Bbar = zero_order_hold(Diagonal(Lambda), one, layer.log_dt.exp())
    if isinstance(layer, DSS):
        Bbar = Bbar / (Abar.Lambda**layer.horizon - 1)[..., None]
    return kernel_vandermonde(Abar, Bbar, C[:, None], L, real=True)[..., 0, 0]


@pytest.mark.parametrize("kind", [S4, S4D, DSS, LSSL, EMA])
def test_every_layer_has_the_kernel_of_its_equations(kind):
    """S4's blocks against Cauchy products, the scan against the Vandermonde product, LSSL against powers."""
    torch.manual_seed(0)
    layer = kind(3, 16).double()
    with torch.no_grad():
        found, expected = impulse_responses(layer, 3).diagonal(dim1=1, dim2=2).mT, kernel_of(layer)
    assert (found - expected).abs().max() <= 1e-9 * expected.abs().max()


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
