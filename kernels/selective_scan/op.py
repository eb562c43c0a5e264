"""The selective scan as an operator of PyTorch: checks, device dispatch, gradients."""

from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.checks import BOOL, COMPLEX, FLOATS, by_operator, expect, expect_axes
from ssm_seq.kernels.selective_scan import complex as complex_path
from ssm_seq.kernels.selective_scan import cpu, definition
from ssm_seq.kernels.storage import in_own_memory


def selective_scan(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None = None,
    z: Tensor | None = None,
    delta_bias: Tensor | None = None,
    delta_softplus: bool = False,
    initial_state: Tensor | None = None,
    starts: Tensor | None = None,
    reverse: bool = False,
) -> tuple[Tensor, Tensor]:
    """x_t = exp(delta_t A) x_(t-1) + delta_t B_t u_t,  y_t = <C_t, x_t> + D u_t, gated by silu(z_t).

    The definition is beside this file; this one is fast, and never holds the states of all steps.
    Differentiable once in every floating tensor, initial and final state included.

    On a GPU float64 takes the definition. A long sequence is cut there: what has decayed to 2^-32 of itself
    (2^-24 for 16-bit inputs) within a piece may be left out, or stay as it was then. This supposes steps,
    which are delta with its bias and softplus, of at least zero.

    A complex A takes a path of plain PyTorch, several times slower, in which a state stands for a conjugate
    pair: <C, x> = 2 Re sum(C x).

    Args:
        u, delta, z: (batch, length, channels).
        A: (channels, d_state), real and negative, or complex with a negative real part.
        B, C: each of (batch, length, d_state), shared by all channels; (batch, length, groups, d_state),
            channel c takes group c // (channels / groups); (channels, d_state), the same at all times.
            Complex only if A is.
        D, delta_bias: (channels,).
        initial_state: (batch, channels, d_state), the state before the first position of the walk, zeros if
            None. Complex if A is.
        starts: (batch, length) bool, True at the first position of each of several sequences packed into
            one row: no state passes from the position before, but for a complex A infinities and NaN may.
            The first column matters only for `initial_state`: False lets it in.
        reverse: walk from the last position to the first. `initial_state` enters at the last position, the
            final state is that after the first.

    Returns:
        y (batch, length, channels) in u's dtype and the final state (batch, channels, d_state) in
        float32 (float64 for float64 inputs), complex if A is.

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name.
    """
    batch, length, channels = expect_axes("u", u, "batch, length, channels")
    d_state = expect_axes("A", A, "channels, d_state", FLOATS + COMPLEX)[1]
    numbers = FLOATS + COMPLEX if A.is_complex() else FLOATS
    sequence = "batch, length, channels"
    expect("A", A, "channels, d_state", (channels, d_state), u, numbers)
    expect("delta", delta, sequence, (batch, length, channels), u)
    expect("D", D, "channels", (channels,), u)
    expect("z", z, sequence, (batch, length, channels), u)
    expect("delta_bias", delta_bias, "channels", (channels,), u)
    shape = (batch, channels, d_state)
    expect("initial_state", initial_state, "batch, channels, d_state", shape, u, numbers)
    expect("starts", starts, "batch, length", (batch, length), u, BOOL)
    B, C = (_in_groups(name, matrix, u, d_state, numbers) for name, matrix in (("B", B), ("C", C)))
    inputs = (u, delta, A, B, C, D, z, delta_bias)
    if u.is_cuda and u.dtype == torch.float64 and not A.is_complex():
        return definition.selective_scan(*inputs, delta_softplus, initial_state, starts, reverse)
    # Where the walk loses its state: at a start, or one position before the next one when it walks back.
    resets = F.pad(starts[:, 1:], (0, 1)) if reverse and starts is not None else starts
    tensors = (*inputs, initial_state)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    run = _scan if by_operator(u) else _EagerScan.apply
    y, final_state, _ = run(*inputs, delta_softplus, initial_state, resets, reverse, keep)
    return y, final_state


