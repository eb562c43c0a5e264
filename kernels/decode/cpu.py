"""Decoding on a CPU: the whole step of one row after the other in compiled code, with vectors over outputs.

Every output of a product has its own lane: no sum runs across lanes. A matrix lies in blocks of one vector of
outputs each, so that what is read is read once, in its order in memory.
"""

import math

import numpy as np
import torch
from torch import Tensor

from ssm_seq.kernels.cpu.arrays import as_array, whole_vectors
from ssm_seq.kernels.cpu.lanes import compiled, exp2, load, sigmoid, softplus, splat, store, total, width
from ssm_seq.kernels.cpu.threads import run
from ssm_seq.kernels.decode.arguments import check_arguments
from ssm_seq.kernels.decode.rule import Rule
from ssm_seq.kernels.decode.stacks import MambaStack, Stack


@compiled
def product(x, matrix, count, out):
    """out = x[:count] times matrix (blocks, count, lanes). Two sums each, of even and of odd places."""
    lanes = width(out)
    for block in range(matrix.shape[0]):
        even = odd = splat(out.dtype.type(0))
        for k in range(0, count - 1, 2):
            even = even + splat(x[k]) * load(matrix, (block, k, 0))
            odd = odd + splat(x[k + 1]) * load(matrix, (block, k + 1, 0))
        if count % 2:
            even = even + splat(x[count - 1]) * load(matrix, (block, count - 1, 0))
        store(out, (block * lanes,), even + odd)


@compiled
def normalise(x, weight, d_model, eps, out):
    """out = weight * x / root mean square; x is zero behind d_model."""
    lanes = width(x)
    squares = splat(x.dtype.type(0))
    for c in range(0, x.shape[0], lanes):
        value = load(x, (c,))
        squares = squares + value * value
    scale = splat(x.dtype.type(1 / math.sqrt(total(squares) / d_model + eps)))
    for c in range(0, x.shape[0], lanes):
        store(out, (c,), load(x, (c,)) * scale * load(weight, (c,)))


@compiled
def choose(logits, vocab, draw, temperature, top_k, top_p, min_p, weights, order):
    """`Rule.choose` of one row."""
    best = 0
    for v in range(vocab):
        if logits[v] > logits[best]:
            best = v
    if temperature == 0:
        return best
    for v in range(vocab):
        weights[v] = math.exp((np.float64(logits[v]) - np.float64(logits[best])) / temperature)
    if top_k < vocab or top_p < 1 or min_p > 0:
        order[:] = np.argsort(-weights, kind="mergesort")
        whole = 0.0
        for rank in range(top_k):
            whole += weights[order[rank]]
        before = 0.0
        for rank in range(vocab):
            weight = weights[order[rank]]
            if rank >= top_k or before >= top_p * whole or weight < min_p:
                weights[order[rank]] = 0.0
            before += weight
    whole = 0.0
    for v in range(vocab):
        whole += weights[v]
    target, reached, last = draw * whole, 0.0, 0
    for v in range(vocab):
        if weights[v] > 0:
            reached += weights[v]
            last = v
            if reached > target:
                break
    return last


