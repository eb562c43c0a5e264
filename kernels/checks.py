"""Arguments are checked before any kernel sees them."""

import torch
from torch import Tensor

_FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)


def expect(name: str, tensor: Tensor | None, axes: str, shape: tuple[int, ...], like: Tensor) -> None:
    """Raise ValueError unless `tensor` is None or a real floating tensor of `shape` on the device of `like`.

    axes: the names of the axes, for the message, such as "batch, length, channels".
    """
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected ({axes}) = {shape}")
    if tensor.dtype not in _FLOATS:
        raise ValueError(f"{name} has dtype {tensor.dtype}, expected float32, float64, bfloat16 or float16")
    if tensor.device != like.device:
        raise ValueError(f"{name} lies on {tensor.device}, expected {like.device}")


def expect_axes(name: str, tensor: Tensor, axes: str) -> tuple[int, ...]:
    """The shape of a floating tensor that must have the named axes, none of them empty."""
    if tensor.dim() != axes.count(",") + 1 or 0 in tensor.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected ({axes}) with no axis empty")
    expect(name, tensor, axes, tuple(tensor.shape), tensor)
    return tuple(tensor.shape)
