"""Decoding on a GPU: one launch for many steps, whose programs stay on the chip and wait for each other.

Programs that share a model's channels take a tile of rows at a time: 8, what the tensor cores take at once,
or, of a Mamba, up to 32 where there are more than 8 for each group, since weights come once for a tile. What
becomes of a row never depends on the rows beside it or on how many there are: the order of a sum follows from
the model's sizes alone, and the compiler rounds as is written (else it would make one operation of a product
and a sum, and of which ones depended on the tile).
"""

from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ssm_seq.kernels.decode.arguments import check_arguments
from ssm_seq.kernels.decode.gpu_mamba import mamba_kernel
from ssm_seq.kernels.decode.gpu_s4d import s4d_kernel
from ssm_seq.kernels.decode.gpu_words import ABSENT, SLOTS
from ssm_seq.kernels.decode.rule import Rule
from ssm_seq.kernels.decode.stacks import MambaStack, S4DStack, Stack
from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2, processors

LARGEST_VOCAB = 1024  # one program has the whole distribution in registers
LARGEST_STATE = 64  # numbers, or pairs of numbers, of a channel: all in registers
LEAST_ROWS, MOST_ROWS = 8, 32  # of a tile
MOST_PROGRAMS = 128  # that share a tile
MOST_STATES = 16384  # of a larger tile in one program: 64 registers of a thread
WARPS = 8
_LEAST = 16  # outputs that the tensor cores take at once
_ROOMY = {torch.float32: torch.int64, torch.bfloat16: torch.int32}  # for a number and its epoch


@dataclass(frozen=True)
class _Plan:
    """How `programs` share the channels of a model. stages: of a step. words: how many a row has of each
    kind, and the dtype of their numbers. own: numbers of a row that programs keep. most_rows: of a tile."""

    kernel: Any
    stages: int
    programs: int
    words: list[tuple[int, torch.dtype]]
    own: list[int]
    most_rows: int
    constants: dict[str, Any]


def takes(stack: MambaStack | S4DStack) -> bool:
    """Whether a program holds the distribution of an id, and the states of its channels, in registers."""
    return len(stack.head) <= LARGEST_VOCAB and stack.A.shape[2] <= LARGEST_STATE


