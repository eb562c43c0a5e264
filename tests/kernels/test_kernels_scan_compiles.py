"""The scan's kernels compile for an H100 where there is no GPU; the interpreter knows no Gluon."""

import re

import pytest
import torch
from compiled import compiled_for_h100
from kernel_cases import scan_inputs

from ssm_seq.kernels.selective_scan import gpu

CASES = {
    "in chunks": (torch.bfloat16, 16, 1024),
    "whole": (torch.bfloat16, 16, 64),
    "many states": (torch.float32, 33, 1024),
}


def launches(dtype, d_state, length, monkeypatch):
    """What a forward and a backward pass launch, with everything that a scan can have."""
    found = []
    monkeypatch.setattr(gpu, "launch", lambda *given, **constants: found.append((*given, constants)))
    monkeypatch.setattr(gpu, "processors", lambda _: 132)
    given = scan_inputs(1, length, 64, d_state, dtype=dtype)
    given["B"], given["C"] = given["B"][:, :, None], given["C"][:, :, None]  # one group
    resets = torch.zeros(1, length, dtype=torch.bool)
    start = given.pop("initial_state")
    y, final, kept = gpu.forward(
        **given, initial_state=start, resets=resets, reverse=True, keep=True, cut=None
    )
    gpu.backward(torch.ones_like(y), final, **given, resets=resets, reverse=True, kept=kept, again=True)
    return found


@pytest.mark.parametrize("case", CASES)
def test_kernels_compile_where_there_is_no_gpu(case, monkeypatch):
    dtype, d_state, length = CASES[case]
    found = launches(dtype, d_state, length, monkeypatch)
    names = [kernel.fn.__name__ for kernel, *_ in found]
    chunks = ["chunk_ends", "pass_over_chunks"] if length > 64 else []
    assert names == [*chunks, "outputs", *chunks, "gradients"]
    for kernel, _, arguments, constants in found:
        ptx = compiled_for_h100(kernel, arguments, constants).asm["ptx"]
        assert "ex2.approx" in ptx  # exponentials in base 2, by their own unit
        assert re.findall(r"\.maxnreg (\d+)", ptx) == [
            str(constants[n]) for n in ("maxnreg",) if n in constants
        ]
