"""One loop for all tasks. Killed at any moment and started again it goes on from its last checkpoint.

On a CPU, with the same number of threads, an interrupted run ends with the weights of an uninterrupted one,
bit
for bit: a checkpoint holds weights, optimiser, the place in the data and every random generator.
"""

import json
import math
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ssm_seq.config import Config, expect_at_least
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError
from ssm_seq.files import only_run_in, write_json
from ssm_seq.models import Regressor
from ssm_seq.training.batches import losses
from ssm_seq.training.checkpoint import Checkpoints, identity, load_weights
from ssm_seq.training.gradients import Gradients
from ssm_seq.training.metrics_log import MetricsLog
from ssm_seq.training.optimizer import new_optimizer, schedule, set_learning_rates
from ssm_seq.training.progress import TrainingProgress
from ssm_seq.training.randomness import random_state, restore_random_state, seed_everything
from ssm_seq.training.run_record import run_record
from ssm_seq.training.source import check_task, source_of


@dataclass
class Progress:
    """How far a run is. seconds: wall time of all its parts; step_seconds: of the training steps alone.

    recent: losses since the last line of metrics; recent_tokens, recent_seconds: their tokens and step
        seconds.
    """

    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    step_seconds: float = 0.0
    recent: list[float] = field(default_factory=list)
    recent_tokens: int = 0
    recent_seconds: float = 0.0


def train(config: Config, store: Store | None, out: Path, device: torch.device | str = "cpu") -> None:
    """Train the model that `config` describes on the store's train split; without a store, on its task.

    Writes `model/`, `metrics.jsonl` and `run.json` into `out`, each whole or not at all. Until all are there
    the run lives in `out/checkpoints/`; started again with the same values it goes on from there.

    Raises:
        InputError: the store doesn't suit the task, a checkpoint doesn't fit, another run writes into `out`,
            or the loss is no longer finite.
    """
    out = Path(out)
    _check_values(config)
    check_task(config, store)
    with only_run_in(out):
        run = Run(config, store, torch.device(device))
        checkpoints = Checkpoints(out / "checkpoints", identity(config, store))
        if newest := checkpoints.newest():
            run.restore(*newest)
        events = out / "tensorboard" if config.optim.tensorboard else None
        with MetricsLog(checkpoints.folder / "metrics.jsonl", run.progress.step, events) as log:
            _go_on(run, checkpoints, log)
            log.copy(out / "metrics.jsonl")
        run.model.save(out / "model")
        write_json(out / "run.json", run.record())
        checkpoints.remove()


def _check_values(config: Config) -> None:
    counts = ("steps", "batch_size", "accumulate", "log_every", "valid_every", "checkpoint_every")
    rates = ("lr", "ssm_lr", "eps", "weight_decay", "warmup_steps", "min_lr_ratio", "valid_batches")
    expect_at_least(config, {f"optim.{name}": 1 for name in counts} | {f"optim.{name}": 0 for name in rates})
    expect_at_least(config, {"data.window": 2, "data.soft_mask_weight": 0, "optim.seed": 0})
    optim = config.optim
    for name, rate in optim.ssm_lrs.items():
        if not rate >= 0:
            raise InputError(f"optim.ssm_lrs.{name}={rate}: expected 0 or more")
    if not optim.clip > 0:
        raise InputError(f"optim.clip={optim.clip}: expected more than 0 (inf for no clipping)")
    if len(optim.betas) != 2 or not all(0 <= beta < 1 for beta in optim.betas):
        raise InputError(f"optim.betas={optim.betas}: expected two numbers of at least 0 and below 1")
    if optim.precision not in ("bfloat16", "float32"):
        raise InputError(f"optim.precision={optim.precision}: expected bfloat16 or float32")


