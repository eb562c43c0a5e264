"""Figures, floors and tables of ssm-seq bench, without measuring."""

import io
import re
from argparse import Namespace

import pytest
import torch

from ssm_seq.benchmark import first_call, floors, kernels, models
from ssm_seq.benchmark.cases import CPU_CASES, GPU_CASES, MODEL_CASES, Case, ModelCase
from ssm_seq.benchmark.floors import Rates, Work
from ssm_seq.benchmark.inputs import ready
from ssm_seq.benchmark.measured import Measured, Peer, records
from ssm_seq.benchmark.table import COLUMNS, LiveTable, row
from ssm_seq.benchmark.timing import milliseconds, summary
from ssm_seq.commands import bench
from ssm_seq.commands.cli import KERNELS

CPU, CUDA = torch.device("cpu"), torch.device("cuda")
FULL = Measured(
    "mixer fwd+bwd (1,256,1048576) N16",
    31.04567,
    low=30.9,
    high=31.2,
    floors={"bytes": 0.9, "exponentials": 4.64},
    target=34,
    peer=Peer("mamba-ssm", 85.7, 11.4, recorded=True),
    peak=4.5,
    peak_target=5,
)


def h100(monkeypatch, name=floors.H100):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: name)


def test_names_say_kernel_pass_shape_and_are_unique():
    names = [case.name(which) for case in GPU_CASES for which in case.passes]
    names += [case.name for case in MODEL_CASES]
    assert len(set(names)) == len(names)
    assert "scan fwd (1,512,1048576) N16" in names
    assert "scan fwd+bwd (1,512,1048576) N16 float32" in names
    assert "selective_step fwd (64,2048) N16" in names
    assert "train step 8x256 (1,1048576)" in names
    assert {case.kernel for case in GPU_CASES} == {case.kernel for case in CPU_CASES} == set(KERNELS)


def test_floors_are_work_over_rates():
    found = floors.floors(Work(3.02e9, 7.4e9, 0), Rates(3.02e12, 3.7e12, 798e12))
    assert found == pytest.approx({"bytes": 1.0, "exponentials": 2.0})
    assert Measured("x", 5.0, floors=found).over_floor == pytest.approx(2.5)
    # Of an unknown GPU the bytes are all that is known; of a CPU nothing.
    assert floors.floors(Work(1e9, 1e9, 1e9), Rates(1e12)) == {"bytes": 1.0}
    assert floors.floors(Work(1e9), floors.rates(CPU)) == {}


def test_the_floors_of_the_scan_are_those_of_its_table():
    # (1, 512, 1,048,576): 1.45 ms by bytes, 2.3 by exponentials at 3.02 TB/s and 3.7e12/s.
    case = Case("scan", 1, 512, 1024, 16)
    found = floors.floors(ready(case, CPU).forward, Rates(3.02e12, 3.7e12))
    assert 1024 * found["bytes"] == pytest.approx(1.45, abs=0.01)
    assert 1024 * found["exponentials"] == pytest.approx(2.32, abs=0.01)


@pytest.mark.parametrize("kernel", KERNELS)
def test_work_grows_with_the_shape_and_with_the_backward_pass(kernel):
    def small(batch):
        return ready(Case(kernel, batch, 32, 1 if kernel == "selective_step" else 1024, 4, vocab=16), CPU)

    assert small(2).forward.bytes > 1.5 * small(1).forward.bytes
    assert small(1).both.bytes >= small(1).forward.bytes > 0


def test_records_of_a_figure_and_of_its_peak():
    time, peak = records(FULL)
    assert time == {
        "name": "mixer fwd+bwd (1,256,1048576) N16",
        "value": 31.046,
        "unit": "ms",
        "low": 30.9,
        "high": 31.2,
        "floor": 4.64,
        "floor_bytes": 0.9,
        "floor_exponentials": 4.64,
        "target": 34,
        "peer": "mamba-ssm (recorded)",
        "peer_value": 85.7,
    }
    assert peak == {
        "name": "mixer fwd+bwd (1,256,1048576) N16 peak",
        "value": 4.5,
        "unit": "GiB",
        "target": 5,
        "peer": "mamba-ssm (recorded)",
        "peer_value": 11.4,
    }


def test_a_failure_keeps_its_targets(monkeypatch):
    h100(monkeypatch)
    planned = models.plan(ModelCase(8, 256, 1, 2, target_peak=80, peer_note="out of memory"), CUDA)
    failed = Measured(
        planned.name, peak_target=planned.peak_target, peer=planned.peer, failed="out of memory"
    )
    assert failed.met is False
    time, peak = records(failed)
    assert (time["value"], time["failed"], time["peer"]) == (
        None,
        "out of memory",
        "mamba-ssm (recorded): out of memory",
    )
    assert (peak["value"], peak["failed"], peak["target"]) == (None, "out of memory", 80)
    assert row(failed)[1] == "out of memory"


