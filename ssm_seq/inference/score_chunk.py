"""How many positions to read at once: as many as help, in a bounded part of the free memory."""

import gc
from contextlib import suppress
from pathlib import Path

import torch

from ssm_seq.errors import InputError
from ssm_seq.models import Model

BUDGET = 2**30  # bytes at most, for sequences of any length
_SHARE = 4  # at most this part of the free memory
_MOST = {"cpu": 8192, "cuda": 65_536}  # on two cores 16,384 took 50 % longer than 8,192
_FEWEST = 64
_CGROUP = Path("/sys/fs/cgroup")


def choose_chunk(model: Model, free: int | None = None, half: bool = False) -> int:
    """A power of two: positions whose activations fit `free` bytes, or what is free if None.

    half: the layers run under bfloat16 autocast.
    """
    device = next(model.parameters()).device
    free = free_memory(device) if free is None else free
    fitting = min(free // _SHARE, BUDGET) // position_bytes(model, half)
    return max(_FEWEST, min(_MOST.get(device.type, 8192), 1 << max(fitting, 1).bit_length() - 1))


def position_bytes(model: Model, half: bool = False) -> int:
    """Bytes of one position at most: a layer's activations beside the residual sum, or the head's: hidden
    vectors, running sums in float64, logits four times. Mamba's layers are what this was measured with."""
    config, item = model.config, next(model.parameters()).element_size()
    layer = (4 * config.d_model + 6 * config.d_model * config.expand) * (2 if half else item)
    head = (item + 16) * config.d_model + 4 * 4 * model.head.out_features
    return max(layer, head) + 2 * item * config.d_model


def free_memory(device: torch.device) -> int:
    """Bytes free on the device; on the CPU those that this process's group may still take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    free = 2**40
    meminfo = Path("/proc/meminfo")
    if meminfo.exists():
        free = next(int(line.split()[1]) for line in meminfo.open() if line.startswith("MemAvailable")) * 1024
    with suppress(OSError, ValueError):  # no such group, or one without a limit ("max")
        free = min(free, _number("memory.max") - _number("memory.current"))
    return max(free, 0)


def no_memory(error: BaseException) -> bool:
    """Whether it says that memory ran out, on the CPU or a GPU."""
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def halved(chunk: int) -> int:
    """Half a chunk that did not fit, after what it left behind was freed; InputError if nothing is left."""
    if chunk == 1:
        raise InputError("not even one position fits memory; free some, or take a smaller model")
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return chunk // 2


def _number(name: str) -> int:
    return int((_CGROUP / name).read_text())
