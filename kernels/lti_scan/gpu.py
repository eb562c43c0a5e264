"""The time-invariant scan on a GPU: how the work is cut, and the launches (three forward, four backward)."""

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import torch
from torch import Tensor

from ssm_seq.kernels.launch import ceil_div, launch, next_power_of_2, processors
from ssm_seq.kernels.lti_scan.gpu_kernels import pass_kernel, walk_kernel
from ssm_seq.kernels.lti_scan.matrices import Matrices, diagonal_sums, power, toeplitz
from ssm_seq.kernels.rows import even_rows

CHUNK = 16  # positions that one product takes

# Chunks of a row: the exponent's gradient counts them, as a difference of sums that grow with their number
# and nearly cancel for modes that decay within a chunk.
LONGEST = 32
ROWS = 16  # of a program
BYTES = 16  # of a position that a program reads: four channels in float32, a warp each
ENDS_REGISTERS = 128  # of a thread that takes the ends of up to 32 pairs: 16 warps fit on a multiprocessor


@dataclass(frozen=True)
class Cut:
    """How time is cut: `long` rows of `chunks` chunks, then single chunks, then what is left of one."""

    chunks: int
    long: int
    rows: int


def cut_in(length: int, chunks: int) -> Cut:
    """With long rows of so many chunks."""
    long = length // CHUNK // chunks
    return Cut(chunks, long, long + ceil_div(length - long * chunks * CHUNK, CHUNK))


