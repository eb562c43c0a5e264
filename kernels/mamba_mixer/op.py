"""The Mamba mixer as an operator of PyTorch: checks, precision, gradients."""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.checks import expect, expect_axes
from ssm_seq.kernels.mamba_mixer import definition, walk
from ssm_seq.kernels.mamba_mixer.pieces import backward_parts
from ssm_seq.kernels.storage import in_own_memory


def mamba_mixer(
    x: Tensor,
    in_proj: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_proj: Tensor,
    conv_state: Tensor | None = None,
    ssm_state: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """u, z = W_in x; v = silu(conv(u)); delta, B, C = W_x v; out = W_out (scan(v, W_dt delta, B, C) silu(z)).

    The whole of a Mamba block between its norm and its residual sum (Gu & Dao 2023, figure 3, algorithm 2).
    The definition is beside this file; this one needs a fraction of the memory, since it makes everything but
    x, out and the scan's kept states for one piece of the sequence at a time, and again on the way back.

    Products are taken in the dtype of x, or in autocast's where that is enabled; matrices are cast to it,
    their gradients summed up in float32. Differentiable once in every tensor, initial and final states
    included. On a GPU float64 and convolutions wider than 4 take the definition.

    Args:
        x: (batch, length, d_model).
        in_proj: (2 * d_inner, d_model), the rows for u before those for the gate z.
        conv_weight: (d_inner, width).
        conv_bias: (d_inner,).
        x_proj: (dt_rank + 2 * d_state, d_inner), the rows for delta before those for B and for C.
        dt_proj: (d_inner, dt_rank).
        dt_bias, D: (d_inner,).
        A: (d_inner, d_state), real and negative.
        out_proj: (d_model, d_inner).
        conv_state: the last width - 1 inputs of the convolution, (batch, width - 1, d_inner), zeros if None.
        ssm_state: the state of the recurrence, (batch, d_inner, d_state), zeros if None.

    Returns:
        out (batch, length, d_model) and both states after the last position: that of the convolution in
        the dtype of the products, that of the recurrence in float32 (float64 for float64 inputs).

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name.
    """
    weights = walk.Weights(in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj)
    expect_arguments(x, weights, conv_state, ssm_state)
    if takes_definition(x, weights):
        return definition.mamba_mixer(x, *weights, conv_state, ssm_state)
    x = x.to(products_dtype(x)).contiguous()
    tensors = (x, *weights, conv_state, ssm_state)
    keep = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)
    run = _mixer if torch.compiler.is_compiling() else _EagerMixer.apply
    return run(*tensors, keep)[:3]


def expect_arguments(
    x: Tensor, weights: walk.Weights, conv_state: Tensor | None, ssm_state: Tensor | None
) -> None:
    """ValueError for the first of them that does not fit."""
    batch, _, d_model = expect_axes("x", x, "batch, length, d_model")
    d_inner, d_state = expect_axes("A", weights.A, "d_inner, d_state")
    dt_rank = expect_axes("dt_proj", weights.dt_proj, "d_inner, dt_rank")[1]
    width = expect_axes("conv_weight", weights.conv_weight, "d_inner, width")[1]
    expect("in_proj", weights.in_proj, "2 * d_inner, d_model", (2 * d_inner, d_model), x)
    expect("conv_weight", weights.conv_weight, "d_inner, width", (d_inner, width), x)
    expect("conv_bias", weights.conv_bias, "d_inner", (d_inner,), x)
    expect("x_proj", weights.x_proj, "dt_rank + 2 * d_state, d_inner", (dt_rank + 2 * d_state, d_inner), x)
    expect("dt_proj", weights.dt_proj, "d_inner, dt_rank", (d_inner, dt_rank), x)
    expect("dt_bias", weights.dt_bias, "d_inner", (d_inner,), x)
    expect("A", weights.A, "d_inner, d_state", (d_inner, d_state), x)
    expect("D", weights.D, "d_inner", (d_inner,), x)
    expect("out_proj", weights.out_proj, "d_model, d_inner", (d_model, d_inner), x)
    expect("conv_state", conv_state, "batch, width - 1, d_inner", (batch, width - 1, d_inner), x)
    expect("ssm_state", ssm_state, "batch, d_inner, d_state", (batch, d_inner, d_state), x)


def takes_definition(x: Tensor, weights: walk.Weights) -> bool:
    return x.is_cuda and (x.dtype == torch.float64 or weights.conv_weight.shape[1] > 4)


def products_dtype(x: Tensor) -> torch.dtype:
    """That of x, or autocast's where that is enabled."""
    if torch.is_autocast_enabled(x.device.type) and x.dtype != torch.float64:
        return torch.get_autocast_dtype(x.device.type)
    return x.dtype


