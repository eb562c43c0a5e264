"""mamba-ssm and causal-conv1d on the same inputs, where they are installed; PyTorch's transforms."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import torch
from torch import Tensor

from ssm_seq.benchmark.cases import Case
from ssm_seq.benchmark.inputs import conv_arguments, lti_arguments, scan_arguments
from ssm_seq.kernels import lti_scan

LIBRARIES = {"scan": "mamba-ssm", "mixer": "mamba-ssm", "conv": "causal-conv1d", "lti_scan": "torch.fft"}


def peer(case: Case, device: torch.device) -> tuple[Callable[[], tuple[Tensor]], list[Tensor]] | None:
    """What the peer runs for a case, giving one output, and the tensors that gradients are taken of.

    None where it has no such function or cannot be imported. Its layout is (batch, channels, length).
    """
    try:
        match case.kernel:
            case "scan":
                return _scan(case, device)
            case "conv":
                return _conv(case, device)
            case "mixer":
                return _mixer(case, device)
            case "lti_scan":
                return _convolution(case, device)
    except ImportError:
        pass
    return None


def peer_name(kernel: str) -> str:
    """The library with its version, if it is installed."""
    library = LIBRARIES[kernel]
    try:
        return f"{library} {version(library)}"
    except PackageNotFoundError:
        return library


def _scan(case: Case, device: torch.device) -> tuple[Callable[[], tuple[Tensor]], list[Tensor]]:
    from mamba_ssm.ops.selective_scan_interface import selective_scan_fn

    arguments = {
        name: value.transpose(1, 2).contiguous() if name in ("u", "delta", "B", "C", "z") else value
        for name, value in scan_arguments(case, device).items()
    }
    tensors = [value for value in arguments.values() if isinstance(value, Tensor)]
    return lambda: (selective_scan_fn(**arguments),), tensors


def _conv(case: Case, device: torch.device) -> tuple[Callable[[], tuple[Tensor]], list[Tensor]]:
    from causal_conv1d import causal_conv1d_fn

    arguments = conv_arguments(case, device)
    arguments["x"] = arguments["x"].transpose(1, 2).contiguous()
    return lambda: (causal_conv1d_fn(**arguments, activation="silu"),), list(arguments.values())


def _convolution(case: Case, device: torch.device) -> tuple[Callable[[], tuple[Tensor]], list[Tensor]]:
    """Causal convolution by FFT with the system's kernel, which is there already."""
    arguments = lti_arguments(case, device)
    u = arguments.pop("u").transpose(1, 2).float().contiguous()
    impulse = torch.zeros(1, case.length, case.channels, device=device)
    impulse[:, 0] = 1
    kernel = lti_scan(impulse, **arguments)[0][0].t().contiguous()
    del impulse

    def run() -> tuple[Tensor]:
        size = 2 * case.length
        product = torch.fft.rfft(u, n=size) * torch.fft.rfft(kernel, n=size)
        return (torch.fft.irfft(product, n=size)[..., : case.length],)

    return run, [u, kernel]


def _mixer(case: Case, device: torch.device) -> tuple[Callable[[], tuple[Tensor]], list[Tensor]]:
    from mamba_ssm import Mamba

    layer = Mamba(case.channels, d_state=case.d_state, device=device)
    x = torch.randn(case.batch, case.length, case.channels, device=device, dtype=case.dtype)

    def run() -> tuple[Tensor]:
        with torch.autocast(device.type, case.dtype, enabled=case.dtype != torch.float32):
            return (layer(x),)

    return run, [x, *layer.parameters()]
