"""The decoder that fits a model and its device."""

from typing import Protocol

import torch
from torch import Tensor

from ssm_seq.kernels.decode.rule import Rule
from ssm_seq.kernels.decode.stacks import Stack


class Decoder(Protocol):
    """Runs whole steps of a language model; a row's results do not depend on the other rows."""

    def run(self, state: tuple[Tensor, ...], logits: Tensor, draws: Tensor, rule: Rule) -> Tensor:
        """Draw an id from the logits, read it, and so on: `steps` times for each row.

        Args:
            state: as the stack's `state_shapes` has it, contiguous, float32 (float64 for a float64 stack);
                overwritten by the state after the last id.
            logits: (rows, vocab), of the state's dtype, for the first id; overwritten by those for the id
                after the last.
            draws: (rows, steps) float64 in [0, 1): what step t of a row is drawn with.

        Returns:
            ids (rows, steps) int64.

        Raises:
            ValueError: an argument that does not fit, with its name.
        """
        ...


def decoder(stack: Stack, dtype: torch.dtype | None = None) -> Decoder | None:
    """The fused steps of a model on its device, None where there are none for it: on a GPU for float64 and
    for more ids or states than a program holds.

    dtype: of the matrices, the stack's own if None; bfloat16 on GPUs only.

    Raises:
        ValueError: another dtype.
    """
    own, on_gpu = stack.head.dtype, stack.head.is_cuda
    dtype = dtype or own
    if dtype not in ((torch.float32, torch.bfloat16) if on_gpu else (own,)) and dtype != torch.float64:
        raise ValueError(f"dtype is {dtype}, expected float32 or (on a GPU) bfloat16")
    if not on_gpu:
        from ssm_seq.kernels.decode.cpu import CpuDecoder

        return CpuDecoder(stack)
    from ssm_seq.kernels.decode.gpu import GpuDecoder, takes

    if dtype == torch.float64 or not takes(stack):
        return None
    return GpuDecoder(stack, dtype)
