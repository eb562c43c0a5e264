"""The convolution kernel of S4 four ways against the size of the state and the length: what structure saves.

HiPPO-LegS in every channel with a time step of its own, float32; every way gives the same kernel but that of
S4D, which leaves the low-rank part out.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ssm_seq.benchmark.floors import is_h100
from ssm_seq.benchmark.kernels import OUT_OF_MEMORY, reason
from ssm_seq.benchmark.measured import Measured
from ssm_seq.benchmark.timing import allocated, milliseconds, peak_gib
from ssm_seq.ssm import (
    DPLR,
    Diagonal,
    bilinear,
    discretise,
    hippo,
    kernel_by_doubling,
    kernel_by_powers,
    kernel_dplr,
    kernel_from_truncated,
    kernel_vandermonde,
    nplr,
    truncated_C,
)

WAYS = ("powers", "doubling", "dplr", "dplr from Ctilde", "vandermonde")
LONGEST = {"powers": 16384}  # of a way that takes one position after the other
STEPS = 256  # of the powers in a graph
TARGET = 20  # times as long as the DPLR kernel, at least, do the powers take in the case that says so


@dataclass(frozen=True)
class KernelCase:
    """channels systems of d_state numbers, a kernel of `length`."""

    channels: int
    d_state: int
    length: int
    is_target: bool = False

    def name(self, way: str) -> str:
        return f"s4_kernel {way} ({self.channels},{self.length}) N{self.d_state}"

    @property
    def ways(self) -> list[str]:
        return [way for way in WAYS if self.length <= LONGEST.get(way, self.length)]


GPU_CASES = [
    *(KernelCase(256, 64, L, is_target=L == 16384) for L in (16384, 256, 1024, 4096, 65536, 262144)),
    *(KernelCase(256, N, 16384) for N in (16, 32, 128, 256)),
]
CPU_CASES = [
    *(KernelCase(16, 64, L) for L in (256, 1024, 4096, 16384, 65536)),
    *(KernelCase(16, N, 4096) for N in (16, 32, 128, 256)),
]


def plan(case: KernelCase, device: torch.device) -> list[Measured]:
    """A time for each way, and what the DPLR form saves; without values."""
    target = TARGET if case.is_target and is_h100(device) else None
    return [
        *(Measured(case.name(way)) for way in case.ways),
        *([Measured(case.name("powers / dplr"), unit="x", target=target)] if "powers" in case.ways else []),
    ]


def measure(case: KernelCase, device: torch.device) -> Iterator[Measured]:
    """What `plan` says, measured. A way that needs too much memory is a result."""
    found: dict[str, float] = {}
    for way in case.ways:
        before = allocated(device)
        try:
            run = torch.no_grad()(ready(way, case, device))
            run()  # what is compiled is compiled here
            peak = peak_gib(run, device, before)
            times = milliseconds(run, device)
        except RuntimeError as error:
            if reason(error) != OUT_OF_MEMORY:
                raise
            yield Measured(case.name(way), failed=OUT_OF_MEMORY)
            continue
        found[way] = times.median
        yield Measured(case.name(way), times.median, low=times.low, high=times.high, peak=peak)
    if {"powers", "dplr"} <= found.keys():
        ratio = plan(case, device)[-1]
        yield Measured(ratio.name, found["powers"] / found["dplr"], "x", target=ratio.target)


def ready(way: str, case: KernelCase, device: torch.device) -> Callable[[], Tensor]:
    """A way to the kernel (channels, length, 1, 1), with what it starts from."""
    heads, N, L = case.channels, case.d_state, case.length
    generator = torch.Generator().manual_seed(0)
    # Longer steps decay to subnormal numbers, with which a CPU takes several times as long over the powers.
    delta = torch.logspace(-4, -3, heads, dtype=torch.float64).to(device)
    C = torch.randn(heads, 1, N, generator=generator, dtype=torch.float64).to(device)
    if way in ("powers", "doubling"):
        A, B = (part.to(device) for part in hippo("legs", N))
        Abar, Bbar, C = (part.float() for part in (*bilinear(A, B, delta), C))
        return _powers(Abar, Bbar, C, L) if way == "powers" else partial(kernel_by_doubling, Abar, Bbar, C, L)
    (Lambda, P, _), B, V = nplr("legs", N)
    Lambda, P, B, V = (part.to(device) for part in (Lambda, P, B, V))
    C = (C.to(V.dtype) @ V).to(torch.complex64)
    if way == "vandermonde":
        half = N // 2
        Abar, Bbar = discretise(Diagonal(Lambda[:half]), B[:half], delta)
        Abar, Bbar = Diagonal(Abar.Lambda.to(torch.complex64)), Bbar.to(torch.complex64)
        return partial(kernel_vandermonde, Abar, Bbar, C[..., :half], L, real=True)
    Lambda, P, B = (part.to(torch.complex64) for part in (Lambda, P, B))
    P = P.expand(heads, N, 1)
    A, B = DPLR(Lambda.expand(heads, N), P, P), B.expand(heads, N, 1)
    if way == "dplr":
        return partial(kernel_dplr, A, B, C, delta.float(), L, real=True)
    Ctilde = truncated_C(A, C, delta.float(), L)
    return partial(kernel_from_truncated, A, B, Ctilde, delta.float(), L, real=True)


def _powers(Abar: Tensor, Bbar: Tensor, C: Tensor, L: int) -> Callable[[], Tensor]:
    """On a GPU as a graph of `STEPS` steps, replayed: launched from Python, one by one, they would take
    the time of the launches, whatever N, and several times as long."""
    if not Abar.is_cuda:
        return partial(kernel_by_powers, Abar, Bbar, C, L)
    X, kernel = Bbar.clone(), Bbar.new_empty(-(-L // STEPS), STEPS, len(Abar), 1, 1)
    products = torch.empty_like(kernel[0])

    def steps() -> None:
        x = X
        for k in range(STEPS):
            torch.bmm(C, x, out=products[k])
            x = torch.bmm(Abar, x)
        X.copy_(x)

    steps()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        steps()

    def run() -> Tensor:
        X.copy_(Bbar)
        for part in kernel:
            graph.replay()
            part.copy_(products)
        return kernel.flatten(0, 1)[:L].transpose(0, 1)

    return run
