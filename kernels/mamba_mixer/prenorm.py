"""The mixer behind the norm of a residual sum, of which only the sum is saved for the backward pass."""

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ssm_seq.kernels.mamba_mixer import op as mixer
from ssm_seq.kernels.mamba_mixer import walk
from ssm_seq.kernels.rms_norm import op as norm


def prenorm_mamba_mixer(
    x: Tensor,
    residual: Tensor | None,
    norm_weight: Tensor,
    eps: float,
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
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """mamba_mixer(rms_norm(x + residual)), and that sum: a block of a pre-norm stack.

    The norm's result is made again on the way back: beside the kept states a stack saves one sequence of
    d_model channels a layer, the sum, instead of two. Inside torch.compile, and wherever one of the two takes
    its definition, it is the two calls.

    Args:
        x, residual, norm_weight, eps: as in `rms_norm`, with x (batch, length, d_model).
        in_proj, ..., ssm_state: as in `mamba_mixer`.

    Returns:
        out (batch, length, d_model), summed in residual's dtype (x itself if None), and both final states.

    Raises:
        ValueError: a shape, dtype or device that does not fit, with the argument's name.
    """
    weights = walk.Weights(in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias, A, D, out_proj)
    norm.expect_arguments(x, norm_weight, eps, residual, "norm_weight")
    mixer.expect_arguments(x, weights, conv_state, ssm_state)
    apart = norm.takes_definition(x, residual) or mixer.takes_definition(x, weights)
    if apart or torch.compiler.is_compiling() or not torch.is_grad_enabled():
        normed, summed = norm.rms_norm(x, norm_weight, eps, residual)
        out, conv_state, ssm_state = mixer.mamba_mixer(normed, *weights, conv_state, ssm_state)
        return out, summed, conv_state, ssm_state
    dtype = mixer.products_dtype(x)
    return _Prenorm.apply(x, residual, norm_weight, eps, dtype, *weights, conv_state, ssm_state)


class _Prenorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, residual, norm_weight, eps, dtype, *arguments):
        *weights, conv_state, ssm_state = arguments
        weights = walk.Weights(*weights)
        with torch.autocast(x.device.type, enabled=False):
            normed, summed = norm.device_path(x).forward(x, norm_weight, eps, residual)
            matrices = walk.matrices_of(weights, dtype)
            normed = normed.to(dtype).contiguous()
            out, conv, ssm, saved = walk.forward(normed, weights, matrices, conv_state, ssm_state, keep=True)
        ctx.save_for_backward(summed, norm_weight, *weights, conv_state, ssm_state, *matrices, *saved)
        ctx.x_dtype, ctx.dtype, ctx.eps, ctx.has_residual = x.dtype, dtype, eps, residual is not None
        ctx.set_materialize_grads(False)
        return out, summed, conv, ssm

    @staticmethod
    @once_differentiable
    def backward(ctx, dout, dsummed, dconv, dssm):
        summed, norm_weight, *tensors = ctx.saved_tensors
        path = norm.device_path(summed)
        with torch.autocast(summed.device.type, enabled=False):
            normed = path.forward(summed, norm_weight, ctx.eps, None)[0].to(ctx.dtype).contiguous()
            inputs = (normed, *tensors[:11])
            matrices, saved = walk.Matrices(*tensors[11:15]), tensors[15:]
            dout = torch.zeros_like(normed) if dout is None else dout
            back = mixer.walk_back(dout, dconv, dssm, inputs, matrices, lambda shape: saved.pop())
            dnormed, *gradients = back
            del normed, inputs, back
            total, dx, dweight = path.backward(dnormed.to(ctx.x_dtype), dsummed, summed, norm_weight, ctx.eps)
        dresidual = total if ctx.has_residual else None
        return dx, dresidual, dweight.to(norm_weight.dtype), None, None, *gradients