def cut(u: Tensor) -> Cut:
    """Rows as long as they can be while every multiprocessor has 16 warps."""
    batch, length, channels = u.shape
    chunks = LONGEST
    while chunks > 1 and batch * channels * (length // CHUNK // chunks) < 16 * ROWS * _multiprocessors(u):
        chunks //= 2
    return cut_in(length, chunks)


def _multiprocessors(u: Tensor) -> int:
    return processors(u.device) if u.is_cuda else 1


def kept(u: Tensor, exponent: Tensor) -> tuple[tuple[int, ...], torch.dtype]:
    """Shape and dtype of what the forward pass keeps: the states before all rows, and the last."""
    batch, _, channels = u.shape
    return (batch, cut(u).rows + 1, channels, exponent.shape[1]), torch.complex64


def forward(
    u: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    initial_state: Tensor | None,
    keep: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    """y, the final state, and the states before all rows (empty unless `keep`)."""
    u = even_rows(u)
    walks = _Walks(u, exponent, Matrices(exponent, B, C, D, CHUNK))
    states = walks.states_before(u, initial_state)
    y = walks.outputs(u, states)
    return y, states[:, -1].clone(), states if keep else states.new_empty((0, 0, 0, 0))


def backward(
    dy: Tensor,
    dfinal: Tensor | None,
    u: Tensor,
    exponent: Tensor,
    B: Tensor,
    C: Tensor,
    D: Tensor | None,
    states: Tensor,
) -> tuple[Tensor, ...]:
    """Gradients of u, exponent, B, C, D and the initial state.

    The exponent works in the matrices and between chunks. There its gradient is k <adjoint, Abar^k x>, summed
    over all pairs of a chunk that gives to the state and a chunk that takes from it, with k positions between
    them. No walk has both at hand. But k is a sum: from the first chunk to the end of its row, whole rows,
    from the begin of its row to the second. Each walk has one part, and between rows both states are there.
    """
    u, dy, made = even_rows(u), even_rows(dy), Matrices(exponent, B, C, D, CHUNK)
    walks = _Walks(u, exponent, made)
    adjoints, reach = walks.adjoints_after(dy, dfinal, states)
    du, dinto, after = walks.input_gradient(dy, adjoints, u)
    dstart = adjoints[:, -1].clone()
    del adjoints
    dout, before, correlation = walks.sums(u, states, dy)
    inner = walks.cut.chunks * (made.out * dout.conj_physical()).sum(-1) - before - after.conj_physical()
    dexponent, dB, dC, dD = made.gradients(diagonal_sums(correlation), dinto, dout)
    return du, dexponent + CHUNK * inner + reach, dB, dC, dD, dstart


class _Form(NamedTuple):
    """The matrices as a walk takes them: real and imaginary planes, the axis that is summed over last.

    into: (2, channels, pairs, size). out: (2, channels, size, pairs).
    """

    into: Tensor
    out: Tensor

    @classmethod
    def of(cls, into: Tensor, out: Tensor) -> "_Form":
        into, out = (torch.view_as_real(matrix).movedim(-1, 0) for matrix in (into, out))
        return cls(into.contiguous(), out.mT.contiguous())


class _Walks:
    """The launches over one cut of time."""

    def __init__(self, u: Tensor, exponent: Tensor, made: Matrices) -> None:
        self.batch, self.length, self.channels = u.shape
        self.pairs, self.cut, self._made = exponent.shape[1], cut(u), made
        self._within = toeplitz(made.lags)
        left = self.length % CHUNK or CHUNK
        long = power(exponent, self.cut.chunks * CHUNK)
        self._leaps = torch.stack([long, made.powers[..., CHUNK], made.powers[..., left]])
        high = self._leaps[1].to(torch.complex64)
        self._decay = torch.stack([high, (self._leaps[1] - high).to(torch.complex64)])

    @cached_property
    def _forth(self) -> _Form:
        return _Form.of(self._made.into, self._made.out)

    @cached_property
    def _back(self) -> _Form:
        return _Form.of(self._made.out.flip(-1), self._made.into.flip(-1))

    def states_before(self, u: Tensor, initial_state: Tensor | None) -> Tensor:
        """The states before all rows, and after the last: complex (batch, rows + 1, channels, pairs)."""
        states = self._new_states(u)
        self._walk(u, states, self._forth, ends=True)
        self._pass(states, initial_state)
        return states

    def outputs(self, u: Tensor, states: Tensor) -> Tensor:
        y = torch.empty(u.shape, dtype=u.dtype, device=u.device)
        self._walk(u, states, self._forth, y=y)
        return y

    def adjoints_after(self, dy: Tensor, dfinal: Tensor | None, states: Tensor) -> tuple[Tensor, Tensor]:
        """The adjoint states after all rows, from the last to the first, and before that; `reach`."""
        adjoints = self._new_states(dy)
        self._walk(dy, adjoints, self._back, ends=True)
        return adjoints, self._pass(adjoints, dfinal, states)

    def input_gradient(self, dy: Tensor, adjoints: Tensor, u: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradients of u and of `into`, and `weighted`."""
        du, (collected, weighted) = torch.empty(u.shape, dtype=u.dtype, device=u.device), self._new_sums(u)
        self._walk(dy, adjoints, self._back, u, du, collected, weighted)
        return du, collected.sum(0).flip(-1), weighted.sum(0)

    def sums(self, u: Tensor, states: Tensor, dy: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The gradient of `out`, `weighted`, and the correlation of u and dy."""
        collected, weighted = self._new_sums(u)
        square = (self._blocks(), self.channels, CHUNK, CHUNK)
        correlation = torch.empty(square, dtype=torch.float32, device=u.device)
        self._walk(u, states, self._forth, dy, None, collected, weighted, correlation)
        return collected.sum(0), weighted.sum(0), correlation.sum(0)

    def _new_states(self, v: Tensor) -> Tensor:
        shape = (self.batch, self.cut.rows + 1, self.channels, self.pairs)
        return torch.empty(shape, dtype=torch.complex64, device=v.device)

    def _new_sums(self, v: Tensor) -> tuple[Tensor, Tensor]:
        shape = (self._blocks(), self.channels, self.pairs)
        return tuple(
            torch.empty(full, dtype=torch.complex64, device=v.device) for full in ((*shape, CHUNK), shape)
        )

    def _blocks(self) -> int:
        return ceil_div(self.batch * self.cut.rows, ROWS)

    def _walk(
        self,
        v: Tensor,
        states: Tensor,
        form: _Form,
        w: Tensor | None = None,
        y: Tensor | None = None,
        collected: Tensor | None = None,
        weighted: Tensor | None = None,
        correlation: Tensor | None = None,
        ends: bool = False,
    ) -> None:
        arguments = (
            v, w, self._within, *form, _numbers(self._decay), _numbers(states), y,
            _numbers(collected), _numbers(weighted), correlation,
            self.length, self.batch, self.cut.rows, self.cut.long, self.cut.chunks,
        )  # fmt: skip
        channels = BYTES // v.element_size()
        launch(
            walk_kernel, (self._blocks() * ceil_div(self.channels, channels),), arguments,
            CHANNELS=self.channels, PAIRS=self.pairs,
            V_ROW=v.stride(1), W_ROW=0 if w is None else w.stride(1),
            REVERSE=form is not self._forth, ENDS=ends, WIDE=v.dtype == torch.float32,
            SIZE=CHUNK, ROWS=ROWS, CHANNELS_=channels, PAIRS_=max(16, next_power_of_2(self.pairs)),
            num_warps=channels, maxnreg=ENDS_REGISTERS if ends and self.pairs <= 32 else None,
        )  # fmt: skip

    def _pass(self, states: Tensor, start: Tensor | None, kept: Tensor | None = None) -> Tensor | None:
        """kept: the states of the walk forth, on the way back."""
        numbers = self.channels * self.pairs
        reach = None
        if kept is not None:
            shape = (self.batch, self.channels, self.pairs)
            reach = torch.empty(shape, dtype=torch.complex128, device=states.device)
        arguments = (
            _numbers(states), _numbers(start), _numbers(self._leaps), _numbers(kept), _numbers(reach),
            self.cut.rows, self.cut.long, self.cut.chunks * CHUNK, self.length,
        )  # fmt: skip
        launch(
            pass_kernel, (ceil_div(numbers, 64), self.batch), arguments,
            NUMBERS=numbers, SIZE=CHUNK, REVERSE=kept is not None, BLOCK=64, UNROLL=16, num_warps=2,
        )  # fmt: skip
        return None if reach is None else reach.sum(0)


def _numbers(tensor: Tensor | None) -> Tensor | None:
    """A complex tensor as float numbers in pairs."""
    return None if tensor is None else torch.view_as_real(tensor.contiguous())