@pytest.mark.parametrize(
    "changed, met",
    [
        ({}, True),
        ({"value": 34.1}, False),
        ({"peak": 5.1}, False),
        ({"unit": "x", "value": 60.0}, True),
        ({"unit": "x", "value": 12.0}, False),
        ({"target": None, "peak_target": None}, None),
    ],
)
def test_targets_bound_times_from_above_and_speeds_from_below(changed, met):
    assert Measured(**{**FULL.__dict__, **changed}).met is met


def test_row():
    assert dict(zip(COLUMNS, row(FULL), strict=True)) == {
        "": "mixer fwd+bwd (1,256,1048576) N16",
        "measured": "31 ms",
        "10-90 %": "30.9-31.2",
        "floor": "bytes 0.9, exp 4.64",
        "over it": "6.69 x",
        "peak GiB": "4.50",
        "target": "<= 34, <= 5 GiB met",
        "beside it": "mamba-ssm (recorded): 85.7 ms, 11.4 GiB",
    }


def test_plain_lines_off_a_terminal():
    file = io.StringIO()
    with LiveTable(file) as table:
        table.add(FULL)
        table.add(Measured("conv", failed="ValueError: x has no shape"))
    head, first, second = file.getvalue().splitlines()
    assert head.split()[:2] == ["measured", "10-90"]
    assert first.index("31 ms") == head.index("measured")
    assert second.split(maxsplit=1) == ["conv", "ValueError: x has no shape"]
    assert "\x1b" not in file.getvalue()


def test_colours_on_a_terminal(monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    file = io.StringIO()
    with LiveTable(file) as table:
        table.add(FULL)
        table.add(Measured("slow", 50.0, target=34))
    shown = file.getvalue()
    assert re.search(r"\x1b\[32m31 ms", shown) and re.search(r"\x1b\[31m50 ms", shown)
    assert "mamba-ssm (recorded)" in shown


def test_targets_and_recorded_peers_are_those_of_the_h100_alone(monkeypatch):
    case, model = GPU_CASES[0], MODEL_CASES[4]
    h100(monkeypatch)
    assert [planned.target for planned in kernels.plan(case, CUDA)] == [4.7, 24]
    assert kernels._peer(case, 1, CUDA) == Peer("mamba-ssm", 71.69, recorded=True)
    assert models.plan(model, CUDA).peer == Peer("mamba-ssm", 776, 47.3, recorded=True)
    h100(monkeypatch, "NVIDIA H200")
    for device in (CUDA, CPU):
        assert all(planned.target is None for planned in kernels.plan(case, device))
        assert kernels._peer(case, 1, device) is None
        assert models.plan(model, device) == Measured(model.name)


@pytest.mark.parametrize(("group", "recorded"), [("decode", True), ("models", True), ("lti_scan", False)])
def test_results_say_where_recorded_peers_come_from(monkeypatch, group, recorded):
    h100(monkeypatch)
    head = bench._head(Namespace(only=[group], out=None, commit="f" * 40), CUDA)
    assert ("peers" in head) is recorded


def test_summary_and_times():
    times = summary([float(number) for number in range(1, 12)])
    assert (times.low, times.median, times.high) == (2, 6, 10)
    calls = []
    times = milliseconds(lambda: calls.append(0), CPU)
    assert 0 <= times.low <= times.median <= times.high
    assert 4 <= len(calls) <= 201


def test_first_calls_share_a_cache_that_is_empty_at_first(monkeypatch, tmp_path):
    fake = tmp_path / "python"
    fake.write_text('#!/bin/sh\nls "$TRITON_CACHE_DIR" | grep -c . ; touch "$TRITON_CACHE_DIR/kernel"\n')
    fake.chmod(0o755)
    monkeypatch.setattr("sys.executable", str(fake))
    cold, warm = first_call.measure_first_calls("mixer")
    assert (cold.value, cold.target, cold.unit) == (0, 30, "s")
    assert (warm.value, warm.target) == (1, 5)
    assert cold.name == "first call, cold cache: mixer fwd+bwd (1,256,131072) N16"
    fake.write_text("#!/bin/sh\necho context >&2\necho no CUDA >&2\nexit 1\n")
    with pytest.raises(RuntimeError, match=r"^no CUDA$"):
        list(first_call.measure_first_calls("scan"))
