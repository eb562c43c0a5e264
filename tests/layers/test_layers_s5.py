"""S5 against what it is: a tied bank of S4D systems whose inputs and outputs are mixed."""

import pytest
import torch

from ssm_seq.layers import S4D, S5
from ssm_seq.layers.s5 import S5State
from ssm_seq.ssm import conjugate_half, nplr


def test_is_a_tied_bank_of_s4d_with_mixed_b_and_c():
    """Smith et al. 2023, section 4: with one A and one time step for all channels,
    S5's state is the sum over channels h of B_nh times the state of the S4D system of channel h."""
    torch.manual_seed(0)
    d_model, d_state = 4, 6
    s5, bank = S5(d_model, d_state).double(), S4D(d_model, d_state).double()
    with torch.no_grad():
        s5.log_dt.fill_(-2.0)
        bank.log_dt.fill_(-2.0)
        bank.log_A_real.copy_(s5.log_A_real.expand_as(bank.log_A_real))
        bank.A_imag.copy_(s5.A_imag.expand_as(bank.A_imag))
    B, C = torch.view_as_complex(s5.B), torch.view_as_complex(s5.C)
    u = torch.randn(2, 70, d_model, dtype=torch.float64)
    y, final = s5.ssm(u, s5.initial_state(2))
    state = bank.initial_state(2)
    for k in range(70):
        _, state = bank.step(u[:, k], state)
        mixed = torch.einsum("nh,bhn->bn", B, state.x)
        torch.testing.assert_close(y[:, k], 2 * (mixed @ C.mT).real, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(final.x, mixed, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("blocks", [1, 3])
def test_starts_from_blocks_of_hippo(blocks):
    """Lambda and V are those of the normal part of LegS in each block; back in HiPPO's coordinates B and C
    are random numbers of variance 1 / d_model and 1 / d_state."""
    torch.manual_seed(0)
    size, d_model = 8, 400
    layer = S5(d_model, blocks * size, blocks=blocks)
    legs = conjugate_half(nplr("legs", size))
    Lambda, V = legs.A.Lambda.to(torch.complex64), legs.V.to(torch.complex64)
    torch.testing.assert_close(
        torch.complex(-layer.log_A_real.exp(), layer.A_imag), Lambda.repeat(blocks), rtol=1e-5, atol=1e-6
    )
    B = torch.view_as_complex(layer.B).unflatten(0, (blocks, -1))
    C = torch.view_as_complex(layer.C).unflatten(1, (blocks, -1))
    B_0, C_0 = 2 * (V @ B).real, 2 * (C @ V.mH).real
    assert B_0.shape == (blocks, size, d_model) and C_0.shape == (d_model, blocks, size)
    assert (B_0.square().mean((0, 2)) * d_model - 1).abs().max() < 0.2
    assert (C_0.square().mean((0, 1)) * blocks * size - 1).abs().max() < 0.3


def test_each_state_has_its_time_step():
    torch.manual_seed(0)
    layer = S5(3, 64, dt_min=0.002, dt_max=0.05)
    dt = layer.log_dt.exp()
    assert dt.shape == (32,) and 0.002 <= dt.min() < 0.01 and 0.02 < dt.max() <= 0.05


@pytest.mark.parametrize(("d_state", "blocks"), [(5, 1), (8, 3), (6, 2), (4, 0)])
def test_blocks_that_do_not_fit_are_refused(d_state, blocks):
    with pytest.raises(
        ValueError, match=f"d_state={d_state}, blocks={blocks}: states come in conjugate pairs"
    ):
        S5(4, d_state, blocks=blocks)


def test_the_state_does_not_grow_with_the_channels():
    assert S5(50, 6).initial_state(2)._fields == S5State._fields
    assert S5(50, 6).initial_state(2).x.shape == (2, 3)
