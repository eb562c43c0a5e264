"""What operators of PyTorch must not return: two tensors in one memory."""

from collections.abc import Callable
from functools import wraps
from typing import Any

from torch import Tensor


def in_own_memory(function: Callable[..., list[Tensor]]) -> Callable[..., list[Tensor]]:
    """The function, with a copy of each result that lies in the memory of another, as parts of a sum may."""

    @wraps(function)  # an operator's schema is read from the signature
    def apart(*arguments: Any) -> list[Tensor]:
        seen: set[int] = set()
        results = []
        for tensor in function(*arguments):
            memory = tensor.untyped_storage().data_ptr()
            results.append(tensor.clone() if memory in seen else tensor)
            seen |= {memory} - {0}  # empty tensors are all at 0
        return results

    return apart
