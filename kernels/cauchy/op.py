"""The Cauchy product as an operator of PyTorch: checks, device dispatch, gradients.

A pair of terms has real coefficients in z: with w = a + i b and s = 1 / ((z - w) (z - conj w)),

    v / (z - w) + conj(v) / (z - conj w) = 2 (Re v z + e) s,    e = -Re(v conj w).

So the complex s of a pair and a point serves all rows, and each row adds two real multiples of it. The
gradients need, of the incoming gradient g and with G = conj(g), the real parts of the sums over the points

    S0 = G s,    S1 = G s z,    T0 = M s^2,    T1 = M s^2 z,    M = sum over rows of G (Re v z + e).
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.cauchy import cpu
from ssm_seq.kernels.checks import COMPLEX, by_operator, expect, expect_axes


def cauchy(v: Tensor, w: Tensor, z: Tensor) -> Tensor:
    """k_j = sum over n of v_n / (z_j - w_n) + conj(v_n) / (z_j - conj(w_n)).

    The Cauchy product of S4 (Gu, Goel & Ré 2022, section 3.2 and appendix C.3), one of each conjugate pair of
    poles given. O(rows pairs points) operations; in memory no more than the arguments and the result.
    Differentiable once in v and w; all sums are taken in a fixed order.

    Args:
        v: (..., rows, pairs) complex64 or complex128: numerators.
        w: (..., pairs), in v's dtype: poles, which all rows share.
        z: (points,), in v's dtype: no pole or conjugate of one, without a gradient.

    Returns:
        k: (..., rows, points), in v's dtype.

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name; a z with a gradient.
    """
    *heads, rows, pairs = expect_axes("v", v, "..., rows, pairs", COMPLEX)
    expect("w", w, "..., pairs", (*heads, pairs), v, (v.dtype,))
    expect("z", z, "points", expect_axes("z", z, "points", COMPLEX), v, (v.dtype,))
    if z.requires_grad:
        raise ValueError("z has a gradient, expected points that are constant")
    run = _cauchy if by_operator(v) else _EagerCauchy.apply
    k = run(v.reshape(-1, rows, pairs), w.reshape(-1, pairs), z)
    return k.view(*heads, rows, len(z))


def device_path(tensor: Tensor) -> ModuleType:
    """The module with the kernels for the tensor's device. Triton is imported where there is a GPU only."""
    if not tensor.is_cuda:
        return cpu
    from ssm_seq.kernels.cauchy import gpu

    return gpu


def _forward(v: Tensor, w: Tensor, z: Tensor) -> Tensor:
    return device_path(v).forward(*(tensor.resolve_conj().contiguous() for tensor in (v, w, z)))


_cauchy = torch.library.custom_op("ssm_seq::cauchy", _forward, mutates_args=())


@_cauchy.register_fake
def _(v, w, z):
    return v.new_empty(*v.shape[:2], len(z))


def _backward(dk: Tensor, v: Tensor, w: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """dv, dw from the sums over the points: S0, S1 (heads, rows, pairs); T0, T1 (heads, pairs)."""
    dk, v, w, z = (tensor.resolve_conj().contiguous() for tensor in (dk, v, w, z))
    S0, S1, T0, T1 = device_path(v).backward(dk, v, w, z)
    a, b = w.real, w.imag
    dv = torch.complex(2 * (S1 - a[:, None] * S0), -2 * b[:, None] * S0)
    da = 4 * (T1 - a * T0) - 2 * (v.real * S0).sum(1)
    db = -4 * b * T0 - 2 * (v.imag * S0).sum(1)
    return dv, torch.complex(da, db)


_cauchy_backward = torch.library.custom_op("ssm_seq::cauchy_backward", _backward, mutates_args=())


@_cauchy_backward.register_fake
def _(dk, v, w, z):
    return v.new_empty(v.shape), w.new_empty(w.shape)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs)


def _gradients(ctx, dk, backward=_cauchy_backward):
    return *backward(dk, *ctx.saved_tensors), None


_cauchy.register_autograd(_gradients, setup_context=_setup_context)


class _EagerCauchy(torch.autograd.Function):
    """The same without the operator's dispatch, which costs a millisecond on some machines."""

    @staticmethod
    def forward(ctx, v, w, z):
        _setup_context(ctx, (v, w, z), None)
        return _forward(v, w, z)

    @staticmethod
    @once_differentiable
    def backward(ctx, dk):
        return _gradients(ctx, dk, _backward)
