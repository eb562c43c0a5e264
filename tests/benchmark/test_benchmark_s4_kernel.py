"""The ways to S4's kernel: the same kernel, and what is measured of each."""

import runpy
from pathlib import Path

import pytest
import torch

from ssm_seq.benchmark import floors, s4_kernel
from ssm_seq.benchmark.s4_kernel import KernelCase, measure, plan, ready
from ssm_seq.commands.cli import main
from ssm_seq.reporting.results_table import read_result
from ssm_seq.reporting.style import to_svg

RESULTS = Path(__file__).parents[2] / "docs/results"
CPU, CUDA = torch.device("cpu"), torch.device("cuda")


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
@pytest.mark.parametrize("L", [50, 600])
def test_every_way_gives_the_same_kernel(L, device):
    """But S4D's, which has its own shape: the low-rank part is left out."""
    case = KernelCase(3, 16, L)
    kernels = {way: ready(way, case, torch.device(device))() for way in s4_kernel.WAYS}
    expected = kernels["powers"]
    assert expected.shape == (3, L, 1, 1)
    for way, kernel in kernels.items():
        assert kernel.shape == expected.shape and kernel.dtype == torch.float32
        same = (kernel - expected).norm() <= 1e-5 * expected.norm()
        assert same == (way != "vandermonde")


def test_every_figure_is_planned():
    case = KernelCase(2, 4, 9)
    planned, measured = plan(case, CPU), list(measure(case, CPU))
    assert [figure.name for figure in measured] == [figure.name for figure in planned]
    assert all(figure.value > 0 for figure in measured)
    ratio = measured[-1]
    assert (ratio.name, ratio.unit) == ("s4_kernel powers / dplr (2,9) N4", "x")
    assert ratio.value == pytest.approx(measured[0].value / measured[2].value)


def test_powers_end_where_they_take_too_long(monkeypatch):
    monkeypatch.setattr(s4_kernel, "LONGEST", {"powers": 8})
    figures = plan(KernelCase(2, 4, 9), CPU)
    assert len(figures) == len(s4_kernel.WAYS) - 1 and not any("powers" in figure.name for figure in figures)


def test_too_little_memory_is_a_result(monkeypatch):
    def broken(way, case, device):
        if way == "doubling":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 1 GiB")
        return ready(way, case, device)

    monkeypatch.setattr(s4_kernel, "ready", broken)
    figures = list(measure(KernelCase(2, 4, 9), CPU))
    assert [figure.failed for figure in figures] == ["", "out of memory", "", "", "", ""]


def test_the_target_is_that_of_the_h100(monkeypatch):
    (case,) = [case for case in s4_kernel.GPU_CASES if case.is_target]
    assert (case.channels, case.d_state, case.length) == (256, 64, 16384)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: floors.H100)
    assert [figure.target for figure in plan(case, CUDA)] == [None] * 5 + [20]
    assert [figure.target for figure in plan(case, CPU)] == [None] * 6


def test_result_file(monkeypatch, tmp_path):
    monkeypatch.setattr(s4_kernel, "CPU_CASES", [KernelCase(2, 4, 9), KernelCase(2, 4, 12)])
    out = tmp_path / "s4.json"
    assert main(["bench", "--device", "cpu", "--only", "s4_kernel", "--out", str(out)]) == 0
    result = read_result(out)
    assert len(result["records"]) == 12 and result["what"].startswith("Kernels of S4, HiPPO-LegS, float32")


def test_the_figure_shows_every_way_of_every_device():
    script = runpy.run_path(str(RESULTS / "s4_kernel.py"))
    records = read_result(RESULTS / "s4_kernel_cpu.json")["records"]
    drawing = script["cost"]({"one": records, "another": records})
    for axes in drawing.axes:
        assert {line.get_label() for line in axes.get_lines()} >= set(script["LABELS"].values())
    assert [axes.get_title() for axes in drawing.axes] == ["one, 16 channels", "", "another, 16 channels", ""]


def test_the_figure_is_that_of_the_results():
    script = runpy.run_path(str(RESULTS / "s4_kernel.py"))
    drawn = to_svg(script["cost"], script["results"]())
    assert drawn == (RESULTS / "s4_kernel.svg").read_text(), "python docs/results/s4_kernel.py"
