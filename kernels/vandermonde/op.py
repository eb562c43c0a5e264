"""The Vandermonde product as an operator of PyTorch: checks, device dispatch, gradients.

The gradients are products with the transpose: with g the gradient of k, and both sums over l,

    dv_rn = 2 conj(sum of g_rl exp(l a_n)),    da_n = 2 conj(sum over r of v_rn (sum of l g_rl exp(l a_n))).
"""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.checks import COMPLEX, by_operator, expect, expect_axes
from ssm_seq.kernels.vandermonde import cpu


def vandermonde(v: Tensor, a: Tensor, L: int) -> Tensor:
    """k_l = 2 Re sum over n of v_n exp(l a_n), l < L.

    The Vandermonde product of S4D (Gu, Gupta, Goel & Ré 2022, section 3.3), one of each conjugate pair of
    modes given. O(rows pairs L) operations; beside arguments and result O(rows pairs sqrt(L)) numbers of
    memory at most. Phases l Im(a) are reduced in float64, so that float32 keeps its digits for any L.
    Differentiable once in v and a; all sums are taken in a fixed order.

    Args:
        v: (..., rows, pairs) complex64 or complex128: coefficients.
        a: (..., pairs), in v's dtype: exponents of a step, which all rows share; dt A of S4D.
        L: 1 or more.

    Returns:
        k: (..., rows, L), float32 or float64.

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name; L < 1.
    """
    *heads, rows, pairs = expect_axes("v", v, "..., rows, pairs", COMPLEX)
    expect("a", a, "..., pairs", (*heads, pairs), v, (v.dtype,))
    if L < 1:
        raise ValueError(f"L is {L}, expected 1 or more")
    run = _vandermonde if by_operator(v) else _EagerVandermonde.apply
    k = run(v.reshape(-1, rows, pairs), a.reshape(-1, pairs), L)
    return k.view(*heads, rows, L)


def device_path(tensor: Tensor) -> ModuleType:
    """The module with the kernels for the tensor's device; complex128 takes PyTorch's operations everywhere.

    Triton is imported where there is a GPU only.
    """
    if not tensor.is_cuda or tensor.dtype == torch.complex128:
        return cpu
    from ssm_seq.kernels.vandermonde import gpu

    return gpu


def _forward(v: Tensor, a: Tensor, L: int) -> Tensor:
    return device_path(v).forward(v.resolve_conj().contiguous(), a.resolve_conj().contiguous(), L)


_vandermonde = torch.library.custom_op("ssm_seq::vandermonde", _forward, mutates_args=())


@_vandermonde.register_fake
def _(v, a, L):
    return v.new_empty(*v.shape[:2], L, dtype=v.dtype.to_real())


def _backward(dk: Tensor, v: Tensor, a: Tensor) -> tuple[Tensor, Tensor]:
    """dv, da from the sums over l of g exp(l a) and l g exp(l a), both (heads, rows, pairs)."""
    v, a = v.resolve_conj().contiguous(), a.resolve_conj().contiguous()
    sums, moments = device_path(v).backward(dk.contiguous(), a)
    return 2 * sums.conj().resolve_conj(), 2 * (v * moments).sum(1).conj().resolve_conj()


_vandermonde_backward = torch.library.custom_op("ssm_seq::vandermonde_backward", _backward, mutates_args=())


@_vandermonde_backward.register_fake
def _(dk, v, a):
    return v.new_empty(v.shape), a.new_empty(a.shape)


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:2])


def _gradients(ctx, dk, backward=_vandermonde_backward):
    return *backward(dk, *ctx.saved_tensors), None


_vandermonde.register_autograd(_gradients, setup_context=_setup_context)


class _EagerVandermonde(torch.autograd.Function):
    """The same without the operator's dispatch, which costs a millisecond on some machines."""

    @staticmethod
    def forward(ctx, v, a, L):
        _setup_context(ctx, (v, a, L), None)
        return _forward(v, a, L)

    @staticmethod
    @once_differentiable
    def backward(ctx, dk):
        return _gradients(ctx, dk, _backward)
