"""DSS against the paper's kernel, and S4D as its limit."""

import pytest
import torch

from ssm_seq.layers import DSS, S4D
from ssm_seq.ssm import conjugate_half, nplr


@pytest.mark.parametrize("horizon", [1, 40, 300])
def test_the_kernel_is_the_softmax_of_the_paper(horizon):
    """w . Lambda^-1 . row-softmax(dt lambda_n k), two modes for each pair; past the horizon it goes on, with
    the same divisor."""
    torch.manual_seed(0)
    layer = DSS(3, 8, dt_min=0.01, dt_max=0.1, horizon=horizon).double()
    half, w = torch.complex(-layer.log_A_real.exp(), layer.A_imag), torch.view_as_complex(layer.C)
    rows = torch.exp((layer.log_dt.exp()[:, None] * half)[..., None] * torch.arange(horizon + 30))
    rows = rows / rows[..., :horizon].sum(-1, keepdim=True)
    kernel = 2 * ((w / half)[..., None] * rows).sum(1).real
    impulse = torch.zeros(1, horizon + 30, 3, dtype=torch.float64)
    impulse[:, 0] = 1
    response, _ = layer.ssm(impulse, layer.initial_state(1))
    torch.testing.assert_close(response[0].mT, kernel, rtol=1e-9, atol=1e-10)


def test_over_an_endless_horizon_it_is_s4d():
    """The softmax over all of time sums to 1 / (1 - Abar), and what is left is zero-order hold but for its
    sign."""
    torch.manual_seed(0)
    dss, s4d = DSS(4, 6, horizon=1e9).double(), S4D(4, 6).double()
    s4d.load_state_dict(
        {
            name: -value if name == "C" else value
            for name, value in dss.state_dict().items()
            if name != "horizon"
        }
    )
    x = torch.randn(2, 90, 4, dtype=torch.float64)
    torch.testing.assert_close(dss(x)[0], s4d(x)[0], rtol=1e-10, atol=1e-11)


def test_initial_values_are_the_eigenvalues_of_legs():
    layer = DSS(3, 8)
    Lambda = conjugate_half(nplr("legs", 8)).A.Lambda.to(torch.complex64)
    for h in range(3):
        torch.testing.assert_close(torch.complex(-layer.log_A_real[h].exp(), layer.A_imag[h]), Lambda)


def test_sizes_without_a_meaning_are_refused():
    with pytest.raises(ValueError, match="N=5: the states come in pairs"):
        DSS(4, 5)
    with pytest.raises(ValueError, match="horizon=0: expected a positive number"):
        DSS(4, 4, horizon=0)
