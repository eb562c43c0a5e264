"""A kernel with its arguments, ready to run, and the work that its passes cannot avoid."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_seq.benchmark.cases import Case
from ssm_seq.benchmark.floors import Work
from ssm_seq.kernels import (
    causal_conv1d,
    linear_cross_entropy,
    lti_scan,
    mamba_mixer,
    rms_norm,
    selective_scan,
    selective_step,
)
from ssm_seq.kernels.mamba_mixer.arguments import new_layer
from ssm_seq.layers import S4D


class Ready(NamedTuple):
    """run() gives the outputs whose gradients flow back; tensors: those that gradients are taken of.

    forward, both: the least work of the forward pass, and of forward and backward together, where
    everything is read and written once in each, and every exponential taken once in each.
    """

    run: Callable[[], tuple[Tensor, ...]]
    tensors: list[Tensor]
    forward: Work
    both: Work


class _Random:
    """Numbers on the device, the same at each run."""

    def __init__(self, device: torch.device, dtype: torch.dtype) -> None:
        self.device, self.dtype = device, dtype
        self.generator = torch.Generator(device=device).manual_seed(0)

    def normal(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        return torch.randn(*shape, generator=self.generator, device=self.device, dtype=dtype or self.dtype)

    def uniform(self, *shape: int, low: float, high: float) -> Tensor:
        return torch.empty(shape, device=self.device).uniform_(low, high, generator=self.generator)


def scan_arguments(case: Case, device: torch.device) -> dict[str, Tensor | bool]:
    """Steps of about 0.001 to 0.1 and A from -1 to -d_state, as a Mamba layer begins with; D, z gate, bias
    and softplus all in use. A, D and the bias are float32."""
    random = _Random(device, case.dtype)
    sequence, matrix = (case.batch, case.length, case.channels), (case.batch, case.length, case.d_state)
    rates = torch.arange(1, case.d_state + 1, device=device, dtype=torch.float32)
    return {
        "u": random.normal(*sequence),
        "delta": random.normal(*sequence).mul_(0.5),
        "A": -rates.repeat(case.channels, 1),
        "B": random.normal(*matrix),
        "C": random.normal(*matrix),
        "D": torch.ones(case.channels, device=device),
        "z": random.normal(*sequence),
        "delta_bias": random.uniform(case.channels, low=-6.9, high=-2.3),
        "delta_softplus": True,
    }


def _scan(case: Case, device: torch.device) -> Ready:
    arguments = scan_arguments(case, device)
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    elements, matrix = _elements(case), case.batch * case.length * case.d_state
    size, exponentials = case.dtype.itemsize, elements * case.d_state
    # Forward: u, delta, z, y and B, C. Backward: u, delta, z, dy, du, ddelta, dz and B, C, dB, dC.
    return Ready(
        lambda: selective_scan(**arguments)[:1],
        tensors,
        Work(size * (4 * elements + 2 * matrix), exponentials),
        Work(size * (11 * elements + 6 * matrix), 2 * exponentials),
    )


def conv_arguments(case: Case, device: torch.device) -> dict[str, Tensor]:
    """Width 4, weight and bias in float32."""
    random = _Random(device, case.dtype)
    return {
        "x": random.normal(case.batch, case.length, case.channels),
        "weight": random.normal(case.channels, 4, dtype=torch.float32),
        "bias": random.normal(case.channels, dtype=torch.float32),
    }


def _conv(case: Case, device: torch.device) -> Ready:
    arguments, streamed = conv_arguments(case, device), case.dtype.itemsize * _elements(case)
    # Forward: x, y. Backward: x, dy, dx.
    return Ready(
        lambda: causal_conv1d(**arguments, activation="silu")[:1],
        list(arguments.values()),
        Work(2 * streamed),
        Work(5 * streamed),
    )


def lti_arguments(case: Case, device: torch.device) -> dict[str, Tensor]:
    """Steps of 0.001 to 0.1 and A_n = -1/2 + i pi n, as an S4D layer begins with; d_state / 2 pairs of
    modes."""
    random, pairs = _Random(device, case.dtype), case.d_state // 2
    system = (case.channels, pairs)
    steps = torch.exp(random.uniform(case.channels, 1, low=math.log(1e-3), high=math.log(1e-1)))
    A = torch.complex(torch.full((pairs,), -0.5), math.pi * torch.arange(pairs)).to(device)
    return {
        "u": random.normal(case.batch, case.length, case.channels),
        "exponent": steps * A,
        "B": torch.expm1(steps * A) / A,
        "C": torch.complex(*(random.normal(*system, dtype=torch.float32) for _ in range(2))),
        "D": random.normal(case.channels, dtype=torch.float32),
    }


def _lti_scan(case: Case, device: torch.device) -> Ready:
    arguments, streamed = lti_arguments(case, device), case.dtype.itemsize * _elements(case)
    # Forward: u, y. Backward: u, dy, du.
    return Ready(
        lambda: lti_scan(**arguments)[:1],
        list(arguments.values()),
        Work(2 * streamed),
        Work(5 * streamed),
    )


def _s4d(case: Case, device: torch.device) -> Ready:
    torch.manual_seed(0)
    layer = S4D(case.channels, case.d_state).to(device)
    x = _Random(device, case.dtype).normal(case.batch, case.length, case.channels)
    rows, streamed = case.batch * case.length, case.dtype.itemsize * _elements(case)

    def run() -> tuple[Tensor, ...]:
        with torch.autocast(device.type, case.dtype, enabled=case.dtype != torch.float32):
            return layer(x)[:1]

    # Forward: x, y. Backward: x, dy, dx. Products: the projection's.
    products = 2 * rows * layer.out_proj.weight.numel()
    return Ready(
        run, [x, *layer.parameters()], Work(2 * streamed, 0, products), Work(5 * streamed, 0, 3 * products)
    )


def _rms_norm(case: Case, device: torch.device) -> Ready:
    random, shape = _Random(device, case.dtype), (case.batch, case.length, case.channels)
    x, residual = random.normal(*shape), random.normal(*shape)
    weight, streamed = torch.ones(case.channels, device=device), case.dtype.itemsize * _elements(case)
    # Forward: x, residual, normed, summed. Backward: dnormed, dsummed, summed, one gradient for both addends.
    return Ready(
        lambda: rms_norm(x, weight, residual=residual),
        [x, weight, residual],
        Work(4 * streamed),
        Work(8 * streamed),
    )


def _linear_cross_entropy(case: Case, device: torch.device) -> Ready:
    random, rows = _Random(device, case.dtype), (case.batch, case.length)
    hidden = random.normal(*rows, case.channels)
    weight = random.normal(case.vocab, case.channels, dtype=torch.float32).mul_(case.channels**-0.5)
    targets = torch.randint(case.vocab, rows, generator=random.generator, device=device)
    streamed, logits = case.dtype.itemsize * _elements(case), case.batch * case.length * case.vocab
    small = 4 * case.channels * case.vocab + 12 * case.batch * case.length  # the weight; targets and losses
    # Products: the logits; the gradients of hidden and of weight.
    return Ready(
        lambda: (linear_cross_entropy(hidden, weight, targets),),
        [hidden, weight],
        Work(streamed + small, logits, 2 * case.channels * logits),
        Work(3 * streamed + 3 * small, 2 * logits, 6 * case.channels * logits),
    )


def _mixer(case: Case, device: torch.device) -> Ready:
    arguments = new_layer(
        case.batch, case.length, case.channels, case.d_state, device=device, dtype=torch.float32
    )
    arguments["x"] = arguments["x"].to(case.dtype)
    rows, weights = case.batch * case.length, list(arguments.values())[1:]
    matrices = sum(arguments[name].numel() for name in ("in_proj", "x_proj", "dt_proj", "out_proj"))
    streamed, stored = case.dtype.itemsize * _elements(case), 4 * sum(weight.numel() for weight in weights)
    exponentials = rows * arguments["A"].numel()

    def run() -> tuple[Tensor, ...]:
        # As in training: the weights are float32, the products in x's dtype.
        with torch.autocast(device.type, case.dtype, enabled=case.dtype != torch.float32):
            return mamba_mixer(**arguments)[:1]

    # Forward: x, out. Backward: x, dout, dx. What lies between need not leave the chip.
    return Ready(
        run,
        list(arguments.values()),
        Work(2 * streamed + stored, exponentials, 2 * rows * matrices),
        Work(5 * streamed + 3 * stored, 2 * exponentials, 6 * rows * matrices),
    )


def _selective_step(case: Case, device: torch.device) -> Ready:
    random, steps = _Random(device, case.dtype), (case.batch, case.channels)
    rates = torch.arange(1, case.d_state + 1, device=device, dtype=torch.float32)
    state = random.normal(*steps, case.d_state, dtype=torch.float32)
    A, D = -rates.repeat(case.channels, 1), torch.ones(case.channels, device=device)
    u, delta, z = (random.normal(*steps) for _ in range(3))
    B, C = (random.normal(case.batch, case.d_state) for _ in range(2))
    bias = random.uniform(case.channels, low=math.log(1e-3), high=math.log(1e-1))
    # The state, read and written; A; u, delta, z and y; B and C.
    work = Work(
        4 * (2 * state.numel() + A.numel()) + case.dtype.itemsize * (4 * u.numel() + 2 * B.numel()),
        state.numel(),
    )
    return Ready(
        lambda: (selective_step(state, u, delta, A, B, C, D, z, bias, True),),
        [],
        work,
        work,
    )


def _elements(case: Case) -> int:
    return case.batch * case.length * case.channels


_READY: dict[str, Callable[[Case, torch.device], Ready]] = {
    "scan": _scan,
    "conv": _conv,
    "lti_scan": _lti_scan,
    "s4d": _s4d,
    "rms_norm": _rms_norm,
    "linear_cross_entropy": _linear_cross_entropy,
    "mixer": _mixer,
    "selective_step": _selective_step,
}


def ready(case: Case, device: torch.device) -> Ready:
    """The kernel of a case with its arguments on the device."""
    return _READY[case.kernel](case, device)
