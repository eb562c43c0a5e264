"""Layers that can't be: a ValueError that says what and why."""

import pytest
import torch

from ssm_seq.layers import DSS, EMA, H3, LSSL, S4, S4D, S5, Gated, Mamba

WITH_TIME_STEPS = pytest.mark.parametrize("kind", [S4, S4D, S5, DSS, LSSL, H3, Mamba])


@WITH_TIME_STEPS
@pytest.mark.parametrize(
    ("dt_min", "dt_max"), [(0.0, 0.1), (-0.1, 0.1), (0.2, 0.1), (0.1, float("inf")), (float("nan"), 1.0)]
)
def test_time_steps_go_forward(kind, dt_min, dt_max):
    with pytest.raises(ValueError, match=r"dt_min=.*, dt_max=.*: time steps go forward, expected 0 < dt_min"):
        kind(4, 4, dt_min=dt_min, dt_max=dt_max)


@pytest.mark.parametrize("kind", [S4, S4D, S5, DSS, H3])
@pytest.mark.parametrize("d_state", [1, 5, 0])
def test_complex_states_come_in_pairs(kind, d_state):
    with pytest.raises(ValueError, match=f"{d_state}.*(come in|expected)"):
        kind(4, d_state)


@pytest.mark.parametrize("kind", [LSSL, EMA, Mamba])
def test_real_states_are_at_least_one(kind):
    kind(4, 1)
    with pytest.raises(ValueError, match="=0: expected 1 or more"):
        kind(4, 0)
    with pytest.raises(ValueError, match="d_state=0: expected 1 or more"):
        LSSL(4, 0, hippo_init=False)
    with pytest.raises(ValueError, match="d_conv=0: expected 1 or more"):
        H3(4, 4, d_conv=0)


@pytest.mark.parametrize("kind", [S4, S5, DSS, LSSL, EMA, H3])
@pytest.mark.parametrize("shape", [(2, 0, 4), (2, 3, 5), (2, 4), (2, 3, 4, 1)])
def test_an_input_that_is_no_chunk_is_refused(kind, shape):
    with pytest.raises(ValueError, match=r"x: shape \(.*\), expected \(batch, length >= 1, d_model=4\)"):
        kind(4, 4)(torch.zeros(shape))


@pytest.mark.parametrize("kind", [S4, S5, DSS, LSSL, H3, EMA])
def test_no_weights_make_a_layer_grow(kind):
    """Whatever training does to the parameters of A and dt, states of a bounded input stay bounded."""
    torch.manual_seed(0)
    layer = kind(4, 4).double()
    with torch.no_grad():
        for parameter in layer.ssm_parameters():
            if parameter is not getattr(layer, "B", None):
                parameter.add_(3 * torch.randn_like(parameter))
    state = layer.initial_state(1)
    x = torch.ones(1, 200, 4, dtype=torch.float64)
    sizes = []
    with torch.no_grad():
        for _ in range(20):
            _, state = layer(x, state)
            sizes.append(max(part.abs().max().item() for part in state))
    assert max(sizes) <= 1e6 and sizes[-1] <= 2 * max(sizes[:10]) + 1


def test_a_gate_needs_its_layer_as_wide_as_itself():
    with pytest.raises(ValueError, match="d_model=6"):
        Gated(4, S5(6, 4), d_inner=5)(torch.zeros(1, 2, 4))
