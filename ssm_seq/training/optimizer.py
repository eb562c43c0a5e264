"""What AdamW does to which parameter, and the learning rate of each step."""

import math
from typing import Any

import torch
from torch import nn

from ssm_seq.config import OptimConfig
from ssm_seq.errors import InputError


def new_optimizer(model: nn.Module, optim: OptimConfig) -> torch.optim.AdamW:
    """AdamW over the model's parameters; on a GPU in one kernel instead of one for each of its operations."""
    on_gpu = next(model.parameters()).is_cuda
    groups, betas = parameter_groups(model, optim), tuple(optim.betas)
    return torch.optim.AdamW(groups, betas=betas, eps=optim.eps, fused=on_gpu)


def parameter_groups(model: nn.Module, optim: OptimConfig) -> list[dict[str, Any]]:
    """Every trainable parameter once, in groups for `torch.optim.AdamW`; empty groups are left out.

    `ssm`: what the model's layers declare by `ssm_parameters()`: rate `ssm_lr`, no decay.
    `ssm.NAME`: those of them that `ssm_lrs` has a rate for, by name: that rate, no decay.
    `plain`: embeddings and all vectors (norms, biases, skip weights): rate `lr`, no decay.
    `decayed`: the other matrices: rate `lr`, decay `weight_decay`.
    Each group keeps its full rate as `peak_lr`; the loop scales it by `schedule`.

    Raises:
        InputError: no state-space parameter has a name of `ssm_lrs`.
    """
    ssm = {id(parameter) for parameter in model.ssm_parameters()}
    rates = {"decayed": optim.lr, "plain": optim.lr, "ssm": optim.ssm_lr}
    rates |= {f"ssm.{name}": rate for name, rate in optim.ssm_lrs.items()}
    members: dict[str, dict[int, nn.Parameter]] = {name: {} for name in rates}
    known = set()
    for module in model.modules():
        for own_name, parameter in module.named_parameters(recurse=False):
            if id(parameter) in ssm:
                known.add(own_name)
            if not parameter.requires_grad or any(id(parameter) in group for group in members.values()):
                continue  # frozen, or tied to one that was seen before
            if id(parameter) in ssm:
                name = f"ssm.{own_name}" if own_name in optim.ssm_lrs else "ssm"
            elif isinstance(module, nn.Embedding) or parameter.ndim < 2:
                name = "plain"
            else:
                name = "decayed"
            members[name][id(parameter)] = parameter
    if unknown := sorted(optim.ssm_lrs.keys() - known):
        raise InputError(
            f"optim.ssm_lrs.{unknown[0]}: the model has no state-space parameter of this name; "
            f"known: {', '.join(sorted(known)) or 'none'}"
        )
    return [
        {
            "name": name,
            "params": list(group.values()),
            "lr": rates[name],
            "peak_lr": rates[name],
            "weight_decay": optim.weight_decay if name == "decayed" else 0.0,
        }
        for name, group in members.items()
        if group
    ]


def schedule(step: int, optim: OptimConfig) -> float:
    """The share of the full learning rate at `step` (0-based).

    It rises linearly to 1 over `warmup_steps`, then falls along a half cosine to `min_lr_ratio` at the last
    step.
    """
    if step < optim.warmup_steps:
        return (step + 1) / optim.warmup_steps
    progress = (step - optim.warmup_steps) / max(1, optim.steps - 1 - optim.warmup_steps)
    return optim.min_lr_ratio + (1 - optim.min_lr_ratio) * (1 + math.cos(math.pi * min(1.0, progress))) / 2


def set_learning_rates(optimizer: torch.optim.Optimizer, step: int, optim: OptimConfig) -> None:
    """Give every group its learning rate for `step` (0-based)."""
    for group in optimizer.param_groups:
        group["lr"] = group["peak_lr"] * schedule(step, optim)
