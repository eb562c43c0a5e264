"""A small Mamba language model on a CPU against the same model, of the same weights, in transformers."""

import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

from ssm_seq.benchmark.measured import Measured, Peer
from ssm_seq.benchmark.timing import summary, wait
from ssm_seq.compat.checkpoints import save_checkpoint
from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import TOKENS
from ssm_seq.models import LanguageModel

MISSING = (
    "transformers is not installed, so the language model is measured alone; "
    "`pip install 'transformers>=5,<6'` for the comparison"
)
_OURS_EACH = 5  # runs of ours between two of theirs, which are that much slower and more


@dataclass(frozen=True)
class Contest:
    """One pass of both models. rounds: timed ones, after one to warm up; target: our speed over theirs."""

    length: int
    backward: bool
    rounds: int
    target: float


CONTESTS = (Contest(4096, False, 5, 10.0), Contest(1024, True, 2, 50.0))


def measure_against_transformers(
    config: ModelConfig | None = None, contests: tuple[Contest, ...] = CONTESTS, vocab: int = 256
) -> Iterator[Measured]:
    """tokens/s of both models, taking turns in one run, and the ratio of the medians.

    Without transformers only ours; then a sentence says so on stderr.

    Args:
        config: 4 layers x 128 if None.

    Raises:
        RuntimeError: the two models do not compute the same.
    """
    config = config or ModelConfig(d_model=128, n_layers=4)
    torch.manual_seed(0)
    ours = LanguageModel(config, vocab, TOKENS)
    theirs = in_transformers(ours)
    if theirs is None:
        print(MISSING, file=sys.stderr)
    for contest in contests:
        yield from _contest(contest, ours, theirs)


def library() -> ModuleType | None:
    """transformers, made quiet; None where it is missing."""
    # It looks for a package named `kernels`, and in a checkout finds the folder of that name.
    sys.modules.setdefault("kernels", None)
    try:
        import transformers
        from transformers.utils import logging
    except ImportError:
        return None
    logging.set_verbosity_error()  # that its CUDA kernels are missing is no news on a CPU
    logging.disable_progress_bar()
    return transformers


def in_transformers(model: LanguageModel) -> nn.Module | None:
    """The same weights as a MambaForCausalLM; None where transformers is missing."""
    if (transformers := library()) is None:
        return None
    with tempfile.TemporaryDirectory() as folder:
        save_checkpoint(model, Path(folder) / "model", "transformers")
        return transformers.MambaForCausalLM.from_pretrained(Path(folder) / "model", local_files_only=True)


def seconds_of_generate(theirs: nn.Module, ids: Tensor, length: int) -> float:
    """Of its own `generate` of the likeliest ids, so many of them behind ids (batch, positions)."""
    wait()
    begun = time.perf_counter()
    theirs.generate(ids, max_new_tokens=length, min_new_tokens=length, do_sample=False, use_cache=True)
    wait()
    return time.perf_counter() - begun


def _contest(contest: Contest, ours: LanguageModel, theirs: nn.Module | None) -> Iterator[Measured]:
    ids = torch.randint(ours.vocab_size, (1, contest.length + 1), generator=torch.Generator().manual_seed(1))
    inputs, targets = ids[:, :-1], ids[:, 1:].contiguous()
    runs = [(_ours(ours, inputs, targets, contest.backward), _OURS_EACH)]
    if theirs is not None:
        runs.append((_theirs(theirs, inputs, targets, contest.backward), 1))
    seconds: list[list[float]] = [[] for _ in runs]
    for number in range(contest.rounds + 1):
        results = []
        for (run, repeat), taken in zip(runs, seconds, strict=True):
            for _ in range(repeat):
                start = time.perf_counter()
                result = run()
                if number:  # the first round warms up
                    taken.append(time.perf_counter() - start)
            results.append(result)
        if number == 0 and len(results) == 2:
            _expect_same(*results)
    yield from _compared(contest, ours, *seconds)


def _compared(
    contest: Contest, model: LanguageModel, ours: list[float], theirs: list[float] | None = None
) -> Iterator[Measured]:
    config = model.config
    shape = f"{config.n_layers}x{config.d_model} (1,{contest.length})"
    name = f"model {'fwd+bwd' if contest.backward else 'fwd'} {shape}"
    library = f"transformers {version('transformers')}" if theirs is not None else ""
    (median, low, high), rival = summary(ours), summary(theirs).median if theirs is not None else None
    yield Measured(
        name,
        contest.length / median,
        "tokens/s",
        low=contest.length / high,
        high=contest.length / low,
        peer=None if rival is None else Peer(library, float(f"{contest.length / rival:.5g}")),
    )
    if rival is not None:
        yield Measured(f"{name} over {library}", rival / median, "x", target=contest.target)


def _ours(model: LanguageModel, inputs: Tensor, targets: Tensor, backward: bool) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.no_grad():
            return model(inputs)[0]

    def both() -> Tensor:
        model.zero_grad()
        loss = model.losses(inputs, targets)[0].mean()
        loss.backward()
        return loss.detach()

    return both if backward else forward


def _theirs(model: nn.Module, inputs: Tensor, targets: Tensor, backward: bool) -> Callable[[], Tensor]:
    def forward() -> Tensor:
        with torch.no_grad():
            return model(inputs, use_cache=False).logits

    def both() -> Tensor:
        model.zero_grad()
        logits = model(inputs, use_cache=False).logits
        loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
        loss.backward()
        return loss.detach()

    return both if backward else forward


def _expect_same(ours: Tensor, theirs: Tensor) -> None:
    apart = float((ours - theirs).abs().max())
    if not apart < 1e-3:
        raise RuntimeError(f"the two models' results are {apart:.3g} apart: times would compare nothing")
