"""The diagonal time-invariant scan as an operator of PyTorch: checks, device dispatch, gradients."""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.checks import COMPLEX, by_operator, expect, expect_axes
from ssm_seq.kernels.lti_scan import cpu, definition

MOST_PAIRS = 64  # whose matrices fit into a multiprocessor


def lti_scan(
    u: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    initial_state: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """x_t = Abar x_(t-1) + B u_t, y_t = 2 Re <C, x_t> + D u_t, each channel for itself; Abar = exp(exponent).

    <C, x> = sum of C_n x_n. A convolution of u with the kernel 2 Re <C, Abar^k B>, by matrix products over
    chunks between which the states are carried: no transform, no padding, time linear in the length.
    Differentiable once in every tensor, initial and final state included. The sums are float32, or
    float64 for a float64 u, which takes the definition on a GPU.

    Args:
        u: (batch, length, channels), real.
        exponent: delta A, complex (channels, pairs), one of each conjugate pair of modes.
        B, C: complex (channels, pairs); B is the discretised one.
        D: (channels,).
        initial_state: complex (batch, channels, pairs), zeros if None.

    Returns:
        y like u, and the state after the last position, complex (batch, channels, pairs).

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name.
    """
    batch, _, channels = expect_axes("u", u, "batch, length, channels")
    pairs = expect_axes("exponent", exponent, "channels, pairs", COMPLEX)[1]
    for name, matrix in (("exponent", exponent), ("B", B), ("C", C)):
        expect(name, matrix, "channels, pairs", (channels, pairs), u, COMPLEX)
    expect("D", D, "channels", (channels,), u)
    shape = (batch, channels, pairs)
    expect("initial_state", initial_state, "batch, channels, pairs", shape, u, COMPLEX)
    # A compiled graph's call of an operator loses lazy conjugates.
    exponent, B, C = (matrix.resolve_conj() for matrix in (exponent, B, C))
    inputs = (u, exponent, B, C, D, None if initial_state is None else initial_state.resolve_conj())
    if u.is_cuda and u.dtype == torch.float64:
        return definition.lti_scan(*inputs)
    if u.is_cuda and pairs > MOST_PAIRS:
        return _in_parts(*inputs)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in inputs)
    run = _scan if by_operator(u) else _EagerScan.apply
    y, final_state, _ = run(*inputs, keep)
    return y, final_state


def _in_parts(
    u: Tensor, exponent: Tensor, B: Tensor, C: Tensor, D: Tensor | None, initial_state: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Systems of fewer modes side by side, whose outputs add up."""
    y, states = 0, []
    for n in range(0, exponent.shape[1], MOST_PAIRS):
        part = slice(n, n + MOST_PAIRS)
        start = None if initial_state is None else initial_state[..., part]
        share, state = lti_scan(u, exponent[:, part], B[:, part], C[:, part], None if n else D, start)
        y = y + share
        states.append(state)
    return y, torch.cat(states, dim=-1)


def _device_path(tensor: Tensor) -> ModuleType:
    """The module with the kernels for the tensor's device. Triton is imported where there is a GPU only."""
    if not tensor.is_cuda:
        return cpu
    from ssm_seq.kernels.lti_scan import gpu

    return gpu


def _forward(
    u: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and what the backward pass wants to know of the states between if `keep`."""
    return _device_path(u).forward(u, exponent, B, C, D, initial_state, keep)


_scan = torch.library.custom_op("ssm_seq::lti_scan", _forward, mutates_args=())


@_scan.register_fake
def _(u, exponent, B, C, D, initial_state, keep):
    batch, _, channels = u.shape
    state_dtype = torch.promote_types(u.dtype, torch.complex64)
    kept_shape, kept_dtype = _device_path(u).kept(u, exponent)
    return (
        torch.empty_like(u, memory_format=torch.contiguous_format),
        u.new_empty((batch, channels, exponent.shape[1]), dtype=state_dtype),
        u.new_empty(kept_shape if keep else (0,) * len(kept_shape), dtype=kept_dtype),
    )


def _backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    kept: Tensor,
) -> list[Tensor]:
    gradients = _device_path(u).backward(dy, dfinal, u, exponent, B, C, D, kept)
    return [
        u.new_empty(0) if tensor is None else gradient.to(tensor.dtype)
        for gradient, tensor in zip(gradients, (u, exponent, B, C, D, initial_state), strict=True)
    ]


_scan_backward = torch.library.custom_op("ssm_seq::lti_scan_backward", _backward, mutates_args=())


@_scan_backward.register_fake
def _(dy, dfinal, u, exponent, B, C, D, initial_state, kept):
    return [
        u.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in (u, exponent, B, C, D, initial_state)
    ]


def _setup_context(ctx, inputs, output) -> None:
    *tensors, _ = inputs
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx, dy, dfinal, _, backward=_scan_backward):
    *tensors, kept = ctx.saved_tensors
    dy = torch.zeros_like(tensors[0]) if dy is None else dy
    found = backward(dy, dfinal, *tensors, kept)
    gradients = (
        None if tensor is None else gradient for gradient, tensor in zip(found, tensors, strict=True)
    )
    return *gradients, None


_scan.register_autograd(_gradients, setup_context=_setup_context)


class _EagerScan(torch.autograd.Function):
    """The same without the operator's dispatch, which costs a millisecond on some machines."""

    @staticmethod
    def forward(ctx, *arguments):
        output = _forward(*arguments)
        _setup_context(ctx, arguments, output)
        ctx.mark_non_differentiable(output[2])
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx, dy, dfinal, _):
        return _gradients(ctx, dy, dfinal, None, _backward)
