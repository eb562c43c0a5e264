"""Tensors as the contiguous arrays that compiled kernels read, with channels filled up to whole vectors."""

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.kernels.cpu.lanes import BYTES


def compute_dtype(tensor: Tensor) -> torch.dtype:
    """float64 for float64, float32 for everything else."""
    return torch.promote_types(tensor.dtype, torch.float32)


def whole_vectors(channels: int, dtype: torch.dtype) -> int:
    """`channels` rounded up to a multiple of a vector's lanes."""
    lanes = BYTES // dtype.itemsize
    return -(-channels // lanes) * lanes


def as_array(tensor: Tensor, dtype: torch.dtype, channels: int | None = None) -> np.ndarray:
    """A contiguous array of `dtype`; its last axis filled with zeros up to `channels` if given."""
    tensor = tensor.detach().to(dtype)
    if channels is not None and channels != tensor.shape[-1]:
        tensor = F.pad(tensor, (0, channels - tensor.shape[-1]))
    return tensor.contiguous().numpy()


def or_zeros(tensor: Tensor | None, shape: tuple[int, ...], dtype: torch.dtype) -> Tensor:
    """The tensor, or zeros where there is none."""
    return torch.zeros(shape, dtype=dtype) if tensor is None else tensor
