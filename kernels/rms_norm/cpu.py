"""The norm on the CPU in PyTorch's operations.

Blocks of rows that stay in the caches gained nothing over whole tensors (rows of 128 and 256, up to 65,536 of
them, two cores).
"""

import torch
from torch import Tensor


def forward(x: Tensor, weight: Tensor, eps: float, residual: Tensor | None) -> tuple[Tensor, Tensor]:
    """normed and summed; summed is x where there is no residual."""
    summed = x if residual is None else (x + residual).to(residual.dtype)
    values = _values(summed)
    return (values * _scale(values, eps)).mul_(weight).to(x.dtype), summed


def backward(
    dnormed: Tensor, dsummed: Tensor | None, summed: Tensor, weight: Tensor, eps: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of summed (its dtype), of x (the dtype of dnormed), and of weight (float32 or float64).

    The first two are one tensor where their dtypes are.
    """
    width = len(weight)
    values, gradient = _values(summed).reshape(-1, width), _values(dnormed).reshape(-1, width)
    weight = weight.to(values.dtype)
    scale = _scale(values, eps)
    directions = values * scale
    products = gradient * directions
    dweight = products.sum(0)
    share = torch.mv(products, weight)[:, None] / -width
    total = (gradient * weight).addcmul_(directions, share).mul_(scale)
    if dsummed is not None:
        total += dsummed.reshape(-1, width)
    total = total.view(summed.shape)
    dsum = total.to(summed.dtype)
    return dsum, dsum if dnormed.dtype == summed.dtype else total.to(dnormed.dtype), dweight


def _values(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _scale(values: Tensor, eps: float) -> Tensor:
    norm = torch.linalg.vector_norm(values, dim=-1, keepdim=True)
    return norm.square_().div_(values.shape[-1]).add_(eps).rsqrt_()
