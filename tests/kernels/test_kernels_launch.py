"""The launcher finds the compiled kernel again exactly where Triton would compile no other."""

import importlib

import pytest
import torch

pytest.importorskip("triton")
launch_module = importlib.import_module("ssm_seq.kernels.launch")
launch = launch_module.launch


class Compiled:
    def __init__(self, log):
        self.log = log

    def __getitem__(self, grid):
        return lambda *values: self.log.append((grid, values))


class Kernel:
    """Looks like a Triton kernel: compiles at every call, and says so."""

    def __init__(self):
        self.compiled, self.launched = [], []
        names = ("x", "y", "length", "WIDTH", "FLAG")
        self.params = [type("Parameter", (), {"name": name})() for name in names]

    def __getitem__(self, grid):
        def call(*arguments, **constants):
            self.compiled.append((grid, arguments, constants))
            return Compiled(self.launched)

        return call


@pytest.fixture
def kernel(monkeypatch):
    monkeypatch.setattr(launch_module, "JITFunction", Kernel)
    monkeypatch.setattr(launch_module, "_COMPILED", {})
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    return Kernel()


def test_the_second_call_goes_to_the_compiled_kernel_with_all_values_in_order(kernel):
    x = torch.zeros(8)
    launch(kernel, (5,), (x, None, 1000), FLAG=True, num_warps=1, WIDTH=4)
    launch(kernel, (6, 2), (x, None, 1007), FLAG=True, num_warps=1, WIDTH=4)
    assert len(kernel.compiled) == 1
    [(grid, values)] = kernel.launched
    assert grid == (6, 2, 1)
    assert values[0] is x
    assert values[1:] == (None, 1007, 4, True)


@pytest.mark.parametrize(
    "other",
    [
        ((torch.zeros(8, dtype=torch.bfloat16), None, 1000), {}),
        ((torch.zeros(9)[1:], None, 1000), {}),
        ((torch.zeros(8), torch.zeros(8), 1000), {}),
        ((torch.zeros(8), None, 1), {}),
        ((torch.zeros(8), None, 1008), {}),
        ((torch.zeros(8), None, 2**31 + 8), {}),
        ((torch.zeros(8), None, 1000), {"WIDTH": 5}),
        ((torch.zeros(8), None, 1000), {"FLAG": False}),
        ((torch.zeros(8), None, 1000), {"num_warps": 2}),
    ],
    ids=["dtype", "alignment", "presence", "one", "multiple of 16", "64 bits", "width", "flag", "option"],
)
def test_whatever_triton_compiles_another_kernel_for_is_told_apart(kernel, other):
    constants = {"WIDTH": 4, "FLAG": True, "num_warps": 1}
    launch(kernel, (5,), (torch.zeros(8), None, 1000), **constants)
    arguments, changes = other
    launch(kernel, (5,), arguments, **{**constants, **changes})
    assert len(kernel.compiled) == 2
    assert kernel.launched == []