@compiled
def _mamba(
    first, last, embedding, norm, final_norm, head, in_proj, conv_weight, conv_bias, x_proj, dt_proj, dt_bias,
    A2, D, out_proj, conv, ssm, logits, draws, ids, eps, d_model, d_inner, dt_rank, vocab,
    temperature, top_k, top_p, min_p,
):  # fmt: skip
    """Rows first..last-1. conv (layers, rows, width - 1, d_inner), ssm (layers, rows, d_state, d_inner)."""
    layers, taps, channels = conv_weight.shape
    d_state = A2.shape[1]
    lanes = width(logits)
    x, normed = np.zeros(embedding.shape[1], logits.dtype), np.zeros(embedding.shape[1], logits.dtype)
    mixed = np.zeros(embedding.shape[1], logits.dtype)
    both, u = np.zeros(2 * channels, logits.dtype), np.zeros(channels, logits.dtype)
    low, delta = np.zeros(x_proj.shape[1] * lanes, logits.dtype), np.zeros(channels, logits.dtype)
    weights, order = np.zeros(vocab, np.float64), np.zeros(vocab, np.int64)
    for row in range(first, last):
        for t in range(draws.shape[1]):
            chosen = choose(
                logits[row], vocab, draws[row, t], temperature, top_k, top_p, min_p, weights, order
            )
            ids[row, t] = chosen
            x[:] = embedding[chosen]
            for layer in range(layers):
                normalise(x, norm[layer], d_model, eps, normed)
                product(normed, in_proj[layer], d_model, both)
                for c in range(0, channels, lanes):
                    newest = load(both, (c,))
                    out = load(conv_bias, (layer, c)) + newest * load(conv_weight, (layer, taps - 1, c))
                    for k in range(taps - 1):
                        past = load(conv, (layer, row, k, c))
                        out = out + past * load(conv_weight, (layer, k, c))
                        if k > 0:
                            store(conv, (layer, row, k - 1, c), past)
                    if taps > 1:
                        store(conv, (layer, row, taps - 2, c), newest)
                    store(u, (c,), out * sigmoid(out))
                product(u, x_proj[layer], d_inner, low)
                product(low, dt_proj[layer], dt_rank, delta)
                for c in range(0, channels, lanes):
                    step = softplus(load(delta, (c,)) + load(dt_bias, (layer, c)))
                    value, gate = load(u, (c,)), load(both, (channels + c,))
                    scaled = step * value
                    out = load(D, (layer, c)) * value
                    for n in range(d_state):
                        into, out_of = splat(low[dt_rank + n]), splat(low[dt_rank + d_state + n])
                        decay = exp2(step * load(A2, (layer, n, c)))
                        state = decay * load(ssm, (layer, row, n, c)) + scaled * into
                        store(ssm, (layer, row, n, c), state)
                        out = out + state * out_of
                    store(u, (c,), out * (gate * sigmoid(gate)))
                product(u, out_proj[layer], d_inner, mixed)
                for c in range(0, x.shape[0], lanes):
                    store(x, (c,), load(x, (c,)) + load(mixed, (c,)))
            normalise(x, final_norm, d_model, eps, normed)
            product(normed, head, d_model, logits[row])


@compiled
def _s4d(
    first, last, embedding, norm, final_norm, head, A_re, A_im, B_re, B_im, C_re, C_im, D, out_proj, out_bias,
    re, im, logits, draws, ids, eps, d_model, vocab, temperature, top_k, top_p, min_p,
):  # fmt: skip
    """Rows first..last-1. re, im: (layers, rows, pairs, d_model)."""
    layers, pairs, channels = A_re.shape
    lanes = width(logits)
    number = logits.dtype.type
    x, normed = np.zeros(channels, logits.dtype), np.zeros(channels, logits.dtype)
    both = np.zeros(2 * channels, logits.dtype)
    weights, order = np.zeros(vocab, np.float64), np.zeros(vocab, np.int64)
    for row in range(first, last):
        for t in range(draws.shape[1]):
            chosen = choose(
                logits[row], vocab, draws[row, t], temperature, top_k, top_p, min_p, weights, order
            )
            ids[row, t] = chosen
            x[:] = embedding[chosen]
            for layer in range(layers):
                normalise(x, norm[layer], d_model, eps, normed)
                for c in range(0, channels, lanes):
                    value, out = load(normed, (c,)), splat(number(0))
                    for n in range(pairs):
                        place = (layer, row, n, c)
                        a, b = load(A_re, (layer, n, c)), load(A_im, (layer, n, c))
                        past, turned = load(re, place), load(im, place)
                        real = a * past - b * turned + load(B_re, (layer, n, c)) * value
                        imag = a * turned + b * past + load(B_im, (layer, n, c)) * value
                        store(re, place, real)
                        store(im, place, imag)
                        out = out + (real * load(C_re, (layer, n, c)) - imag * load(C_im, (layer, n, c)))
                    store(normed, (c,), out + out + load(D, (layer, c)) * value)
                for c in range(d_model):
                    value = normed[c]
                    normed[c] = number(0.5) * value * (number(1) + number(math.erf(value * math.sqrt(0.5))))
                product(normed, out_proj[layer], d_model, both)
                for c in range(0, channels, lanes):
                    value = load(both, (c,)) + load(out_bias, (layer, 0, c))
                    gate = load(both, (channels + c,)) + load(out_bias, (layer, 1, c))
                    store(x, (c,), load(x, (c,)) + value * sigmoid(gate))
            normalise(x, final_norm, d_model, eps, normed)
            product(normed, head, d_model, logits[row])


