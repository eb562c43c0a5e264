"""Launches of Triton kernels that look at their arguments less than Triton does.

Triton examines every argument and constant of every call to find the compiled kernel that fits: a tenth of a
millisecond for kernels with some fifty of them, longer than many of ours run. What decides is little (which
arguments are there, their types and alignment, the constants), so here the answer is looked up by that.
"""

from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

_COMPILED: dict[tuple, tuple[Any, tuple]] = {}


def launch(kernel: Any, grid: tuple[int, ...], arguments: tuple, **constants: Any) -> None:
    """Run a Triton or Gluon kernel on the current stream of the device of its tensors.

    Args:
        kernel: the decorated function; its constants are its last parameters.
        grid: up to three numbers of programs.
        arguments: tensors, numbers and None, in the order of the parameters; the first is a tensor.
        constants: the kernel's constants and Triton's options (num_warps, maxnreg, ...) by name.
    """
    if not isinstance(kernel, JITFunction):  # the interpreter's, which compiles nothing
        kernel[grid](*arguments, **constants)
        return
    device = arguments[0].get_device()
    if device != torch.cuda.current_device():  # which is where Triton launches
        with torch.cuda.device(device):
            launch(kernel, grid, arguments, **constants)
        return
    key = (id(kernel), device, *map(_kind, arguments), *constants.items())
    found = _COMPILED.get(key)
    if found is not None:
        compiled, values = found
        compiled[(*grid, 1, 1)[:3]](*arguments, *values)
        return
    compiled = kernel[grid](*arguments, **constants)
    names = [parameter.name for parameter in kernel.params[len(arguments) :]]
    _COMPILED[key] = compiled, tuple(constants[name] for name in names)


@lru_cache
def processors(device: torch.device) -> int:
    """How many multiprocessors a GPU has."""
    return torch.cuda.get_device_properties(device).multi_processor_count


# Triton's own functions of these names cost as much as a launch.


def ceil_div(total: int, part: int) -> int:
    """How many parts make up the total."""
    return -(-total // part)


def next_power_of_2(number: int) -> int:
    """The smallest power of two that is not below the number."""
    return 1 << (number - 1).bit_length()


def _kind(argument: Tensor | float | None) -> Any:
    """All that Triton compiles a different kernel for."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    if argument is None:
        return None
    return argument == 1, argument % 16 == 0, -(2**31) <= argument < 2**31
