"""The cross entropy on the CPU in PyTorch's operations, some rows at a time; the products in float32."""

from collections.abc import Iterator

import torch
from torch import Tensor

LOGITS = 2**19  # held at once: what stays in the caches takes two thirds of the time of all at once
MIN_ROWS = 256  # at once, for the products' sake


def forward(hidden: Tensor, weight: Tensor, targets: Tensor) -> tuple[Tensor, Tensor]:
    """losses and the logarithms of the sums over the vocabulary, both (rows,)."""
    matrix = _values(weight.to(hidden.dtype))
    if (most := int(targets.max())) >= len(weight):
        raise ValueError(f"targets has the value {most}, expected values below vocab = {len(weight)}")
    losses, sums = (torch.empty(len(hidden), dtype=matrix.dtype) for _ in range(2))
    for rows in _chunks(hidden, weight):
        logits = torch.mm(_values(hidden[rows]), matrix.t())
        torch.logsumexp(logits, 1, out=sums[rows])
        chosen = logits.gather(1, targets[rows, None].clamp(min=0))[:, 0]
        torch.sub(sums[rows], chosen, out=losses[rows])
    return losses.masked_fill_(targets < 0, 0.0), sums


def backward(
    dlosses: Tensor, hidden: Tensor, weight: Tensor, targets: Tensor, sums: Tensor
) -> tuple[Tensor, Tensor]:
    """Gradients of hidden (its dtype) and weight (float32 or float64). Of the logits: softmax - onehot."""
    matrix = _values(weight.to(hidden.dtype))
    dlosses = torch.where(targets < 0, 0.0, dlosses)[:, None]
    dhidden = torch.empty(hidden.shape, dtype=hidden.dtype)
    dweight = torch.zeros(weight.shape, dtype=matrix.dtype)
    minus_one = torch.full((1, 1), -1.0, dtype=matrix.dtype)
    for rows in _chunks(hidden, weight):
        values, chosen = _values(hidden[rows]), targets[rows, None].clamp(min=0)
        gradient = torch.mm(values, matrix.t()).sub_(sums[rows, None]).exp_()
        gradient.scatter_add_(1, chosen, minus_one.expand_as(chosen)).mul_(dlosses[rows])
        dhidden[rows] = torch.mm(gradient, matrix)
        dweight.addmm_(gradient.t(), values)
    return dhidden, dweight


def _values(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _chunks(hidden: Tensor, weight: Tensor) -> Iterator[slice]:
    step = max(LOGITS // len(weight), MIN_ROWS)
    return (slice(first, first + step) for first in range(0, len(hidden), step))
