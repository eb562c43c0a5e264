"""Which device a command runs on."""

import torch

from ssm_seq.errors import InputError


def choose_device(name: str) -> torch.device:
    """`auto` is the GPU where there is one, else the CPU.

    Raises:
        InputError: a GPU is asked for and none is there, or the name is none of auto, cpu, cuda.
    """
    if name not in {"auto", "cpu", "cuda"}:
        raise InputError(f"device={name}: expected auto, cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise InputError("device=cuda: this machine has no usable CUDA device; use device=auto or device=cpu")
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")
