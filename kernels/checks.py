"""Arguments are checked before any kernel sees them."""

import torch
from torch import Tensor

FLOATS = (torch.float32, torch.float64, torch.bfloat16, torch.float16)
COMPLEX = (torch.complex64, torch.complex128)
BOOL = (torch.bool,)


def by_operator(tensor: Tensor) -> bool:
    """Whether PyTorch's operator has to run instead of the kernel behind it: while a graph is compiled, and
    where there are shapes but no numbers (device `meta`)."""
    return torch.compiler.is_compiling() or tensor.is_meta


def expect(
    name: str,
    tensor: Tensor | None,
    axes: str,
    shape: tuple[int, ...],
    like: Tensor,
    dtypes: tuple[torch.dtype, ...] = FLOATS,
) -> None:
    """Raise ValueError unless `tensor` is None or has this shape, one of `dtypes` and the device of `like`.

    axes: the names of the axes, for the message, such as "batch, length, channels".
    """
    if tensor is None:
        return
    if tuple(tensor.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected ({axes}) = {shape}")
    if tensor.dtype not in dtypes:
        known = ", ".join(str(dtype).removeprefix("torch.") for dtype in dtypes)
        raise ValueError(
            f"{name} has shape {tuple(tensor.shape)} and dtype {tensor.dtype}, expected dtype {known}"
        )
    if tensor.device != like.device:
        raise ValueError(f"{name} lies on {tensor.device}, expected {like.device}")


def expect_axes(
    name: str, tensor: Tensor, axes: str, dtypes: tuple[torch.dtype, ...] = FLOATS
) -> tuple[int, ...]:
    """The shape of a tensor that must have the named axes, none of them empty, and one of `dtypes`.

    "..." among the names stands for any number of axes.
    """
    named = axes.replace("..., ", "").count(",") + 1
    fits = tensor.dim() >= named if "..." in axes else tensor.dim() == named
    if not fits or 0 in tensor.shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected ({axes}) with no axis empty")
    expect(name, tensor, axes, tuple(tensor.shape), tensor, dtypes)
    return tuple(tensor.shape)
