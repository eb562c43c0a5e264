"""The figures of from_ssm_to_mamba.md, drawn from what from_ssm_to_mamba.py computed, and one's timings."""

import platform
import time
from functools import partial

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ssm_seq.reporting.style import COLOURS, FAINT, MUTED, blank, grid
from ssm_seq.ssm import (
    DPLR,
    Diagonal,
    discretise,
    hippo,
    kernel_by_doubling,
    kernel_by_powers,
    kernel_dplr,
    kernel_from_truncated,
    kernel_vandermonde,
    nplr,
    reconstruct_scaled,
    s4d_inv,
    s4d_legs,
    s4d_lin,
    truncated_C,
)

HEADS = 8  # whose kernels are timed


def impulse_responses(t, response, lags, weights) -> Figure:
    drawing = blank(2.5)
    left, right = drawing.subplots(1, 2)
    left.plot(t, response, color=COLOURS[0])
    left.set(title="A spring: C exp(tA) B", xlabel="time after the push", ylabel="place")
    for n in range(5):
        right.plot(lags, weights[:, n], color=COLOURS[n], label=f"n = {n}", linewidth=1.3)
    right.set(title="HiPPO-LegS: exp(sA) B", xlabel="lag s into the past", ylabel="weight in state n")
    right.legend()
    for axes in (left, right):
        grid(axes)
        axes.margins(x=0)
    return drawing


def memory(signal, wide, narrow) -> Figure:
    drawing = blank(4.2)
    moments = [(9999, wide, 64), (4999, wide, 64), (9999, narrow, 24)]
    for axes, (last, states, N) in zip(drawing.subplots(3, 1, sharex=True), moments, strict=True):
        axes.plot(signal, color=FAINT, linewidth=4, label="the signal")
        past = reconstruct_scaled(
            states[last], (torch.arange(last + 1, dtype=torch.float64) + 0.5) / (last + 1)
        )
        axes.plot(past, color=COLOURS[0], linewidth=1, label="reconstruction")
        axes.set_title(f"after {last + 1:,} samples, from {N} numbers")
        axes.margins(x=0)
    ticks = range(0, len(signal) + 1, 2500)
    axes.set_xticks(ticks, [f"{tick:,}" for tick in ticks])
    axes.set_xlabel("sample")
    drawing.axes[0].legend(ncols=2, loc="lower right", bbox_to_anchor=(1, 0.95))
    return drawing


def discretisation(steps, errors) -> Figure:
    drawing = blank(2.9)
    axes: Axes = drawing.subplots()
    for colour, (method, values) in zip(COLOURS, errors.items(), strict=False):
        axes.loglog(
            steps,
            values,
            "o-",
            color=colour,
            label=method.replace("_", " ").replace("euler", "Euler"),
            markersize=3,
        )
    for power, start in ((1, 1.2), (2, 0.12)):
        line = [start * (steps[0] / n) ** power for n in steps]
        axes.plot(steps, line, ":", color=MUTED, linewidth=1)
        axes.annotate(
            f"1 / steps{'²' if power == 2 else ''}", (steps[-1], line[-1]), color=MUTED, va="center"
        )
    axes.set_xticks(steps, [f"{n:,}" for n in steps])
    axes.minorticks_off()
    axes.set(xlabel="steps in a second", ylabel="error of the state")
    axes.legend(loc="lower left")
    grid(axes)
    return drawing


def kernel_cost(by_L, by_N) -> Figure:
    drawing = blank(3.1)
    left, right = drawing.subplots(1, 2, sharey=True)
    for axes, timings in ((left, by_L), (right, by_N)):
        sizes = list(timings)
        for colour, name in zip(COLOURS, timings[sizes[0]], strict=False):
            values = [1e3 * timings[size][name] for size in sizes]
            axes.loglog(sizes, values, "o-", color=colour, label=name, markersize=3)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        grid(axes)
    longest = by_L[max(by_L)]
    left.set(title="N = 64", xlabel="L, positions", ylabel=f"ms, {HEADS} heads, float64")
    left.legend(ncols=2, loc="upper left", columnspacing=1)
    left.set_ylim(top=40 * 1e3 * max(longest.values()))
    right.set(title="L = 2,048", xlabel="N, states")
    gains = [run["powers"] / run["S4 from Ctilde"] for run in (longest, by_N[max(by_N)])]
    drawing.supxlabel(
        f"One thread, {platform.machine()}. S4 from Ctilde over the powers, at the right ends: "
        f"{gains[0]:.1f} and {gains[1]:.1f} times as fast.",
        color=MUTED,
        size=8,
    )
    return drawing


