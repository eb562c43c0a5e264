"""Values on their way from a GPU to the host, copied beside its work and waited for when they are used."""

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Item = TypeVar("Item")


def to_device(ids: NDArray[np.uint8], device: torch.device) -> Tensor:
    """int64 of the same shape. On a GPU the host doesn't wait for the work before it."""
    tensor = torch.tensor(np.ascontiguousarray(ids))
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True).long()


class Fetched:
    """Copies of tensors of one device, as arrays; made of a GPU's, they are on their way until `arrays`."""

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self._copies = {name: _on_host(tensor) for name, tensor in tensors.items()}
        self._arrived = None
        if any(tensor.is_cuda for tensor in tensors.values()):
            self._arrived = torch.cuda.Event()
            self._arrived.record()

    @property
    def on_the_way(self) -> bool:
        """Whether there is something to wait for."""
        return self._arrived is not None

    def arrays(self) -> dict[str, NDArray]:
        if self._arrived:
            self._arrived.synchronize()
        return {name: tensor.numpy() for name, tensor in self._copies.items()}


def _on_host(tensor: Tensor) -> Tensor:
    if not tensor.is_cuda:
        return tensor
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True).copy_(tensor, non_blocking=True)


def ahead(items: Iterable[tuple[Item, Mapping[str, Tensor]]]) -> Iterator[tuple[Item, dict[str, NDArray]]]:
    """Each item with its tensors on the host. On a GPU the next item is under way by then."""
    waiting: deque[tuple[Item, Fetched]] = deque()
    for item, tensors in items:
        fetched = Fetched(tensors)
        waiting.append((item, fetched))
        while len(waiting) > fetched.on_the_way:
            item, fetched = waiting.popleft()
            yield item, fetched.arrays()
    for item, fetched in waiting:
        yield item, fetched.arrays()