def _in_groups(name: str, matrix: Tensor, u: Tensor, d_state: int, dtypes: tuple[torch.dtype, ...]) -> Tensor:
    """B or C as the device paths take it: (batch, length, groups, d_state) or (channels, d_state)."""
    batch, length, channels = u.shape
    if matrix.dim() == 2:
        expect(name, matrix, "channels, d_state", (channels, d_state), u, dtypes)
        return matrix
    if matrix.dim() == 4:
        groups = matrix.shape[2]
        if groups == 0 or channels % groups:
            raise ValueError(
                f"{name} has shape {tuple(matrix.shape)}, expected (batch, length, groups, d_state) where "
                f"groups divide the {channels} channels"
            )
        shape = (batch, length, groups, d_state)
        expect(name, matrix, "batch, length, groups, d_state", shape, u, dtypes)
        return matrix
    expect(name, matrix, "batch, length, d_state", (batch, length, d_state), u, dtypes)
    return matrix.unsqueeze(2)


def _path(u: Tensor, A: Tensor) -> ModuleType:
    """The module with the kernels for these tensors. Triton is imported where there is a GPU only."""
    if A.is_complex():
        return complex_path
    if not u.is_cuda:
        return cpu
    from ssm_seq.kernels.selective_scan import gpu

    return gpu


def _forward(
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    return _path(u, A).forward(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, resets, reverse, keep
    )


_scan = torch.library.custom_op("ssm_seq::selective_scan", _forward, mutates_args=())


@_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, resets, reverse, keep):
    path, (batch, _, channels) = _path(u, A), u.shape
    kept = path.kept_shape(u, A) if keep else (0, 0, 0, 0)
    state_dtype = torch.promote_types(u.dtype, torch.complex64 if A.is_complex() else torch.float32)
    return (
        u.new_empty(u.shape),
        u.new_empty((batch, channels, A.shape[1]), dtype=state_dtype),
        u.new_empty(kept, dtype=path.kept_dtype(u)),
    )


def _backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    delta: Tensor,
    A: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    z: Tensor | None,
    delta_bias: Tensor | None,
    delta_softplus: bool,
    initial_state: Tensor | None,
    resets: Tensor | None,
    reverse: bool,
    kept: Tensor,
) -> list[Tensor]:
    *gradients, _ = _path(u, A).backward(
        dy, dfinal, u, delta, A, B, C, D, z, delta_bias, delta_softplus, resets, reverse, kept, again=False
    )
    return _match(gradients, (u, delta, A, B, C, D, z, delta_bias, initial_state))


def _match(gradients: list[Tensor], inputs: tuple[Tensor | None, ...]) -> list[Tensor]:
    """Each gradient in its input's dtype, an empty one where there is no input."""

    def match(gradient: Tensor, tensor: Tensor | None) -> Tensor:
        if tensor is None:
            return gradient.new_empty(0)
        if gradient.is_complex() and not tensor.is_complex():
            gradient = gradient.real.contiguous()
        return gradient.to(tensor.dtype)

    return [match(*pair) for pair in zip(gradients, inputs, strict=True)]


_scan_backward = torch.library.custom_op(
    "ssm_seq::selective_scan_backward", in_own_memory(_backward), mutates_args=()
)


@_scan_backward.register_fake
def _(dy, dfinal, u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, resets, reverse, kept):
    return [
        kept.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in (u, delta, A, B, C, D, z, delta_bias, initial_state)
    ]


def _setup_context(ctx, inputs, output) -> None:
    *tensors, ctx.delta_softplus, initial_state, resets, ctx.reverse, _ = inputs
    ctx.save_for_backward(*tensors, initial_state, resets, output[2])
    ctx.set_materialize_grads(False)


def _gradients(ctx, dy, dfinal, _, backward=_scan_backward):
    *tensors, initial_state, resets, kept = ctx.saved_tensors
    dy = torch.zeros_like(tensors[0]) if dy is None else dy
    gradients = backward(dy, dfinal, *tensors, ctx.delta_softplus, initial_state, resets, ctx.reverse, kept)
    *gradients, dstart = (
        None if tensor is None else gradient
        for gradient, tensor in zip(gradients, (*tensors, initial_state), strict=True)
    )
    return *gradients, None, dstart, None, None, None


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
