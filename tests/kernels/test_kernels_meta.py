"""Shapes without numbers: what kernels make of tensors of the device `meta`.

Not those that ask whether autocast is on, which PyTorch answers for no such device.
"""

import pytest
import torch
from kernel_cases import scan_inputs, sent_gradients
from test_kernels_lti_scan import lti_inputs

from ssm_seq.kernels import cauchy, causal_conv1d, lti_scan, rms_norm, selective_scan, vandermonde


def complex_normal(*shape):
    return torch.randn(*shape, dtype=torch.complex64)


KERNELS = {
    "lti_scan": (lti_scan, lti_inputs(2, 9, 3, 2)),
    "cauchy": (
        lambda v, w, z: (cauchy(v, w, z.detach()),),
        {"v": complex_normal(2, 3, 4), "w": complex_normal(2, 4), "z": complex_normal(7)},
    ),
    "vandermonde": (
        lambda v, a: (vandermonde(v, a, 7),),
        {"v": complex_normal(2, 3, 4), "a": complex_normal(2, 4)},
    ),
    "selective_scan": (selective_scan, scan_inputs(2, 9, 3, 4)),
    "causal_conv1d": (causal_conv1d, {"x": torch.randn(2, 9, 3), "weight": torch.randn(3, 4)}),
    "rms_norm": (
        lambda x, weight, residual: rms_norm(x, weight, residual=residual),
        {"x": torch.randn(2, 9, 4), "weight": torch.randn(4), "residual": torch.randn(2, 9, 4)},
    ),
}


@pytest.mark.parametrize("name", KERNELS)
def test_kernels_know_their_shapes(name):
    function, arguments = KERNELS[name]
    found = []
    for device in ("cpu", "meta"):
        placed = {
            key: value.detach().to(device).requires_grad_() if isinstance(value, torch.Tensor) else value
            for key, value in arguments.items()
        }
        leaves = [value for value in placed.values() if isinstance(value, torch.Tensor)]
        results = [result for result in function(**placed) if result is not None]
        gradients = torch.autograd.grad(results, leaves, sent_gradients(*results), allow_unused=True)
        found.append([part for part in (*results, *gradients) if part is not None])
    for real, meta in zip(*found, strict=True):
        assert meta.is_meta and (meta.shape, meta.dtype) == (real.shape, real.dtype)
