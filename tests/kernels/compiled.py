"""Gluon kernels compiled where there is no GPU."""

from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.experimental.gluon._runtime import GluonASTSource

_TYPES = {
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.bfloat16: "*bf16",
    torch.uint8: "*u8",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def compiled_for_h100(kernel: Any, arguments: tuple, constants: dict[str, Any]) -> CompiledKernel:
    """The kernel for these arguments (tensors as if aligned to 16 bytes, int, float, None) and constants."""
    names = [parameter.name for parameter in kernel.params]
    signature, values, attributes = {}, {}, {}
    for place, (name, argument) in enumerate(zip(names, arguments, strict=False)):
        if isinstance(argument, torch.Tensor):
            signature[name] = _TYPES[argument.dtype]
            attributes[place,] = [["tt.divisibility", 16]]
        elif argument is None:
            signature[name], values[place,] = "constexpr", None
        else:
            signature[name] = "fp32" if isinstance(argument, float) else "i32"
    for place, name in enumerate(names[len(arguments) :], len(arguments)):
        signature[name] = "constexpr"
        values[place,] = constants[name]
    options = {name: value for name, value in constants.items() if name not in names}
    source = GluonASTSource(kernel, signature, values, attributes)
    return triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options)
