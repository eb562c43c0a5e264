"""Sampling from a language model, one position after another in recurrent mode."""

import time
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ssm_seq.errors import InputError
from ssm_seq.inference.progress import progress_bar
from ssm_seq.inference.stream import Ids, carry, inference
from ssm_seq.layers import map_state
from ssm_seq.models import LanguageModel

PROMPT_CHUNK = 4096
_BEAT = 256  # steps between two updates of the progress bar
_WORTH_THREADS = 2**22  # multiplications of one projection; below, waking threads costs more than they save


@dataclass(frozen=True)
class Generated:
    """ids: (count, length) uint8 (int64 with more than 256 ids), without the prompt; seconds: for all steps,
    the prompt excluded."""

    ids: Ids
    seconds: float
    steps_per_second: float


def generate(
    model: LanguageModel,
    prompt: Ids,
    length: int,
    temperature: float = 1.0,
    top_p: float = 1.0,
    seed: int = 0,
    count: int = 1,
) -> Generated:
    """Continue `prompt` (positions,) uint8, `count` times, by `length` positions each.

    Without a prompt the first position is drawn uniformly. temperature 0 takes the likeliest id; top_p draws
    from the smallest set of ids that holds this much probability. Item i draws from a random stream made of
    (seed, i), whatever the other items are.

    Raises:
        InputError: a value out of its range.
    """
    _check(length, count, temperature, top_p, seed)
    device = next(model.parameters()).device
    draws = torch.stack([_uniform(seed, item, length) for item in range(count)]).to(device)
    ids = torch.empty(
        count, length, dtype=torch.uint8 if model.vocab_size <= 256 else torch.int64, device=device
    )
    with inference(model), _threads(model, count), progress_bar() as bar:
        logits, state = _read(model, prompt, count)
        task = bar.add_task("steps", total=length)
        start = time.perf_counter()
        for t in range(length):
            chosen = _sample(logits, draws[:, t], temperature, top_p)
            ids[:, t] = chosen
            if t + 1 < length:
                logits, state = model.step(chosen, state)
            if t % _BEAT == _BEAT - 1:
                bar.advance(task, _BEAT)
        result = ids.cpu().numpy()
        seconds = time.perf_counter() - start
    return Generated(result, seconds, length / seconds)


def _read(model: LanguageModel, prompt: Ids, count: int) -> tuple[Tensor, tuple]:
    """Logits (count, vocab_size) for the first position, and the state."""
    if not len(prompt):
        uniform = model.head.weight.new_zeros(count, model.vocab_size)
        return uniform, model.initial_state(count)
    pieces = (prompt[None, start : start + PROMPT_CHUNK] for start in range(0, len(prompt), PROMPT_CHUNK))
    _, logits, state = deque(carry(model, pieces), maxlen=1).pop()
    return logits[:, -1].expand(count, -1), map_state(lambda part: part.expand(count, *part.shape[1:]), state)


def _sample(logits: Tensor, draws: Tensor, temperature: float, top_p: float) -> Tensor:
    """One id for each row of logits (count, vocab_size), by inverting its distribution at draws (count,)."""
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = torch.softmax(logits.double() / temperature, dim=-1)
    if top_p < 1:
        probabilities, order = probabilities.sort(dim=-1, descending=True, stable=True)
        before = probabilities.cumsum(-1) - probabilities
        probabilities = torch.where(before < top_p, probabilities, 0)
    cumulative = probabilities.cumsum(-1)
    place = torch.searchsorted(cumulative, draws[:, None] * cumulative[:, -1:], right=True)
    place = place.clamp(max=logits.shape[1] - 1)  # a draw just below 1 may round up to the sum
    return (order.gather(1, place) if top_p < 1 else place)[:, 0]


def _uniform(seed: int, item: int, length: int) -> Tensor:
    """The item's draws for all its steps, float64 (length,) in [0, 1)."""
    mixed: NDArray[np.uint64] = np.random.SeedSequence([seed, item]).generate_state(1, np.uint64)
    generator = torch.Generator().manual_seed(int(mixed[0] >> np.uint64(1)))
    return torch.rand(length, generator=generator, dtype=torch.float64)


@contextmanager
def _threads(model: LanguageModel, count: int) -> Iterator[None]:
    """One thread for small steps on the CPU: with several a step took up to ten times as long."""
    threads = torch.get_num_threads()
    if count * model.config.d_model**2 * model.config.expand < _WORTH_THREADS:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _check(length: int, count: int, temperature: float, top_p: float, seed: int) -> None:
    for name, value in (("length", length), ("count", count)):
        if value < 1:
            raise InputError(f"generate.{name}={value}: expected a positive whole number")
    for name, value in (("temperature", temperature), ("seed", seed)):
        if value < 0:
            raise InputError(f"generate.{name}={value}: expected 0 or more")
    if not 0 < top_p <= 1:
        raise InputError(f"generate.top_p={top_p}: expected more than 0 and at most 1")