def diagonal(since, by_legs, by_diagonal) -> Figure:
    drawing = blank(2.7)
    left, right = drawing.subplots(1, 2)
    looks = [("LegS", s4d_legs(64)[0], "o"), ("Inv", s4d_inv(64), "x"), ("Lin", s4d_lin(64), "+")]
    for colour, (name, values, marker) in zip(COLOURS, looks, strict=False):
        rising = values.imag.sort().values[1:]  # the lowest is near 0, or 0
        left.semilogy(range(2, 33), rising, marker, color=colour, label=f"S4D-{name}", mew=1.1)
    left.set(title="Eigenvalues −1/2 + i · frequency, N = 64", xlabel="mode", ylabel="frequency")
    left.legend()
    right.plot(since, by_legs[:, 3], color=FAINT, linewidth=5, label="LegS")
    for colour, N in ((COLOURS[5], 4), (COLOURS[2], 16), (COLOURS[0], 256)):
        right.plot(since, by_diagonal[N][:, 3], color=colour, linewidth=1.1, label=f"S4D-LegS, N = {N}")
    right.set(title="State 3 after a step of the input", xlabel="time since the step")
    right.legend()
    for axes in (left, right):
        grid(axes)
    return drawing


def selection(noise, marked, held, average) -> Figure:
    drawing = blank(2.5)
    axes = drawing.subplots()
    axes.plot(noise, ".", color=MUTED, alpha=0.4, markersize=4, label="input", zorder=1)
    axes.plot(average, color=COLOURS[1], linewidth=1, label="moving average, alpha = 0.03")
    axes.plot(held, color=COLOURS[0], label="selective state", drawstyle="steps-post")
    axes.plot(marked.nonzero()[:, 0], noise[marked], "o", color=COLOURS[0], label="marked input")
    axes.set(xlabel="position", ylim=(-3.2, 4.6))
    axes.legend(ncols=4, loc="upper center")
    axes.margins(x=0.01)
    return drawing


def seconds(run) -> float:
    """Of the processor: the best of the runs that fit into a twentieth of a second, after one to warm up."""
    run()
    best, end = float("inf"), time.thread_time() + 0.05
    while best == float("inf") or time.thread_time() < end:
        start = time.thread_time()
        run()
        best = min(best, time.thread_time() - start)
    return best


def kernel_seconds(N: int, L: int) -> dict[str, float]:
    """Seconds for the kernels of HEADS LegS systems with time steps of their own, in float64, each way."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # first: MKL's factorisations may hang after a change back to more
    delta = torch.logspace(-4, -3, HEADS, dtype=torch.float64)  # longer ones decay to subnormal, slow numbers
    legs = nplr("legs", N)
    Lambda, P = legs.A.Lambda.expand(HEADS, N), legs.A.P.expand(HEADS, N, 1)
    A, B, C = DPLR(Lambda, P, P), legs.B.expand(HEADS, N, 1), legs.V.sum(0).expand(HEADS, 1, N)
    Abar, Bbar = discretise(*hippo("legs", N), delta, "bilinear")
    ones, Ctilde = torch.ones(1, N, dtype=torch.float64), truncated_C(A, C, delta, L)
    half = slice(0, N // 2)
    diagonal, Bhalf = discretise(Diagonal(Lambda[:, half]), B[:, half], delta)
    runs = {
        "powers": partial(kernel_by_powers, Abar, Bbar, ones, L),
        "doubling": partial(kernel_by_doubling, Abar, Bbar, ones, L),
        "S4 from C": partial(kernel_dplr, A, B, C, delta, L, True),
        "S4 from Ctilde": partial(kernel_from_truncated, A, B, Ctilde, delta, L, True),
        "S4D": partial(kernel_vandermonde, diagonal, Bhalf, C[..., half], L, True),
    }
    timings = {name: seconds(run) for name, run in runs.items()}
    torch.set_num_threads(threads)
    return timings
