"""The streaming scorer: time and memory by length, agreement of chunks, a chromosome end to end.

The model is of DNA, with random weights: 8 x 256 on a GPU, 4 x 128 on a CPU (time and memory alone). The
chromosome is brought by `python -m ssm_seq.data.sources human-chr20.fa.gz data/sources/human-chr20.fa.gz`.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyBigWig
import torch
from torch import Tensor

from ssm_seq.benchmark.cases import MILLION, Case
from ssm_seq.benchmark.floors import is_h100
from ssm_seq.benchmark.inputs import ready
from ssm_seq.benchmark.measured import Measured, Peer
from ssm_seq.benchmark.timing import allocated, milliseconds, peak_gib, summary
from ssm_seq.config import ModelConfig
from ssm_seq.data.alphabet import DNA
from ssm_seq.errors import InputError
from ssm_seq.inference.replay import without_collections
from ssm_seq.inference.score import read_pieces, score_record
from ssm_seq.inference.score_values import LOG_LIKELIHOOD
from ssm_seq.inference.state import State, concatenate
from ssm_seq.inference.stream import Ids, inference
from ssm_seq.inference.tracks_bigwig import write_bigwig
from ssm_seq.layers import map_state
from ssm_seq.models import LanguageModel


class Pass(NamedTuple):
    """at_once: the whole length is one chunk, whatever memory that takes."""

    length: int
    precision: str = "bfloat16"
    at_once: bool = False

    @property
    def name(self) -> str:
        return f"score 8x256 (1,{self.length}) {self.precision}{' at once' if self.at_once else ''}"


PASSES = (Pass(MILLION), Pass(MILLION, at_once=True), Pass(MILLION, "float32"))
PASSES += (Pass(16 * MILLION), Pass(64 * MILLION))
CHROMOSOME, CHROMOSOME_LENGTH = Path("data/sources/human-chr20.fa.gz"), 63_025_520
_BLOCK = 1 << 20  # values that are handed to pyBigWig at a time
CHUNKS = (4096, 65536)
SHORT = (1, 7)  # these are read in STRETCHES stretches side by side, each from the state at its start
STRETCHES = 256
AGREEMENT = {"float32": 1e-4, "bfloat16": 2e-2}  # nats


class Job(NamedTuple):
    """planned: the figures that `run` gives, without their values."""

    planned: list[Measured]
    run: Callable[[], Iterator[Measured]]


def jobs(device: torch.device) -> Iterator[Job]:
    """Everything that is measured; on a GPU targets and the recorded peer on an H100 alone."""
    if device.type == "cpu":
        name = f"score 4x128 (1,{MILLION})"
        planned = [
            Measured(name, unit="s", target=40),
            Measured(f"{name}: resident memory", unit="GiB", target=1.5),
        ]
        yield Job(planned, partial(_measure_on_cpu, planned))
        planned = Measured(f"bigWig of {CHROMOSOME_LENGTH} values, written", unit="s")
        yield Job([planned], partial(_measure_bigwig, planned))
        return
    for one in PASSES:
        planned = plan(one, is_h100(device))
        yield Job([planned], partial(_measure_pass, planned, one, device))
    target = 30 if is_h100(device) else None
    name = f"human chr20, {CHROMOSOME_LENGTH} positions"
    planned = [
        Measured(f"{name}, from FASTA to bigWig", unit="s", target=target),
        Measured(f"{name}, the model's pass in it", unit="s"),
    ]
    yield Job(planned, partial(_measure_chromosome, planned))
    for precision, target in AGREEMENT.items():
        planned = [
            Measured(f"{what}, {precision}: largest difference", unit="nats", target=target)
            for what in (
                *(f"whole against chunks of {chunk}" for chunk in CHUNKS),
                *(f"whole against chunks of {chunk} in {STRETCHES} stretches" for chunk in SHORT),
            )
        ]
        again = Measured(f"chunks of {CHUNKS[-1]} twice, {precision}: values that", unit="differ", target=0)
        yield Job([*planned, again], partial(_measure_agreement, [*planned, again], precision, device))


def new_model(device: torch.device) -> LanguageModel:
    torch.manual_seed(0)
    return LanguageModel(ModelConfig(d_model=256, n_layers=8), DNA.size, DNA.name).to(device).eval()


def random_bases(length: int) -> Ids:
    return np.random.default_rng(0).integers(0, 4, length, dtype=np.uint8)


def plan(one: Pass, known: bool) -> Measured:
    """known: on the GPU that targets and recorded figures are for."""
    if not known or one.precision != "bfloat16":
        return Measured(one.name)
    peak = None if one.at_once else 1
    if one.length != MILLION:
        return Measured(one.name, peak_target=peak)
    peer = Peer("mamba-ssm", 139.6, recorded=True, note="forward")
    return Measured(one.name, target=60, peak_target=peak, peer=peer)


def _measure_pass(planned: Measured, one: Pass, device: torch.device) -> Iterator[Measured]:
    """From ids in memory to the log-likelihood of every position in memory; wall time, all work included."""
    length, half, chunk = one.length, one.precision == "bfloat16", one.length if one.at_once else None
    model, ids = new_model(device), random_bases(length)
    weights = allocated(device)

    def run() -> None:
        values = np.empty(length, np.float32)

        def sink(start: int, part: dict[str, np.ndarray]) -> None:
            values[start : start + len(part[LOG_LIKELIHOOD])] = part[LOG_LIKELIHOOD]

        read = lambda start, end: ids[start:end]  # noqa: E731
        score_record(model, read, length, chunk, [LOG_LIKELIHOOD], sink, half=half)

    score_record(model, lambda a, b: ids[a:b], min(length, MILLION), chunk, half=half)
    samples = []

    def timed() -> None:
        start = time.perf_counter()
        run()
        samples.append((time.perf_counter() - start) * 1e3)

    peak = peak_gib(timed, device, weights)
    for _ in range(4 if length == MILLION else 0):
        timed()
    times = summary(samples)
    alone = _layers_alone(model, device) if one == PASSES[0] else {}
    yield replace(planned, value=times.median, low=times.low, high=times.high, peak=peak, floors=alone)


def _layers_alone(model: LanguageModel, device: torch.device) -> dict[str, float]:
    """Milliseconds of the scans of all layers, and of the mixers that they are in, over the whole length at
    once: what the rest of a pass comes on top of."""
    config, found = model.config, {}
    inner = config.expand * config.d_model
    for what, kernel, channels in (("scans", "scan", inner), ("mixers", "mixer", config.d_model)):
        run = ready(Case(kernel, 1, channels, MILLION, config.d_state), device).run
        with torch.no_grad():
            run()
            found[what] = config.n_layers * milliseconds(run, device).median
    return found


def _measure_on_cpu(planned: list[Measured]) -> Iterator[Measured]:
    """With all that the process holds beside the scorer."""
    torch.manual_seed(0)
    model, ids = (
        LanguageModel(ModelConfig(d_model=128, n_layers=4), DNA.size, DNA.name),
        random_bases(MILLION),
    )
    score_record(model, lambda a, b: ids[a:b], MILLION // 64)  # compiles
    score = score_record(model, lambda a, b: ids[a:b], MILLION)
    time, memory = planned
    yield replace(time, value=score.seconds)
    yield replace(memory, value=max(point["resident_mib"] for point in score.memory) / 1024)


def _measure_agreement(planned: list[Measured], precision: str, device: torch.device) -> Iterator[Measured]:
    """Over 1,048,576 positions."""
    model, ids, half = new_model(device), random_bases(MILLION), precision == "bfloat16"
    expected, _ = likelihoods(model, ids, MILLION, half)
    figures = iter(planned)
    for chunk in CHUNKS:
        found, _ = likelihoods(model, ids, chunk, half)
        yield replace(next(figures), value=_largest(found - expected))
    size = MILLION // STRETCHES
    _, states = likelihoods(model, ids, size, half)
    rows = torch.tensor(ids, device=device).long().view(STRETCHES, size)
    for chunk in SHORT:
        found = in_a_graph(model, rows, states, chunk, half).flatten()
        yield replace(next(figures), value=_largest(found - expected))
    one, other = (likelihoods(model, ids, CHUNKS[-1], half)[0] for _ in range(2))
    yield replace(next(figures), value=float((one != other).sum()))


def _largest(difference: Tensor) -> float:
    return difference.abs().max().item()


def likelihoods(model: LanguageModel, ids: Ids, chunk: int, half: bool) -> tuple[Tensor, State]:
    """Log-likelihoods (length,) read in chunks, and the states before each of them as one batch."""
    begin = State(model.initial_state(1), torch.zeros(1, model.vocab_size, device=model.head.weight.device))
    values, states = [], [begin]
    with inference(model):
        for piece in read_pieces(model, lambda a, b: ids[a:b], len(ids), chunk, half=half):
            assert piece.chunk == chunk
            values.append(piece.values[LOG_LIKELIHOOD])
            states.append(piece.state)
    return torch.cat(values), concatenate(states[:-1])


def in_a_graph(model: LanguageModel, ids: Tensor, state: State, chunk: int, half: bool) -> Tensor:
    """Log-likelihoods (rows, length) of ids (rows, length) after a state, `chunk` positions at a time.

    A chunk of one position is a step. The rounds but the last, shorter one are replays of one graph.
    """
    place, values = torch.arange(chunk, device=ids.device), torch.empty(ids.shape, device=ids.device)
    logits, parts = state.logits.clone(), map_state(torch.clone, state.parts)
    moving = [logits]
    map_state(moving.append, parts)

    def read() -> None:
        now = ids.index_select(1, place)
        with torch.autocast(ids.device.type, torch.bfloat16, enabled=half):
            if len(place) == 1:
                hidden, after = model.backbone.step(now[:, 0], parts)
                hidden = hidden[:, None]
            else:
                hidden, after = model.backbone(now, parts)
        following = model.logits(hidden.float())
        expected = torch.cat([logits[:, None], following[:, :-1]], dim=1).log_softmax(-1)
        values.index_copy_(1, place, expected.gather(-1, now[..., None])[..., 0])
        new = [following[:, -1]]
        map_state(new.append, after)
        for old, tensor in zip(moving, new, strict=True):
            old.copy_(tensor)
        place.add_(chunk)

    with inference(model):
        read()  # compiles
        rounds, rest = divmod(ids.shape[1] - chunk, chunk)
        if ids.is_cuda:
            graph = torch.cuda.CUDAGraph()
            with without_collections(), torch.cuda.graph(graph):
                read()
            for _ in range(rounds):
                graph.replay()
        else:
            for _ in range(rounds):
                read()
        if rest:
            place = place[:rest]
            read()
    return values


def _measure_chromosome(planned: list[Measured]) -> Iterator[Measured]:
    """The command as a user runs it, from its start to its end: log-likelihood and entropy as bigWig."""
    if not CHROMOSOME.exists():
        raise InputError(f"{CHROMOSOME}: no such file; python -m ssm_seq.data.sources brings it")
    with tempfile.TemporaryDirectory() as folder:
        model, out, tracks = (Path(folder) / name for name in ("model", "score.json", "tracks"))
        new_model(torch.device("cpu")).save(model)
        command = [sys.executable, "-m", "ssm_seq.commands.cli", "score", "--model", model]
        command += ["--input", CHROMOSOME, "--out", out, "--tracks", tracks]
        # On all cores: the threads of bench are for figures of a CPU.
        free = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
        start = time.perf_counter()
        subprocess.run(command, check=True, env=free)
        yield replace(planned[0], value=time.perf_counter() - start)
        [record] = json.loads(out.read_text())["records"]
        assert record["length"] == CHROMOSOME_LENGTH
        yield replace(planned[1], value=record["seconds"])


def _measure_bigwig(planned: Measured) -> Iterator[Measured]:
    """Values like log-likelihoods, written by this library and by pyBigWig."""
    values = np.log(np.random.default_rng(0).random(CHROMOSOME_LENGTH, np.float32) + 1e-3)
    with tempfile.TemporaryDirectory() as folder:
        path, records = Path(folder) / "track.bw", [("20", len(values))]
        start = time.perf_counter()
        write_bigwig(path, records, lambda _, first, end: values[first:end], torch.get_num_threads())
        seconds = time.perf_counter() - start
        start = time.perf_counter()
        file = pyBigWig.open(str(path), "w")
        file.addHeader(records)
        for first in range(0, len(values), _BLOCK):
            file.addEntries("20", first, values=values[first : first + _BLOCK], span=1, step=1)
        file.close()
        peer = Peer(f"pyBigWig {pyBigWig.__version__}", time.perf_counter() - start)
    yield replace(planned, value=seconds, peer=peer)
