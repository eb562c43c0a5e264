"""What every decoder's `run` looks at first."""

import torch
from torch import Tensor

from ssm_seq.kernels.checks import expect
from ssm_seq.kernels.decode.stacks import Stack


def check_arguments(
    stack: Stack, like: Tensor, state: tuple[Tensor, ...], logits: Tensor, draws: Tensor
) -> None:
    """Raise ValueError for a shape, dtype, device or order in memory that does not fit, with its name.

    stack: may be on "meta". like: has the device of all, and the dtype of the state and the logits.
    """
    if draws.dim() != 2 or not len(draws):
        raise ValueError(f"draws has shape {tuple(draws.shape)}, expected (rows, steps) with a row at least")
    rows = len(draws)
    expect("draws", draws, "rows, steps", tuple(draws.shape), like, (torch.float64,))
    expect("logits", logits, "rows, vocab", (rows, len(stack.head)), like, (like.dtype,))
    shapes = stack.state_shapes(rows)
    if len(state) != len(shapes):
        raise ValueError(f"state has {len(state)} tensors, expected {len(shapes)}")
    for number, (part, shape) in enumerate(zip(state, shapes, strict=True)):
        expect(f"state[{number}]", part, "layers, rows, ...", shape, like, (like.dtype,))
    for name, tensor in {"logits": logits, **{f"state[{n}]": part for n, part in enumerate(state)}}.items():
        if not tensor.is_contiguous():
            raise ValueError(f"{name} has strides {tensor.stride()}, expected contiguous memory")