class CpuDecoder:
    """The steps of one model on a CPU, its rows shared among torch's threads."""

    def __init__(self, stack: Stack) -> None:
        self._outline, self._like, self._dtype = stack.to("meta"), stack.head[:0], stack.head.dtype
        vocab, d_model = stack.head.shape
        self._common = [
            self._rows(stack.embedding),
            self._rows(stack.norm),
            self._rows(stack.final_norm),
            self._blocks(stack.head),
        ]
        if isinstance(stack, MambaStack):
            self._kernel, d_inner = _mamba, stack.A.shape[1]
            self._layers = [
                self._halves(stack.in_proj),
                self._rows(stack.conv_weight.mT),
                self._rows(stack.conv_bias),
                self._blocks(stack.x_proj),
                self._blocks(stack.dt_proj),
                self._rows(stack.dt_bias),
                self._rows(stack.A.mT / math.log(2)),
                self._rows(stack.D),
                self._blocks(stack.out_proj),
            ]
            self._sizes = [d_model, d_inner, stack.dt_proj.shape[2], vocab]
        else:
            self._kernel = _s4d
            parts = [part.mT for matrix in (stack.A, stack.B, stack.C) for part in matrix.unbind(-1)]
            self._layers = [
                *map(self._rows, parts),
                self._rows(stack.D),
                self._halves(stack.out_proj),
                self._rows(stack.out_bias.unflatten(1, (2, d_model))),
            ]
            self._sizes = [d_model, vocab]

    def run(self, state: tuple[Tensor, ...], logits: Tensor, draws: Tensor, rule: Rule) -> Tensor:
        """See `decoder`."""
        check_arguments(self._outline, self._like, state, logits, draws)
        mamba = isinstance(self._outline, MambaStack)
        parts = [state[0], state[1].mT] if mamba else [part.mT for part in state[0].unbind(-1)]
        arrays, following = [self._rows(part).copy() for part in parts], self._rows(logits).copy()
        ids = torch.empty(draws.shape, dtype=torch.int64)
        run(
            self._kernel, len(draws), *self._common, *self._layers, *arrays, following,
            draws.contiguous().numpy(), ids.numpy(), self._outline.eps, *self._sizes,
            float(rule.temperature), min(rule.top_k or logits.shape[1], logits.shape[1]), float(rule.top_p),
            float(rule.min_p),
        )  # fmt: skip
        for part, array in zip(parts, arrays, strict=True):
            part.copy_(torch.from_numpy(array)[..., : part.shape[-1]])
        logits.copy_(torch.from_numpy(following)[:, : logits.shape[1]])
        return ids

    def _rows(self, tensor: Tensor) -> np.ndarray:
        return as_array(tensor, self._dtype, whole_vectors(tensor.shape[-1], self._dtype))

    def _blocks(self, matrix: Tensor) -> np.ndarray:
        """(..., outputs, inputs) -> (..., blocks, inputs, lanes), filled up with zeros."""
        rows, lanes = self._rows(matrix.mT), whole_vectors(1, self._dtype)
        return np.ascontiguousarray(rows.reshape(*rows.shape[:-1], -1, lanes).swapaxes(-3, -2))

    def _halves(self, matrix: Tensor) -> np.ndarray:
        """`_blocks` of (layers, 2 n, inputs), each half of the outputs by itself."""
        return np.concatenate([self._blocks(half) for half in matrix.chunk(2, dim=1)], axis=1)
