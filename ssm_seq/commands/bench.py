"""Times and memory of kernels and models on this machine -> a table, and a result file of docs/results."""

import gc
import platform
import shlex
import traceback
from argparse import Namespace
from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Any, NamedTuple

import torch

import ssm_seq
from ssm_seq.benchmark import cases, decode, s4_kernel, score
from ssm_seq.benchmark.against_transformers import measure_against_transformers
from ssm_seq.benchmark.first_call import CASES as FIRST_CALLS
from ssm_seq.benchmark.first_call import measure_first_calls
from ssm_seq.benchmark.first_call import plan as plan_first_calls
from ssm_seq.benchmark.floors import H100, rates
from ssm_seq.benchmark.kernels import OUT_OF_MEMORY, measure, plan, reason
from ssm_seq.benchmark.measured import Measured, records
from ssm_seq.benchmark.models import measure_model
from ssm_seq.benchmark.models import plan as plan_model
from ssm_seq.benchmark.table import LiveTable
from ssm_seq.commands.cli import GROUPS
from ssm_seq.commands.device import choose_device
from ssm_seq.errors import InputError
from ssm_seq.files import write_json
from ssm_seq.training.run_record import git_commit, processor

# What a result file is about that has these groups alone.
WHAT_ALONE = {
    "lti_scan s4d": "The diagonal time-invariant scan beside a convolution by torch.fft in float32 with a "
    "kernel that is there already, and the S4D layer around it; bfloat16 unless it says float32; medians and "
    "their middle 80 %",
    "s4_kernel": "Kernels of S4, HiPPO-LegS, float32, (channels, length), medians and the middle 80 %",
    "decode": "Generation by Mamba and S4D models of random weights, d_state 16 and 64, 256 ids, wall time",
    "score": "The streaming scorer, Mamba of DNA with random weights, wall time",
}
WITH_RECORDED_PEERS = {"scan", "conv", "mixer", "models", "decode"}


class Job(NamedTuple):
    """planned: the figures that `run` gives, one after the other, without their values."""

    planned: list[Measured]
    run: Callable[[], Iterable[Measured]]


def run(options: Namespace) -> int:
    """Print each figure as it is there; write all of them so far into `--out` after each job.

    Returns:
        0; 1 when a job failed, which does not stop the others. Too little memory is a result, no failure.
    """
    device = choose_device(options.device)
    chosen = set(options.only or GROUPS)
    if device.type == "cpu" and options.only and "first_call" in chosen:
        raise InputError("first_call: this is a figure of a GPU, and the device is the CPU")
    head, done, failed = _head(options, device), [], False
    if options.out:
        write_json(options.out, head | {"records": []})  # a path that cannot be written is known now
    with LiveTable() as table:
        for job in _jobs(device, chosen):
            for measured in _outcomes(job):
                table.add(measured)
                done += records(measured)
                failed |= measured.failed not in ("", OUT_OF_MEMORY)
            if options.out:
                write_json(options.out, head | {"records": done})
            gc.collect()
            if device.type == "cuda":
                torch.cuda.empty_cache()
    return int(failed)


def _jobs(device: torch.device, chosen: set[str]) -> Iterable[Job]:
    on_gpu = device.type == "cuda"
    measured_cases = cases.GPU_CASES if on_gpu else cases.CPU_CASES
    known = rates(device)
    for case in measured_cases:
        if case.kernel in chosen:
            yield Job(plan(case, device), partial(measure, case, device, known))
    if "models" in chosen and on_gpu:
        for model in cases.MODEL_CASES:
            yield Job([plan_model(model, device)], lambda model=model: [measure_model(model, device)])
    if "models" in chosen and not on_gpu:
        yield Job([Measured("model against transformers")], measure_against_transformers)
    if "s4_kernel" in chosen:
        for case in s4_kernel.GPU_CASES if on_gpu else s4_kernel.CPU_CASES:
            yield Job(s4_kernel.plan(case, device), partial(s4_kernel.measure, case, device))
    if "decode" in chosen:
        yield from map(Job._make, decode.jobs(device))
    if "first_call" in chosen and on_gpu:
        for kernel in FIRST_CALLS:
            yield Job(plan_first_calls(kernel), partial(measure_first_calls, kernel))
    if "score" in chosen:
        yield from map(Job._make, score.jobs(device))


def _outcomes(job: Job) -> Iterable[Measured]:
    """What the job gives; where it fails, a failure for every figure that is still missing."""
    missing = list(job.planned)
    try:
        for measured in job.run():
            missing = missing[1:]
            yield measured
    except Exception as error:
        why = reason(error)
        if why != OUT_OF_MEMORY:
            traceback.print_exc()
        # The traceback holds the job's tensors.
        traceback.clear_frames(error.__traceback__)
        for planned in missing or job.planned[-1:]:
            yield replace(planned, failed=why)


def _head(options: Namespace, device: torch.device) -> dict[str, Any]:
    """The result file without its records."""
    versions = {"torch": torch.__version__, "Python": platform.python_version()}
    if device.type == "cuda":
        import triton

        versions["triton"] = triton.__version__
        hardware = torch.cuda.get_device_name(device)
        what = "Kernels and language models, bfloat16, medians of device events and their middle 80 %"
    else:
        hardware = f"{processor()}, {torch.get_num_threads()} threads"
        what = "Kernels and a language model, float32, medians and the middle 80 %"
    what = WHAT_ALONE.get(" ".join(options.only or ()), what)
    command = ["ssm-seq", "bench", "--device", device.type]
    command += ["--only", *options.only] if options.only else []
    command += ["--out", str(options.out)] if options.out else []
    recorded = WITH_RECORDED_PEERS.intersection(options.only or GROUPS)
    peers = {"peers": cases.RECORDED} if hardware == H100 and recorded else {}
    return {
        "what": what,
        "command": shlex.join(command),
        "commit": options.commit or git_commit() or f"ssm_seq {ssm_seq.__version__}",
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware,
        "software": ", ".join(f"{name} {version}" for name, version in versions.items()),
        **peers,
    }