def _forward(
    x: Tensor,
    in_proj: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_proj: Tensor,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """out, both states, and all that the walk saves in one tensor: operators return a fixed number."""
    weights = walk.Weights(in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj)
    with torch.autocast(x.device.type, enabled=False):
        matrices = walk.matrices_of(weights, x.dtype)
        out, conv, ssm, saved = walk.forward(x, weights, matrices, conv_state, ssm_state, keep)
    saved = [part.flatten() for part in saved]
    return out, conv, ssm, torch.cat(saved) if len(saved) > 1 else saved[0] if saved else x.new_empty(0)


_mixer = torch.library.custom_op("ssm_seq::mamba_mixer", _forward, mutates_args=())


@_mixer.register_fake
def _(
    x, in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj, conv_state, ssm_state, keep
):
    batch, length, _ = x.shape
    d_inner, d_state = A.shape
    state_dtype = torch.promote_types(x.dtype, torch.float32)
    if not keep:
        saved = x.new_empty(0)
    elif walk.keeps_states(x, A):
        size = 1
        for axis in walk.kept_shape(x, A):
            size = size * axis
        if walk.keeps_projection(x, A):
            size = size + 2 * batch * length * d_inner
        saved = x.new_empty(size, dtype=walk.device_paths(x)[1].kept_dtype(x))
    else:
        parts = backward_parts(length, d_inner)
        saved = x.new_empty(batch * parts * d_inner * d_state, dtype=state_dtype)
    return (
        torch.empty_like(x),
        x.new_empty(batch, conv_weight.shape[1] - 1, d_inner),
        x.new_empty(batch, d_inner, d_state, dtype=state_dtype),
        saved,
    )


def _backward(
    dout: Tensor,
    dconv: Tensor | None,
    dssm: Tensor | None,
    x: Tensor,
    in_proj: Tensor,
    conv_weight: Tensor,
    conv_bias: Tensor | None,
    x_proj: Tensor,
    dt_proj: Tensor,
    dt_bias: Tensor,
    A: Tensor,
    D: Tensor,
    out_proj: Tensor,
    conv_state: Tensor | None,
    ssm_state: Tensor | None,
    saved: Tensor,
) -> list[Tensor]:
    end = saved.shape[0]

    def last_saved(shape: tuple[int, ...]) -> Tensor:
        nonlocal end
        first, last = end - torch.Size(shape).numel(), end
        end = first
        return saved[first:last].view(shape)

    weights = walk.Weights(in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj)
    matrices = walk.matrices_of(weights, x.dtype)
    inputs = (x, *weights, conv_state, ssm_state)
    gradients = walk_back(dout, dconv, dssm, inputs, matrices, last_saved)
    return [x.new_empty(0) if gradient is None else gradient for gradient in gradients]


_mixer_backward = torch.library.custom_op(
    "ssm_seq::mamba_mixer_backward", in_own_memory(_backward), mutates_args=()
)


@_mixer_backward.register_fake
def _(dout, dconv, dssm, x, *others):
    *weights_and_states, _ = others
    return [
        x.new_empty(0) if tensor is None else tensor.new_empty(tensor.shape)
        for tensor in (x, *weights_and_states)
    ]


def walk_back(
    dout: Tensor | None,
    dconv: Tensor | None,
    dssm: Tensor | None,
    inputs: tuple[Tensor | None, ...],
    matrices: walk.Matrices,
    saved: Callable[[tuple[int, ...]], Tensor],
) -> list[Tensor | None]:
    """The gradient of each of the twelve inputs in its dtype, None where there is no input."""
    x, *weights, conv_state, ssm_state = inputs
    with torch.autocast(x.device.type, enabled=False):
        dx, dweights, dconv_state, dssm_state = walk.backward(
            dout, dconv, dssm, x, walk.Weights(*weights), matrices, conv_state, ssm_state, saved
        )
        return [
            None if tensor is None else gradient.to(tensor.dtype)
            for tensor, gradient in zip(inputs, (dx, *dweights, dconv_state, dssm_state), strict=True)
        ]


def _setup_context(ctx, inputs, output) -> None:
    ctx.save_for_backward(*inputs[:-1], output[3])
    ctx.set_materialize_grads(False)


def _gradients(ctx, dout, dconv, dssm, _):
    *inputs, saved = ctx.saved_tensors
    dout = torch.zeros_like(inputs[0]) if dout is None else dout
    gradients = _mixer_backward(dout, dconv, dssm, *inputs, saved)
    return *(None if t is None else gradient for t, gradient in zip(inputs, gradients, strict=True)), None


_mixer.register_autograd(_gradients, setup_context=_setup_context)


class _EagerMixer(torch.autograd.Function):
    """The same without the operator's dispatch, and without the copy of what it saves into one tensor.

    It also saves the matrices as they were cast, as autocast does for a linear layer.
    """

    @staticmethod
    def forward(ctx, x, *arguments):
        *weights, conv_state, ssm_state, keep = arguments
        weights = walk.Weights(*weights)
        with torch.autocast(x.device.type, enabled=False):
            matrices = walk.matrices_of(weights, x.dtype)
            *outputs, saved = walk.forward(x, weights, matrices, conv_state, ssm_state, keep)
        ctx.save_for_backward(x, *weights, conv_state, ssm_state, *matrices, *saved)
        ctx.set_materialize_grads(False)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dconv, dssm):
        tensors = ctx.saved_tensors
        inputs, matrices, saved = tensors[:12], walk.Matrices(*tensors[12:16]), list(tensors[16:])
        dout = torch.zeros_like(inputs[0]) if dout is None else dout
        return *walk_back(dout, dconv, dssm, inputs, matrices, lambda shape: saved.pop()), None
