"""LSSL against the recurrence of the HiPPO matrix itself and against S4, which is the same system."""

import pytest
import torch
import torch.nn.functional as F

from ssm_seq.layers import LSSL, S4
from ssm_seq.ssm import System, bilinear, conjugate_half, hippo, nplr, recurrent


def state_matrix(layer):
    return layer.K - layer.K.mT - layer.W @ layer.W.mT


def lssl_by_hand(layer, x):
    """The layer's own A, B and C, by the textbook recurrence of each channel."""
    channels = []
    for h, dt in enumerate(layer.log_dt.exp()):
        A, B = (part[h if len(part) > 1 else 0] for part in (state_matrix(layer), layer.B))
        system = System(*bilinear(A, B, dt), layer.C[h : h + 1])
        channels.append(recurrent(system, x[..., h : h + 1])[0])
    y = F.gelu(torch.cat(channels, dim=-1) + layer.D * x)
    a, b = layer.out_proj(y).chunk(2, dim=-1)
    return a * torch.sigmoid(b)


@pytest.mark.parametrize("length", [1, 2, 63, 64, 65, 200])
@pytest.mark.parametrize("hippo_init", [True, False])
def test_agrees_with_the_recurrence(length, hippo_init):
    torch.manual_seed(length)
    layer = LSSL(3, 7, dt_min=0.01, dt_max=0.5, per_channel=hippo_init, hippo_init=hippo_init).double()
    x = torch.randn(2, length, 3, dtype=torch.float64)
    torch.testing.assert_close(layer(x)[0], lssl_by_hand(layer, x), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("per_channel", [False, True])
def test_starts_from_legs(per_channel):
    layer = LSSL(4, 16, per_channel=per_channel)
    A, B = hippo("legs", 16)
    count = 4 if per_channel else 1
    torch.testing.assert_close(state_matrix(layer), A.float().repeat(count, 1, 1), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(layer.B, B.float().repeat(count, 1, 1))


def test_is_the_system_of_s4():
    """Both are LegS by the bilinear rule, in other coordinates: as close as float32 keeps the initial A."""
    torch.manual_seed(0)
    s4, lssl = S4(5, d_state=16).double(), LSSL(5, d_state=16).double()
    V = conjugate_half(nplr("legs", 16)).V
    shared = {name: getattr(s4, name) for name in ("D", "log_dt")}
    lssl.load_state_dict(shared | {"C": 2 * (torch.view_as_complex(s4.C) @ V.mH).real}, strict=False)
    lssl.out_proj = s4.out_proj
    x = torch.randn(2, 90, 5, dtype=torch.float64)
    torch.testing.assert_close(lssl(x)[0], s4(x)[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_no_weights_make_it_unstable(seed):
    torch.manual_seed(seed)
    layer = LSSL(1, 8, dt_min=0.1, dt_max=10.0).double()
    with torch.no_grad():
        for parameter in (layer.W, layer.K):
            parameter.copy_(10 * torch.randn_like(parameter))
    assert torch.linalg.eigvals(state_matrix(layer)).real.max() < 1e-9
    Abar, _ = layer._discretise()
    assert torch.linalg.svdvals(Abar).max() < 1 + 1e-9
