"""All models of a task on one device, many at a time: NAME_DEVICE.json.

    python docs/results/tasks.py induction_heads --out docs/results/induction_heads_h200.json --seeds 0,1,2

The models (points) and seeds are those of config/workflow.yaml; `snakemake results/tasks/NAME/result.json`
makes the same ones one after another. A small model leaves most of a GPU idle, so here each is a process of
its own, and all share one device. The file is written anew whenever a run is finished. After --minutes a run
that is not at its end is judged as its last checkpoint has it, or its first, if it has none by then, and its
record says after how many steps. The figure: python -m ssm_seq.reporting.task_figure FILE.json
"""

import argparse
import contextlib
import json
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from ssm_seq.commands.device import choose_device
from ssm_seq.commands.evaluate_task import evaluate_task
from ssm_seq.config import Config, compose
from ssm_seq.errors import InputError
from ssm_seq.files import write_json
from ssm_seq.models import load_model
from ssm_seq.reporting.task_results import task_result
from ssm_seq.training import train
from ssm_seq.training.checkpoint import Checkpoints, identity
from ssm_seq.training.loop import Run

ROOT = Path(__file__).parents[2]


class TimeIsUp(Exception):
    """Raised in a run by the signal that ends its training."""


def end_training(folder: Path) -> None:
    """Handle a signal, which comes again until there is a checkpoint to go by."""
    if any(folder.glob("checkpoints/*/*.pt")):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise TimeIsUp


def work(overrides: list[str], folder: Path) -> None:
    """Train and evaluate one model, in a process of its own; SIGTERM ends the training."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "log").open("w") as log:
        os.dup2(log.fileno(), 2)
    torch.set_num_threads(1)
    config = compose(overrides, ROOT / "config")
    device = choose_device(config.device)
    signal.signal(signal.SIGTERM, lambda *_: end_training(folder))
    try:
        train(config, None, folder, device)
    except TimeIsUp:
        keep_last_checkpoint(config, folder, device)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    started = time.perf_counter()
    write_json(folder / "evaluation.json", evaluate_task(config, load_model(folder / "model", device)))
    print(f"evaluated in {time.perf_counter() - started:.1f} s", file=sys.stderr)


def keep_last_checkpoint(config: Config, folder: Path, device: torch.device) -> None:
    """Leave the model and the record that `train` would have left, of the newest checkpoint."""
    newest = Checkpoints(folder / "checkpoints", identity(config, None)).newest()
    if newest is None:
        raise InputError(f"{folder}: the time was up before the first checkpoint")
    run = Run(config, None, device)
    run.restore(*newest)
    run.model.save(folder / "model")
    write_json(folder / "run.json", run.record())


def last_lines(folder: Path) -> str:
    """The newest loss and validation of a run, in a few words."""
    files = [*folder.glob("checkpoints/*/metrics.jsonl"), *folder.glob("metrics.jsonl")]
    merged: dict[str, Any] = {}
    for line in files[0].read_text().splitlines() if files else ():
        with contextlib.suppress(ValueError):  # half written
            merged |= json.loads(line)
    shown = {"step": "d", "seconds": ".0f", "loss": ".2e", "valid_accuracy": ".4f"}
    return " ".join(f"{name} {merged[name]:{form}}" for name, form in shown.items() if name in merged)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("task", help="a name under `tasks` in config/workflow.yaml")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="Hydra overrides of all points")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--points", help="these alone, such as mamba,s4/0: mamba, and s4 with seed 0 alone")
    parser.add_argument("--seeds", help="instead of those of workflow.yaml, such as 0,1")
    parser.add_argument("--jobs", type=int, default=8, help="processes at a time")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="of training")
    parser.add_argument("--commit", help="what is measured, where it is not git's HEAD")
    parser.add_argument("--work", type=Path, help="folder of the runs; what is finished there is kept")
    options = parser.parse_intermixed_args(arguments)
    described = yaml.safe_load((ROOT / "config/workflow.yaml").read_text())["tasks"][options.task]
    folder = options.work or Path(tempfile.mkdtemp())
    points = options.points.split(",") if options.points else list(described["points"])
    points = [point.partition("/")[::2] for point in points]
    if unknown := [name for name, _ in points if name not in described["points"]]:
        parser.error(f"{options.task} has no point {unknown[0]!r}; known: {', '.join(described['points'])}")
    seeds = options.seeds.split(",") if options.seeds else [str(seed) for seed in described["seeds"]]
    jobs = [(name, seed, folder / name / seed) for seed in seeds for name, own in points if own in ("", seed)]
    waiting = [job for job in jobs if not (job[2] / "evaluation.json").exists()]
    running: dict[Path, multiprocessing.Process] = {}
    command = f"python docs/results/tasks.py {shlex.join(sys.argv[1:] if arguments is None else arguments)}"

    def write() -> list[dict[str, Any]]:
        result = task_result(folder, command, list(described["points"]))
        write_json(options.out, result | ({"commit": options.commit} if options.commit else {}))
        return result["records"]

    context, started, shown = multiprocessing.get_context("fork"), time.monotonic(), time.monotonic()
    try:
        while waiting or running:
            if time.monotonic() - started > 60 * options.minutes:
                waiting.clear()
                for process in running.values():
                    process.terminate()
            while waiting and len(running) < options.jobs:
                point, seed, place = waiting.pop(0)
                overrides = [f"experiment={options.task}", *described["points"][point].split()]
                overrides += [f"optim.seed={seed}", *options.overrides]
                running[place] = context.Process(target=work, args=(overrides, place))
                running[place].start()
            time.sleep(0.2)
            for place, process in list(running.items()):
                if process.exitcode is not None:
                    del running[place]
                    print(f"{place.parent.name} {place.name}: exit code {process.exitcode}", flush=True)
                    if process.exitcode == 0:
                        write()
                    else:
                        print((place / "log").read_text()[-2000:], flush=True)
            if time.monotonic() - shown > 20:
                shown = time.monotonic()
                print(f"after {shown - started:.0f} s")
                for place in running:
                    print(f"  {place.parent.name} {place.name}: {last_lines(place)}", flush=True)
    except KeyboardInterrupt:
        print("stopped")
    for place, process in running.items():
        process.kill()
        process.join()
        print(f"unfinished: {place.parent.name} {place.name}: {last_lines(place)}")
    try:
        records = write()
    except InputError as error:
        print(error)
        return 2
    for record in records:
        print(f"{record['name']}: {record['of_seeds']} {record['training_seconds']} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
