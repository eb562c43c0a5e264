"""The launcher finds the compiled kernel again exactly where Triton would compile no other."""

import importlib

import pytest
import torch

from ssm_seq.kernels import rms_norm

pytest.importorskip("triton")
launch_module = importlib.import_module("ssm_seq.kernels.launch")
launch = launch_module.launch


CPU = torch.zeros(1).get_device()  # the tensors of these tests are on the current device


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
    monkeypatch.setattr(torch.cuda, "current_device", lambda: CPU)
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


class OnDeviceOne(torch.Tensor):
    def get_device(self):
        return 1


def test_a_launch_goes_to_the_device_of_its_tensors(kernel, monkeypatch):
    current = [CPU]

    class Device:
        def __init__(self, index):
            self.index = index

        def __enter__(self):
            current.append(self.index)

        def __exit__(self, *_):
            current.pop()

    monkeypatch.setattr(torch.cuda, "current_device", lambda: current[-1])
    monkeypatch.setattr(torch.cuda, "device", Device)
    monkeypatch.setattr(Compiled, "__getitem__", lambda self, grid: lambda *_: self.log.append(current[-1]))
    x = torch.zeros(8)
    for tensor in (x, x.as_subclass(OnDeviceOne), x, x.as_subclass(OnDeviceOne)):
        launch(kernel, (5,), (tensor, None, 1000), WIDTH=4, FLAG=True)
    assert len(kernel.compiled) == 2
    assert kernel.launched == [CPU, 1]
    assert current == [CPU]


@pytest.mark.gpu
def test_tensors_of_another_device_than_the_current_one():
    if torch.cuda.device_count() < 2:
        pytest.skip("needs two CUDA devices")
    x = torch.randn(3, 40, device="cuda:1")
    weight = torch.ones(40, device="cuda:1")
    with torch.cuda.device(0):
        found = rms_norm(x, weight)[0]
    with torch.cuda.device(1):
        assert torch.equal(found, rms_norm(x, weight)[0])
