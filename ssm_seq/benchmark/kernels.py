"""Every pass of one kernel at one shape: time, memory, floors, and the peer's where there is one."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from ssm_seq.benchmark.cases import Case
from ssm_seq.benchmark.floors import Rates, floors, is_h100
from ssm_seq.benchmark.inputs import ready
from ssm_seq.benchmark.measured import Measured, Peer
from ssm_seq.benchmark.peers import LIBRARIES, peer, peer_name
from ssm_seq.benchmark.timing import Times, allocated, milliseconds, peak_gib

OUT_OF_MEMORY = "out of memory"


def plan(case: Case, device: torch.device) -> list[Measured]:
    """Forward, then forward and backward, with their targets and without values."""
    # Targets and recorded peers are figures of one model of GPU: elsewhere they would mislead.
    if not is_h100(device):
        return [Measured(case.name(which)) for which in case.passes]
    peaks = (None, case.target_peak)
    return [
        Measured(case.name(which), target=target, peak_target=peak)
        for which, target, peak in zip(case.passes, case.target, peaks, strict=False)
    ]


def measure(case: Case, device: torch.device, rates: Rates | None) -> Iterator[Measured]:
    """What `plan` says, measured.

    Raises:
        Exception: whatever the kernel raises, torch.cuda.OutOfMemoryError among it.
    """
    before = allocated(device)
    made = ready(case, device)
    for index, planned in enumerate(plan(case, device)):
        run = _pass(made.run, made.tensors, backward=index == 1)
        times, peak = _time(run, device, before, graph=case.kernel == "selective_step")
        yield replace(
            planned,
            value=times.median,
            low=times.low,
            high=times.high,
            floors=floors(made.both if index else made.forward, rates),
            peak=peak,
            peer=_peer(case, index, device),
        )


def _pass(run: Callable[[], tuple[Tensor, ...]], tensors: list[Tensor], backward: bool) -> Callable[[], None]:
    def forward() -> None:
        with torch.no_grad():
            run()

    if not backward:
        return forward
    with torch.no_grad():
        seeds = [torch.randn_like(output) for output in run()]
    for tensor in tensors:
        tensor.requires_grad_()

    def both() -> None:
        torch.autograd.grad(run(), tensors, seeds)

    return both


def _time(
    run: Callable[[], None], device: torch.device, before: int, graph: bool = False
) -> tuple[Times, float | None]:
    run()  # what is compiled is compiled here
    peak = peak_gib(run, device, before)
    if graph and device.type == "cuda":
        # As generation runs it: the time of a launch from Python is several times that of a step.
        captured = torch.cuda.CUDAGraph()
        with torch.cuda.graph(captured):
            run()
        return milliseconds(captured.replay, device), peak
    return milliseconds(run, device), peak


def _peer(case: Case, index: int, device: torch.device) -> Peer | None:
    """Measured where the library is importable, else recorded, and that on an H100 only."""
    name = LIBRARIES.get(case.kernel)
    if name is None:
        return None
    gc.collect()
    before = allocated(device)
    if (device.type == "cuda" or name == "torch.fft") and (found := peer(case, device)) is not None:
        try:
            times, peak = _time(_pass(*found, backward=index == 1), device, before)
        except Exception as error:  # a peer that fails is a result of its own
            return Peer(peer_name(case.kernel), note=reason(error))
        return Peer(peer_name(case.kernel), times.median, peak)
    if is_h100(device) and case.peer[index] is not None:
        return Peer(name, case.peer[index], case.peer_peak if index else None, recorded=True)
    return None


def reason(error: Exception) -> str:
    """Why a case gave no figure, in a few words."""
    if "out of memory" in str(error):
        return OUT_OF_MEMORY
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0][:120]}"
