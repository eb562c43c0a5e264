"""The diagonal time-invariant scan as an operator of PyTorch: checks, device dispatch, gradients."""

from types import ModuleType

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.checks import COMPLEX, expect, expect_axes
from ssm_seq.kernels.lti_scan import cpu
from ssm_seq.kernels.lti_scan.matrices import matrices


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
    float64 for a float64 u.

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
    made = matrices(exponent, B, C, D, _path(u).CHUNK, torch.promote_types(u.dtype, torch.float32))
    run = _scan if torch.compiler.is_compiling() else _EagerScan.apply
    start = None if initial_state is None else initial_state.to(made.into.dtype)
    y, final_state, _ = run(u, exponent, *made, start)
    return y, final_state


def _path(u: Tensor) -> ModuleType:
    """The module with the kernels for this sequence. Triton is imported where there is a GPU only."""
    if not u.is_cuda or u.dtype == torch.float64:
        return cpu
    from ssm_seq.kernels.lti_scan import gpu

    return gpu


def _forward(
    u: Tensor, exponent: Tensor, lags: Tensor, into: Tensor, out: Tensor, initial_state: Tensor | None
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and what the backward pass wants to know of the states between."""
    with torch.autocast(u.device.type, enabled=False):
        return _path(u).forward(u, exponent, lags, into, out, initial_state)


_scan = torch.library.custom_op("ssm_seq::lti_scan", _forward, mutates_args=())


@_scan.register_fake
def _(u, exponent, lags, into, out, initial_state):
    batch, _, channels = u.shape
    return (
        torch.empty_like(u, memory_format=torch.contiguous_format),
        into.new_empty((batch, channels, exponent.shape[1])),
        into.new_empty(_path(u).kept_shape(u, exponent)),
    )


def _backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    exponent: Tensor,
    lags: Tensor,
    into: Tensor,
    out: Tensor,
    kept: Tensor,
) -> list[Tensor]:
    """Gradients of u, exponent, lags, into, out and the initial state."""
    with torch.autocast(u.device.type, enabled=False):
        du, dexponent, *others = _path(u).backward(dy, dfinal, u, exponent, lags, into, out, kept)
    return [du, dexponent.to(exponent.dtype), *others]


_scan_backward = torch.library.custom_op("ssm_seq::lti_scan_backward", _backward, mutates_args=())


@_scan_backward.register_fake
def _(dy, dfinal, u, exponent, lags, into, out, kept):
    state = into.new_empty((u.shape[0], *exponent.shape))
    return [*(tensor.new_empty(tensor.shape) for tensor in (u, exponent, lags, into, out)), state]


def _setup_context(ctx, inputs, output) -> None:
    *tensors, initial_state = inputs
    ctx.started = initial_state is not None
    ctx.save_for_backward(*tensors, output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx, dy, dfinal, _, backward=_scan_backward):
    u, *others = ctx.saved_tensors
    dy = torch.zeros_like(u) if dy is None else dy
    *gradients, dstart = backward(dy, dfinal, u, *others)
    return *gradients, dstart if ctx.started else None


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
