"""What a run leaves about itself: enough to repeat it, and what it cost."""

import platform
import resource
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

import ssm_seq
from ssm_seq.config import Config
from ssm_seq.data.store import Store


def run_record(config: Config, store: Store | None, model: nn.Module, device: torch.device) -> dict[str, Any]:
    """Configuration, versions, commit, data, hardware, size of the model and peak memory of this process.

    peak_resident_mib: MiB; of the last part, if the run was interrupted. peak_device_mib: on a GPU only.
    """
    record = {
        "config": asdict(config),
        "versions": {
            "python": platform.python_version(),
            "torch": torch.__version__,
            "numpy": np.__version__,
            "ssm_seq": ssm_seq.__version__,
        },
        "git_commit": git_commit(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
        "threads": torch.get_num_threads(),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "peak_resident_mib": _peak_resident_mib(),
    }
    if store is not None:
        record["store"] = {
            "checksum": store.checksum,
            "alphabet": store.alphabet.name,
            "sample_rate": store.sample_rate,
            "records": len(store.records),
            "bytes": len(store.data),
        }
    if device.type == "cuda":
        record["peak_device_mib"] = torch.cuda.max_memory_allocated(device) / 2**20
    return record


def git_commit() -> str | None:
    """The commit of the checkout that this code runs from, `-dirty` if it was edited; None outside of one."""
    folder = Path(ssm_seq.__file__).parent
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def processor() -> str:
    """The name of this machine's CPU."""
    if Path("/proc/cpuinfo").exists():
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _peak_resident_mib() -> float:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
