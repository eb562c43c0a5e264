"""What an edit costs with prefix reuse, beside the whole window: prefix_reuse_DEVICE.json.

    ssm-seq train --store results/stores/genomes --out results/genome experiment=species task=language_model \
        model.d_model=128 model.n_layers=4 data.window=1024 optim.batch_size=4 optim.steps=250
    python docs/results/prefix_reuse.py results/genome/model docs/results/prefix_reuse_cpu.json

On a GPU the model is one of model.d_model=256 model.n_layers=8.
"""

import argparse
import copy
import platform
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ssm_seq.data.alphabet import DNA
from ssm_seq.data.fasta import read_fasta
from ssm_seq.files import write_json
from ssm_seq.inference import Edit, Prefix, State, concatenate, score_record
from ssm_seq.inference.prefix import FLOOR
from ssm_seq.inference.score_chunk import choose_chunk
from ssm_seq.models import LanguageModel, load_model
from ssm_seq.training.run_record import git_commit, processor

GENOME = "data/demo/genomes/ecoli_mg1655.fa.gz"
START = 2_000_000
EDITS = {"cpu": 48, "cuda": 2048}


def random_edits(ids: np.ndarray, count: int) -> list[Edit]:
    """Half substitutions, a quarter insertions and a quarter deletions of three bases, anywhere."""
    random, edits = np.random.default_rng(1), []
    for number in range(count):
        start, new = int(random.integers(len(ids) - 3)), random.integers(0, 4, 3).astype(np.uint8)
        substitution = Edit(start, start + 1, (ids[start : start + 1] + 1) % 4)
        insertion, deletion = Edit(start, start, new), Edit(start, start + 3, new[:0])
        edits.append([substitution, insertion, substitution, deletion][number % 4])
    return edits


def timed(call: Callable[[], Any]) -> tuple[Any, float]:
    """What it returns, which is on the CPU by then, and its seconds."""
    start = time.perf_counter()
    return call(), time.perf_counter() - start


@torch.inference_mode()
def side_by_side(model: LanguageModel, window: np.ndarray, edit: Edit) -> float:
    """What `Prefix.score` estimates, of an edit behind the first position: both sequences read to the end.

    Behind the edit they are one batch, so that what is alike in both is rounded alike: differences of
    rounding, as other shapes have them on a GPU, could add up to more than what is left out.
    """
    ids, chunk = torch.tensor(window, device=model.head.weight.device).long(), choose_chunk(model) // 2
    start, end = edit.start - 1, min(edit.end + 64, len(ids))
    following = torch.cat([ids[1:], ids.new_full((1,), -1)])  # nothing follows the last one
    state, states, nats = model.initial_state(1), [], []
    for first in range(0, start, chunk):
        _, state = model.backbone(ids[None, first : min(first + chunk, start)], state)
    edited = torch.cat([ids[start : edit.start], torch.tensor(edit.ids).to(ids), ids[edit.end : end]])
    for piece in (ids[start:end], edited):
        targets = torch.cat([piece[1:], following[end - 1 : end]])
        costs, after = model.losses(piece[None], targets[None], state)
        nats.append(costs.sum(dtype=torch.float64))
        states.append(State(after))
    score, both = nats[0] - nats[1], concatenate(states).parts
    for first in range(end, len(ids), chunk):
        pair = (part[first : first + chunk].expand(2, -1) for part in (ids, following))
        costs, both = model.losses(*pair, both)
        score += (costs[0] - costs[1]).sum(dtype=torch.float64)
    return score.item()


def largest(scores: Iterable[float], truth: Iterable[float]) -> float:
    """The largest error over the score, which counts as 0.1 nats where it is less."""
    return max(abs(one - other) / max(abs(other), FLOOR) for one, other in zip(scores, truth, strict=True))


def measure(model: LanguageModel, ids: np.ndarray, exact: int) -> Iterator[dict[str, Any]]:
    """Records of one window; the first `exact` edits are also read to the end, in two ways."""
    device = next(model.parameters()).device.type
    count = EDITS[device]
    score_record(model, lambda a, b: ids[a:b], len(ids))  # compiles
    _, whole = timed(lambda: score_record(model, lambda a, b: ids[a:b], len(ids)))
    prefix, reference = timed(lambda: Prefix(model, ids))
    edits = random_edits(ids, count)
    prefix.score(edits[:48])
    scores, seconds = timed(lambda: prefix.score(edits))
    read = np.array([score.computed for score in scores])
    # Kernels for GPUs have no float64, so there one float32 reading is compared with another.
    judge = copy.deepcopy(model).double() if device == "cpu" else model
    truth = [side_by_side(judge, ids, edit) for edit in edits[:exact]]
    in_blocks = [score.nats for score in prefix.score(edits[:exact], tolerance=0)]
    found = [score.nats for score in scores[:exact]]
    target = {"target": 50} if len(ids) == 2**20 else {}
    times = len(ids) / np.array([read.mean(), np.quantile(read, 0.9), np.quantile(read, 0.1)])
    for name, unit, value, more in [
        ("read whole", "s", whole, {}),
        ("reference read once, states kept", "s", reference, {}),
        (f"an edit, mean of {count}", "s", seconds / count, {}),
        ("whole over an edit, time", "x", whole * count / seconds, target),
        ("whole over an edit, positions", "x", times[0], {"low": times[1], "high": times[2]} | target),
        ("positions of an edit, mean", "", read.mean(), {}),
        ("positions of an edit, median", "", np.median(read), {}),
        (f"largest error of {exact} edits over the score", "", largest(found, truth), {"target": 1e-3}),
        ("the same where all is read, by rounding alone", "", largest(in_blocks, truth), {}),
    ]:
        figures = {"value": value} | more
        rounded = {key: float(f"{figure:.4g}") for key, figure in figures.items()}
        yield {"name": f"window of {len(ids)}, {name}", "unit": unit} | rounded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model", type=Path, help="folder of a trained model")
    parser.add_argument("out", type=Path, help="the result file")
    parser.add_argument("--commit", help="what is measured, where it is not git's HEAD")
    options = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(options.model, device)
    _, chunks = next(read_fasta(GENOME))
    genome = DNA.encode(b"".join(chunks))
    records = [
        record
        for length, exact in ((2**16, 48), (2**20, 6))
        for record in measure(model, genome[START : START + length], exact)
    ]
    size = f"{model.config.n_layers} x {model.config.d_model} {model.config.layer}, trained for 250 steps"
    threads = f"{processor()}, {torch.get_num_threads()} threads"
    about = {
        "what": f"Prefix reuse, {size}, float32, tolerance 1e-3, random edits of E. coli",
        "command": f"python docs/results/prefix_reuse.py {options.model} {options.out}",
        "commit": options.commit or git_commit(),
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": torch.cuda.get_device_name() if device.type == "cuda" else threads,
        "software": f"torch {torch.__version__}, Python {platform.python_version()}",
    }
    write_json(options.out, about | {"records": records})


if __name__ == "__main__":
    main()