class GpuDecoder:
    """The steps of one model on a GPU."""

    def __init__(self, stack: Stack, dtype: torch.dtype, programs: int | None = None) -> None:
        """dtype: of the matrices, float32 or bfloat16; all else is float32. programs: that share a tile's
        channels; if None, so many that each has 16 of them, or 32 where a Mamba has many rows."""
        self._outline = stack.to("meta")
        if isinstance(stack, MambaStack):
            plan, tensors, of_program = _of_mamba, _mamba_tensors, (16, 32)
        else:
            plan, tensors, of_program = _of_s4d, _s4d_tensors, (16,)
        self._tensors = [tensor.contiguous() for tensor in tensors(stack.to(torch.float32), dtype)]
        all_channels = stack.A.shape[1]
        numbers = [min(ceil_div(all_channels, channels), MOST_PROGRAMS) for channels in of_program]
        self._plans = [plan(self._outline, dtype, number) for number in ([programs] if programs else numbers)]
        self._fits: dict[tuple[int, ...], int] = {}

    def run(self, state: tuple[Tensor, ...], logits: Tensor, draws: Tensor, rule: Rule) -> Tensor:
        """See `decoder`."""
        check_arguments(self._outline, self._tensors[0], state, logits, draws)
        (rows, steps), device = draws.shape, logits.device
        plan, tile = self._divided(rows, device)
        ids = torch.empty((rows, steps), dtype=torch.int64, device=device)
        truncation = torch.tensor([rule.temperature, rule.top_p, rule.min_p], dtype=torch.float64)
        vocab, alone = logits.shape[1], tile > LEAST_ROWS
        words = [
            _words(rows, width, number, alone, device)
            for width, number in [(plan.constants["VOCABS"], torch.float32), *plan.words]
        ]
        if alone:
            words[0][0, :, :vocab] = torch.where(logits.isnan(), torch.nan, logits)
        else:
            words[0][:, :vocab] = logits.view(torch.int32).long() << 32
        own = [torch.empty((rows, width), device=device) for width in plan.own]
        tensors = (
            *self._tensors, *state, words[0], draws.contiguous(), ids, truncation.to(device), *words[1:],
            *own, self._outline.eps, rows, steps,
        )  # fmt: skip
        top_k = min(rule.top_k or vocab, vocab)
        constants = plan.constants | {
            "GREEDY": rule.temperature == 0,
            "TRUNCATES": rule.truncates,
            "ROWS": tile,
        }
        stages, tiles = steps * plan.stages, ceil_div(rows, tile)
        side_by_side = self._resident(plan, tensors, constants, device) // plan.programs
        if side_by_side:
            constants["launch_cooperative_grid"] = True
            grid = plan.programs, min(side_by_side, tiles)
            launch(plan.kernel, grid, (*tensors, 0, stages, top_k), **constants)
        else:  # programs that are not all on the chip cannot wait for each other
            for stage in range(stages):
                launch(plan.kernel, (plan.programs, tiles), (*tensors, stage, stage + 1, top_k), **constants)
        last = words[0][steps % SLOTS.value] if alone else (words[0] >> 32).int().view(torch.float32)
        logits.copy_(last[:, :vocab])
        return ids

    def _divided(self, rows: int, device: torch.device) -> tuple[_Plan, int]:
        """The plan for so many rows, and the rows of a tile.

        Groups of programs, one to a multiprocessor, have a tile each. Where tiles of 8 rows are enough, more
        programs make a group; else tiles grow until they are, as far as they may.
        """
        for plan in self._plans:
            groups = processors(device) // plan.programs
            if rows <= LEAST_ROWS * groups:
                return plan, LEAST_ROWS
        tile = min(next_power_of_2(ceil_div(rows, max(groups, 1))), plan.most_rows)
        return plan, max(tile, LEAST_ROWS)

    def _resident(self, plan: _Plan, tensors: tuple, constants: dict[str, Any], device: torch.device) -> int:
        """How many programs the GPU holds at once."""
        key = plan.programs, *(constants[name] for name in ("GREEDY", "TRUNCATES", "ROWS"))
        if key not in self._fits:
            with torch.cuda.device(device):
                compiled = plan.kernel.warmup(
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
            self._fits[key] = each * processors(device)
        return self._fits[key]


def _mamba_tensors(stack: MambaStack, dtype: torch.dtype) -> list[Tensor]:
    """The weights, in the order of the kernel's parameters."""
    (_, dt_rank), d_state = stack.dt_proj.shape[1:], stack.A.shape[2]
    return [
        stack.embedding, _with_norm(stack.head, stack.final_norm).to(dtype),
        _with_norm(stack.in_proj, stack.norm).to(dtype), stack.conv_weight.mT, stack.conv_bias,
        _in_sections(stack.x_proj.to(dtype), [dt_rank, d_state, d_state], _section(stack)),
        stack.dt_proj.to(dtype), stack.dt_bias, stack.A * 1.4426950408889634, stack.D,
        stack.out_proj.to(dtype),
    ]  # fmt: skip


def _of_mamba(stack: MambaStack, dtype: torch.dtype, programs: int) -> _Plan:
    layers, d_inner, d_state = stack.A.shape
    width, dt_rank = stack.conv_weight.shape[2], stack.dt_proj.shape[2]
    channels = _columns(d_inner, programs)
    programs = ceil_div(d_inner, channels)
    n_tile, section = next_power_of_2(d_state), _section(stack)
    common, inner = _common(stack, dtype, programs), channels * programs
    words = [
        (common["MODEL"], torch.float32), (inner, dtype), (3 * section, torch.float32), (inner, dtype)
    ]  # fmt: skip
    constants = common | {
        "INNER_TILE": _inner_tile(d_inner, dtype),
        "D_INNER": d_inner,
        "INNER": inner,
        "WIDTH": width,
        "D_STATE": d_state,
        "N_TILE": n_tile,
        "DT_RANK": dt_rank,
        "R_TILE": max(next_power_of_2(dt_rank), 16),
        "SECTION": section,
        "LOW": 3 * section,
        "LOW_TILE": max(next_power_of_2(3 * section), 64),
        "LOW_COLUMNS": _LEAST,
        "CHANNELS": channels,
    }
    most_rows = min(MOST_ROWS * 2 // dtype.itemsize, MOST_STATES // (channels * n_tile))
    if common["MODEL"] < common["OUT_COLUMNS"] * programs:  # some programs never hear of all others
        most_rows = LEAST_ROWS
    return _Plan(mamba_kernel, 4 * layers + 2, programs, words, [d_inner, d_inner], most_rows, constants)


def _section(stack: MambaStack) -> int:
    """Outputs of x_proj that delta, B and C have each: those of the largest, a power of two."""
    return max(next_power_of_2(stack.A.shape[2]), next_power_of_2(stack.dt_proj.shape[2]), _LEAST)


def _s4d_tensors(stack: S4DStack, dtype: torch.dtype) -> list[Tensor]:
    """The weights, in the order of the kernel's parameters."""
    return [
        stack.embedding, _with_norm(stack.head, stack.final_norm).to(dtype), stack.norm, stack.A, stack.B,
        stack.C, stack.D, stack.out_proj.to(dtype), stack.out_bias,
    ]  # fmt: skip


def _of_s4d(stack: S4DStack, dtype: torch.dtype, programs: int) -> _Plan:
    layers, d_model, pairs, _ = stack.A.shape
    channels = _columns(d_model, programs)
    programs = ceil_div(d_model, channels)
    common, inner = _common(stack, dtype, programs), channels * programs
    n_tile = next_power_of_2(pairs)
    constants = common | {
        "INNER": inner,
        "INNER_TILE": _inner_tile(d_model, dtype),
        "PAIRS": pairs,
        "N_TILE": n_tile,
        "CHANNELS": channels,
    }
    words = [(common["MODEL"], torch.float32), (inner, dtype)]
    return _Plan(s4d_kernel, 2 * layers + 2, programs, words, [], LEAST_ROWS, constants)


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
        "MODEL_TILE": _inner_tile(d_model, torch.float32),
        "num_warps": WARPS,
        "enable_fp_fusion": False,
    }


def _columns(total: int, programs: int) -> int:
    """Of `total` outputs that each program takes."""
    return max(next_power_of_2(ceil_div(total, programs)), _LEAST)


def _whole(total: int, part: int) -> int:
    """`total` up to the next multiple of a part."""
    return ceil_div(total, part) * part


def _inner_tile(width: int, number: torch.dtype) -> int:
    """Of a product's inner dimension, at once: 256 bytes of a row to a warp. It orders the sums."""
    return WARPS * min(max(next_power_of_2(ceil_div(width, WARPS)), 32), 256 // number.itemsize)


def _in_sections(matrix: Tensor, sizes: list[int], section: int) -> Tensor:
    """Rows of a matrix (..., rows, columns) in sections of one size, new ones zero."""
    return torch.cat(
        [F.pad(part, (0, 0, 0, section - part.shape[-2])) for part in matrix.split(sizes, dim=-2)], -2
    )


def _with_norm(matrix: Tensor, weight: Tensor) -> Tensor:
    """matrix (..., outputs, d_model) with the norm's weight (..., d_model) in it."""
    return matrix * weight[..., None, :]


def _words(rows: int, width: int, number: torch.dtype, alone: bool, device: torch.device) -> Tensor:
    """Words for numbers of a dtype: ABSENT in all slots, or of epoch 0, which only the first logits have."""
    if not alone:
        return torch.zeros((rows, width), dtype=_ROOMY[number], device=device)
    bits = torch.int16 if number == torch.bfloat16 else torch.int32
    return torch.full((SLOTS.value, rows, width), ABSENT.value, dtype=bits, device=device).view(number)
