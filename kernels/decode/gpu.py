"""Decoding on a GPU: one launch for many steps, whose programs stay on the chip and wait for each other.

A tile of 16 rows is what the tensor cores take at once, so it is one even for a single row: what becomes of a
row never depends on the rows beside it or on how many there are. The number of programs that share a tile's
channels depends on the model's width alone, and so does the order of every sum.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from triton.runtime.jit import JITFunction

from ssm_seq.kernels.decode.arguments import check_arguments
from ssm_seq.kernels.decode.gpu_mamba import mamba_kernel
from ssm_seq.kernels.decode.gpu_s4d import s4d_kernel
from ssm_seq.kernels.decode.rule import Rule
from ssm_seq.kernels.decode.stacks import MambaStack, S4DStack, Stack
from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2, processors

LARGEST_VOCAB = 1024  # one program has the whole distribution in registers
ROWS = 16  # of a tile
MOST_PROGRAMS = 128  # that share a tile
WARPS = 8


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


class GpuDecoder:
    """The steps of one model on a GPU."""

    def __init__(self, stack: Stack, dtype: torch.dtype, programs: int | None = None) -> None:
        """dtype: of the matrices, float32 or bfloat16; all else is float32. programs: that share a tile's
        channels, so many that each has 16 (Mamba) or 8 (S4D) of them if None."""
        plan = _of_mamba if isinstance(stack, MambaStack) else _of_s4d
        self._outline, self._plan = stack.to("meta"), plan(stack.to(torch.float32), dtype, programs)
        self._fits: dict[tuple[bool, bool], int] = {}

    def run(self, state: tuple[Tensor, ...], logits: Tensor, draws: Tensor, rule: Rule) -> Tensor:
        """See `decoder`."""
        check_arguments(self._outline, self._plan.tensors[0], state, logits, draws)
        (rows, steps), device, plan = draws.shape, logits.device, self._plan
        ids = torch.empty((rows, steps), dtype=torch.int64, device=device)
        truncation = torch.tensor([rule.temperature, rule.top_p, rule.min_p], dtype=torch.float64)
        # Words of epoch 0: the logits' are due, all others are still to be written.
        words = logits.contiguous().view(torch.int32).long() << 32
        buffers = [torch.zeros((rows, *shape), dtype=dtype, device=device) for shape, dtype in plan.buffers]
        tensors = (
            *plan.tensors, *state, words, draws.contiguous(), ids, truncation.to(device), *buffers,
            self._outline.eps, rows, steps,
        )  # fmt: skip
        top_k = min(rule.top_k or logits.shape[1], logits.shape[1])
        constants = plan.constants | {"GREEDY": rule.temperature == 0, "TRUNCATES": rule.truncates}
        stages, tiles = steps * plan.stages, ceil_div(rows, ROWS)
        side_by_side = min(self._resident(tensors, constants, device) // plan.programs, tiles)
        if side_by_side:
            constants["launch_cooperative_grid"] = True
            launch(plan.kernel, (plan.programs, side_by_side), (*tensors, 0, stages, top_k), **constants)
        else:  # programs that are not all on the chip cannot wait for each other
            for stage in range(stages):
                launch(plan.kernel, (plan.programs, tiles), (*tensors, stage, stage + 1, top_k), **constants)
        logits.copy_((words >> 32).int().view(torch.float32))
        return ids

    def _resident(self, tensors: tuple, constants: dict[str, Any], device: torch.device) -> int:
        """How many programs the GPU holds at once; 0 in the interpreter, which has them one by one."""
        if not isinstance(self._plan.kernel, JITFunction):
            return 0
        key = constants["GREEDY"], constants["TRUNCATES"]
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
            self._fits[key] = each * processors(device)
        return self._fits[key]


def _of_mamba(stack: MambaStack, dtype: torch.dtype, programs: int | None) -> _Plan:
    layers, d_inner, d_state = stack.A.shape
    width, dt_rank = stack.conv_weight.shape[2], stack.dt_proj.shape[2]
    outputs = dt_rank + 2 * d_state
    programs = programs or min(ceil_div(d_inner, 16), MOST_PROGRAMS)
    tensors = [
        stack.embedding, _with_norm(stack.head, stack.final_norm).to(dtype),
        _with_norm(stack.in_proj, stack.norm).to(dtype), stack.conv_weight.mT, stack.conv_bias,
        stack.x_proj.to(dtype), stack.dt_proj.to(dtype), stack.dt_bias, stack.A * 1.4426950408889634, stack.D,
        stack.out_proj.to(dtype),
    ]  # fmt: skip
    d_model, word = stack.norm.shape[1], _word(dtype)
    buffers = [
        ((d_model,), torch.int64),
        ((d_inner,), word),
        ((outputs,), torch.int64),
        ((d_inner,), word),
        ((d_inner,), torch.float32),
        ((d_inner,), torch.float32),
    ]
    constants = _common(stack, dtype, programs) | {
        "INNER_TILE": _inner_tile(d_inner),
        "D_INNER": d_inner,
        "WIDTH": width,
        "D_STATE": d_state,
        "N_TILE": next_power_of_2(d_state),
        "DT_RANK": dt_rank,
        "R_TILE": max(next_power_of_2(dt_rank), 16),
        "LOW_COLUMNS": _columns(outputs, programs),
        "CHANNELS": max(next_power_of_2(ceil_div(d_inner, programs)), 16),
    }
    return _Plan(mamba_kernel, 4 * layers + 2, programs, _plain(tensors), buffers, constants)


def _of_s4d(stack: S4DStack, dtype: torch.dtype, programs: int | None) -> _Plan:
    layers, d_model, pairs, _ = stack.A.shape
    programs = programs or min(ceil_div(d_model, 8), MOST_PROGRAMS)
    tensors = [
        stack.embedding, _with_norm(stack.head, stack.final_norm).to(dtype), stack.norm, stack.A, stack.B,
        stack.C, stack.D, stack.out_proj.to(dtype), stack.out_bias,
    ]  # fmt: skip
    buffers = [((d_model,), torch.int64), ((d_model,), _word(dtype))]
    constants = _common(stack, dtype, programs) | {
        "PAIRS": pairs,
        "N_TILE": next_power_of_2(pairs),
        "CHANNELS": next_power_of_2(ceil_div(d_model, programs)),
    }
    return _Plan(s4d_kernel, 2 * layers + 2, programs, _plain(tensors), buffers, constants)


def _common(stack: Stack, dtype: torch.dtype, programs: int) -> dict[str, Any]:
    vocab, d_model = stack.head.shape
    return {
        "LAYERS": len(stack.norm),
        "D_MODEL": d_model,
        "D_TILE": next_power_of_2(d_model),
        "VOCAB": vocab,
        "V_TILE": max(next_power_of_2(vocab), 16),
        "ROWS": ROWS,
        "OUT_COLUMNS": _columns(d_model, programs),
        "HEAD_COLUMNS": _columns(vocab, programs),
        "MODEL_TILE": _inner_tile(d_model),
        "PARTS": WARPS,
        "PRECISION": "tf32x3" if dtype == torch.float32 else "ieee",
        "num_warps": WARPS,
    }


def _columns(total: int, programs: int) -> int:
    """Of a matrix that each program takes; the tensor cores take eight."""
    return max(next_power_of_2(ceil_div(total, programs)), 8)


def _inner_tile(width: int) -> int:
    """Of a product's inner dimension, at once; each warp's part is at least 16, the tensor cores' own."""
    return min(max(next_power_of_2(width), 16 * WARPS), 512)


def _with_norm(matrix: Tensor, weight: Tensor) -> Tensor:
    """matrix (..., outputs, d_model) with the norm's weight (..., d_model) in it."""
    return matrix * weight[..., None, :]


def _word(dtype: torch.dtype) -> torch.dtype:
    """What holds a number together with the epoch of its place."""
    return torch.int32 if dtype == torch.bfloat16 else torch.int64


def _plain(tensors: list[Tensor]) -> list[Tensor]:
    return [tensor.contiguous() for tensor in tensors]