class Run:
    """All that changes while a model is trained; between steps it can be taken apart and put together."""

    def __init__(self, config: Config, store: Store | None, device: torch.device) -> None:
        self.config, self.store, self.device = config, store, device
        seed_everything(config.optim.seed)
        self.source = source_of(config, store, device)
        self.model = self.source.new_model().to(device)
        self.optimizer = new_optimizer(self.model, config.optim)
        self.gradients = Gradients(self.model, config.optim.precision)
        self.progress = Progress()

    def state(self) -> dict[str, Any]:
        """Tensors, numbers and text from which `restore` goes on exactly."""
        return {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "source": self.source.state(),
            "progress": json.dumps(asdict(self.progress)),
            "random": random_state(),
        }

    def restore(self, path: Path, state: dict[str, Any]) -> None:
        """Go on from the `state` that was read from the checkpoint `path`."""
        load_weights(path, self.model, state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.source.load_state(state["source"])
        self.progress = Progress(**json.loads(state["progress"]))
        restore_random_state(state["random"])

    def take_step(self) -> float:
        """One optimiser step over `accumulate` batches; returns the norm of the gradient before clipping.

        Raises:
            InputError: the loss or the gradient is not finite.
        """
        optim, progress = self.config.optim, self.progress
        started = time.perf_counter()
        self.model.train()
        set_learning_rates(self.optimizer, progress.step, optim)
        batches = [self.source.next() for _ in range(optim.accumulate)]
        loss = self.gradients(batches)
        norm = nn.utils.clip_grad_norm_(self.model.parameters(), optim.clip)
        if not math.isfinite(loss) or not math.isfinite(norm):
            raise InputError(
                f"step {progress.step + 1}: the loss is {loss:.4g} and the norm of its gradient {norm:.4g}, "
                f"expected finite numbers; lower optim.lr ({optim.lr:g}) or optim.ssm_lr ({optim.ssm_lr:g})"
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        seconds = time.perf_counter() - started
        tokens = sum(batch.inputs.numel() for batch in batches)
        progress.step += 1
        progress.tokens += tokens
        progress.step_seconds += seconds
        progress.recent.append(float(loss))
        progress.recent_tokens += tokens
        progress.recent_seconds += seconds
        return float(norm)

    def training_line(self, norm: float) -> dict[str, float]:
        """A line of metrics: the mean loss (nats) since the last one, and the last step's rate and norm."""
        progress = self.progress
        line = {
            "step": progress.step,
            "loss": math.fsum(progress.recent) / len(progress.recent),
            "lr": self.config.optim.lr * schedule(progress.step - 1, self.config.optim),
            "grad_norm": norm,
            "seconds": round(progress.seconds, 3),
            "tokens_per_second": round(progress.recent_tokens / progress.recent_seconds, 1),
        }
        progress.recent, progress.recent_tokens, progress.recent_seconds = [], 0, 0.0
        return line

    @torch.no_grad()
    def validation_line(self) -> dict[str, float] | None:
        """A line of metrics from fixed batches to validate on; None if there are none.

        valid_loss is weighted like the training loss; valid_bits_per_byte counts every definite symbol alike.
        """
        self.model.eval()
        loss = weight = bits = correct = known = 0.0
        for batch in self.source.validation():
            each, logits = losses(self.model, batch, self.config.optim.precision)
            loss += float((each * batch.weights).sum())
            weight += float(batch.weights.sum())
            bits += float(each[batch.known].sum()) / math.log(2)
            if logits is not None:
                correct += float((logits.argmax(-1) == batch.targets).sum())
            known += float(batch.known.sum())
        if not weight:
            return None
        score = {"valid_accuracy": correct / known}
        if self.config.task.name == "language_model":
            score = {"valid_bits_per_byte": bits / known}
        if isinstance(self.model, Regressor):
            score = {"valid_rms_error": math.sqrt(loss / weight)}
        return {"step": self.progress.step, "valid_loss": loss / weight, **score}

    def record(self) -> dict[str, Any]:
        """The content of run.json."""
        progress = self.progress
        return run_record(self.config, self.store, self.model, self.device) | {
            "steps": progress.step,
            "seconds": round(progress.seconds, 3),
            "tokens": progress.tokens,
            "tokens_per_second": round(progress.tokens / progress.step_seconds, 1),
        }


def _go_on(run: Run, checkpoints: Checkpoints, log: MetricsLog) -> None:
    """Train from where the run is to its last step, with metrics, validation and checkpoints on the way."""
    optim, progress = run.config.optim, run.progress
    earlier, started = progress.seconds, time.perf_counter()

    def due(every: int) -> bool:
        return progress.step % every == 0 or progress.step == optim.steps

    with TrainingProgress(progress.step, optim.steps) as shown:

        def report(line: dict[str, float]) -> None:
            log.write(line)
            shown.metrics(line)

        if progress.step:
            shown.say(f"going on after step {progress.step}")
        if run.store and "valid" not in run.store.split_names:
            shown.say("the store has no valid split: no validation")
        while progress.step < optim.steps:
            norm = run.take_step()
            progress.seconds = earlier + time.perf_counter() - started
            if due(optim.log_every):
                report(run.training_line(norm))
            if due(optim.valid_every) and (line := run.validation_line()):
                report(line)
            if due(optim.checkpoint_every):
                log.sync()
                checkpoints.save(progress.step, run.state())
            shown.advance(progress.step)
        progress.seconds = earlier + time.perf_counter() - started
