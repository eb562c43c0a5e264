"""Decoding on a GPU: one launch for many steps, whose programs stay on the chip and wait for each other.

A tile of 8 rows is what the tensor cores take at once, so it is one even for a single row: what becomes of a
row never depends on the rows beside it or on how many there are. The number of programs that share a tile's
channels depends on the model's width alone, and so does the order of every sum.
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.kernels.decode.arguments import check_arguments
from ssm_seq.kernels.decode.gpu_mamba import mamba_kernel
from ssm_seq.kernels.decode.gpu_s4d import s4d_kernel
from ssm_seq.kernels.decode.gpu_words import ROWS as TILE
from ssm_seq.kernels.decode.rule import Rule
from ssm_seq.kernels.decode.stacks import MambaStack, S4DStack, Stack
from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2, processors

LARGEST_VOCAB = 1024  # one program has the whole distribution in registers
LARGEST_STATE = 64  # numbers, or pairs of numbers, of a channel: all in registers
ROWS = TILE.value  # of a tile
MOST_PROGRAMS = 128  # that share a tile
WARPS = 8
_CROWDED = {"maxnreg": 128}
_LEAST = 16  # outputs that the tensor cores take at once


@dataclass(frozen=True)
class _Plan:
    """One model's kernel. stages: of a step. tensors: the weights in the order of its parameters.
    buffers: shape for each row, and dtype, of what its programs tell each other."""

    kernel: Any
    stages: int
    programs: int
    tensors: list[Tensor]
    buffers: list[tuple[tuple[int, ...], torch.dtype]]
    constants: dict[str, Any]


def takes(stack: MambaStack | S4DStack) -> bool:
    """Whether a program holds the distribution of an id, and the states of its channels, in registers."""
    return len(stack.head) <= LARGEST_VOCAB and stack.A.shape[2] <= LARGEST_STATE


class GpuDecoder:
    """The steps of one model on a GPU."""

    def __init__(self, stack: Stack, dtype: torch.dtype, programs: int | None = None) -> None:
        """dtype: of the matrices, float32 or bfloat16; all else is float32. programs: that share a tile's
        channels, so many that each has 32 (Mamba) or 16 (S4D) of them if None."""
        plan = _of_mamba if isinstance(stack, MambaStack) else _of_s4d
        self._outline, self._plan = stack.to("meta"), plan(stack.to(torch.float32), dtype, programs)
        self._fits: dict[tuple[bool, bool, bool], int] = {}

    def run(self, state: tuple[Tensor, ...], logits: Tensor, draws: Tensor, rule: Rule) -> Tensor:
        """See `decoder`."""
        check_arguments(self._outline, self._plan.tensors[0], state, logits, draws)
        (rows, steps), device, plan = draws.shape, logits.device, self._plan
        ids = torch.empty((rows, steps), dtype=torch.int64, device=device)
        truncation = torch.tensor([rule.temperature, rule.top_p, rule.min_p], dtype=torch.float64)
        # Words of epoch 0: the logits' are due, all others are still to be written.
        words = F.pad(logits.view(torch.int32), (0, plan.constants["VOCABS"] - logits.shape[1])).long() << 32
        buffers = [torch.zeros((rows, *shape), dtype=dtype, device=device) for shape, dtype in plan.buffers]
        tensors = (
            *plan.tensors, *state, words, draws.contiguous(), ids, truncation.to(device), *buffers,
            self._outline.eps, rows, steps,
        )  # fmt: skip
        top_k = min(rule.top_k or logits.shape[1], logits.shape[1])
        constants = plan.constants | {"GREEDY": rule.temperature == 0, "TRUNCATES": rule.truncates}
        stages, tiles = steps * plan.stages, ceil_div(rows, ROWS)
        side_by_side = self._resident(tensors, constants, device) // plan.programs
        if side_by_side < tiles:
            # With half of the registers twice as many fit, which pays where these are enough.
            crowded = self._resident(tensors, constants | _CROWDED, device) // plan.programs
            if crowded:
                side_by_side, constants = crowded, constants | _CROWDED
        if side_by_side:
            constants["launch_cooperative_grid"] = True
            grid = plan.programs, min(side_by_side, tiles)
            launch(plan.kernel, grid, (*tensors, 0, stages, top_k), **constants)
        else:  # programs that are not all on the chip cannot wait for each other
            for stage in range(stages):
                launch(plan.kernel, (plan.programs, tiles), (*tensors, stage, stage + 1, top_k), **constants)
        logits.copy_((words >> 32).int().view(torch.float32)[:, : logits.shape[1]])
        return ids

    def _resident(self, tensors: tuple, constants: dict[str, Any], device: torch.device) -> int:
        """How many programs the GPU holds at once; 0 if they do not fit into the registers they may take."""
        key = constants["GREEDY"], constants["TRUNCATES"], "maxnreg" in constants
        if key not in self._fits:
            with torch.cuda.device(device):
                compiled = self._plan.kernel.warmup(
                    *tensors, 0, 1, 1, **constants, launch_cooperative_grid=True, grid=(1,)
                )
                compiled._init_handles()
            of_chip, threads = torch.cuda.get_device_properties(device), 32 * constants["num_warps"]
            shared = compiled.metadata.shared + 1024  # the system's share of each program
            each = min(
                of_chip.regs_per_multiprocessor // (threads * ceil_div(compiled.n_regs, 8) * 8),
                of_chip.shared_memory_per_multiprocessor // shared,
                of_chip.max_threads_per_multi_processor // threads,
            )
            spills = "maxnreg" in constants and compiled.n_spills > 0
            self._fits[key] = 0 if spills else each * processors(device)
        return self._fits[key]


def _of_mamba(stack: MambaStack, dtype: torch.dtype, programs: int | None) -> _Plan:
    layers, d_inner, d_state = stack.A.shape
    width, dt_rank = stack.conv_weight.shape[2], stack.dt_proj.shape[2]
    programs = programs or min(ceil_div(d_inner, 32), MOST_PROGRAMS)
    channels = _columns(d_inner, programs)
    programs = ceil_div(d_inner, channels)
    n_tile, r_tile = next_power_of_2(d_state), max(next_power_of_2(dt_rank), 16)
    section = max(n_tile, r_tile)
    low_columns = _columns(3 * section, programs)
    low = _whole(3 * section, low_columns)
    tensors = [
        stack.embedding, _with_norm(stack.head, stack.final_norm).to(dtype),
        _with_norm(stack.in_proj, stack.norm).to(dtype), stack.conv_weight.mT, stack.conv_bias,
        _in_sections(stack.x_proj.to(dtype), [dt_rank, d_state, d_state], section, low),
        stack.dt_proj.to(dtype), stack.dt_bias, stack.A * 1.4426950408889634, stack.D,
        stack.out_proj.to(dtype),
    ]  # fmt: skip
    common = _common(stack, dtype, programs)
    inner, word = channels * programs, _word(dtype)
    buffers = [
        ((common["MODEL"],), torch.int64),
        ((inner,), word),
        ((low,), torch.int64),
        ((inner,), word),
        ((d_inner,), torch.float32),
        ((d_inner,), torch.float32),
    ]
    constants = common | {
        "INNER_TILE": _inner_tile(inner, word),
        "D_INNER": d_inner,
        "INNER": inner,
        "WIDTH": width,
        "D_STATE": d_state,
        "N_TILE": n_tile,
        "DT_RANK": dt_rank,
        "R_TILE": r_tile,
        "SECTION": section,
        "LOW": low,
        "LOW_TILE": max(next_power_of_2(low), 64),
        "LOW_COLUMNS": low_columns,
        "CHANNELS": channels,
    }
    return _Plan(mamba_kernel, 4 * layers + 2, programs, _plain(tensors), buffers, constants)


def _of_s4d(stack: S4DStack, dtype: torch.dtype, programs: int | None) -> _Plan:
    layers, d_model, pairs, _ = stack.A.shape
    programs = programs or min(ceil_div(d_model, 16), MOST_PROGRAMS)
    channels = _columns(d_model, programs)
    programs = ceil_div(d_model, channels)
    tensors = [
        stack.embedding, _with_norm(stack.head, stack.final_norm).to(dtype), stack.norm, stack.A, stack.B,
        stack.C, stack.D, stack.out_proj.to(dtype), stack.out_bias,
    ]  # fmt: skip
    common, inner, word = _common(stack, dtype, programs), channels * programs, _word(dtype)
    buffers = [((common["MODEL"],), torch.int64), ((inner,), word)]
    constants = common | {
        "INNER": inner,
        "INNER_TILE": _inner_tile(inner, word),
        "PAIRS": pairs,
        "N_TILE": next_power_of_2(pairs),
        "CHANNELS": channels,
    }
    return _Plan(s4d_kernel, 2 * layers + 2, programs, _plain(tensors), buffers, constants)


def _common(stack: Stack, dtype: torch.dtype, programs: int) -> dict[str, Any]:
    vocab, d_model = stack.head.shape
    out_columns, head_columns = _columns(d_model, programs), min(_columns(vocab, programs), 64)
    model, vocabs = _whole(d_model, out_columns), _whole(vocab, head_columns)
    return {
        "LAYERS": len(stack.norm),
        "D_MODEL": d_model,
        "MODEL": model,
        "D_TILE": max(next_power_of_2(model), 64),
        "VOCAB": vocab,
        "VOCABS": vocabs,
        "V_TILE": max(next_power_of_2(vocab), 32 * WARPS),
        "OUT_COLUMNS": out_columns,
        "HEAD_COLUMNS": head_columns,
        "MODEL_TILE": _inner_tile(model, torch.int64),
        "num_warps": WARPS,
    }


def _columns(total: int, programs: int) -> int:
    """Of `total` outputs that each program takes."""
    return max(next_power_of_2(ceil_div(total, programs)), _LEAST)


def _whole(total: int, part: int) -> int:
    """`total` up to the next multiple of a part."""
    return ceil_div(total, part) * part


def _inner_tile(width: int, word: torch.dtype) -> int:
    """Of a product's inner dimension, at once: 128 bytes of words to a thread, 32 numbers to a warp."""
    return WARPS * min(max(next_power_of_2(ceil_div(width, WARPS)), 32), 4096 // (ROWS * word.itemsize))


def _in_sections(matrix: Tensor, sizes: list[int], section: int, total: int) -> Tensor:
    """Rows of a matrix (..., rows, columns) in sections of one size, `total` in all, new ones zero."""
    parts = [F.pad(part, (0, 0, 0, section - part.shape[-2])) for part in matrix.split(sizes, dim=-2)]
    return F.pad(torch.cat(parts, -2), (0, 0, 0, total - 3 * section))


def _with_norm(matrix: Tensor, weight: Tensor) -> Tensor:
    """matrix (..., outputs, d_model) with the norm's weight (..., d_model) in it."""
    return matrix * weight[..., None, :]


def _word(dtype: torch.dtype) -> torch.dtype:
    """What holds a number together with the epoch of its place."""
    return torch.int32 if dtype == torch.bfloat16 else torch.int64


def _plain(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]
