"""A model on the test sequences of a task, by their length."""

import math
import time
from typing import Any

import torch

from ssm_seq.config import Config, expect_at_least
from ssm_seq.errors import InputError
from ssm_seq.evaluation.proportion import wilson
from ssm_seq.inference.answers import relative_mean_square, relative_squares, right_answers
from ssm_seq.models import Classifier, LanguageModel, Regressor
from ssm_seq.tasks import task_of


def evaluate_task(config: Config, model: Classifier | LanguageModel | Regressor) -> dict[str, Any]:
    """The content of evaluation.json for a task without a store.

    For each size in `evaluate.lengths` a figure over at most `evaluate.max_windows` test sequences, read in
    chunks of `evaluate.chunk` positions in `optim.precision`, with a 95 % interval over independent
    sequences: `accuracy`, the share of right answers, and `whole`, that of sequences without a wrong one; for
    a regressor `rms_error`, of the answers relative to the true ones, and what the task's simple rule, if it
    has one, makes of the same sequences (`beside`: its name, `beside_value`).

    Raises:
        InputError: the model was not made for the task's ids.
    """
    counts = ("lengths", "max_windows", "batch_size", "chunk")
    expect_at_least(config, {f"evaluate.{name}": 1 for name in counts} | {"evaluate.seed": 0})
    task, settings = task_of(config), config.evaluate
    if (model.vocab_size, model.alphabet) != (task.vocab_size, task.alphabet):
        raise InputError(
            f"task.name={config.task.name}: its {task.vocab_size} ids ({task.alphabet}) are not the "
            f"{model.vocab_size} ids ({model.alphabet}) of the model"
        )
    device, started, results = next(model.parameters()).device, time.perf_counter(), []
    half = device.type == "cuda" and config.optim.precision == "bfloat16"
    judge = relative_squares if isinstance(model, Regressor) else right_answers
    for length in settings.lengths:
        begun, count, size = time.perf_counter(), settings.max_windows, settings.batch_size
        parts, simple = [], []
        for example in task.test(count, size, length, settings.seed, device):
            with torch.autocast(device.type, torch.bfloat16, enabled=half):
                parts.append(judge(model, example, settings.chunk).cpu())
            if rule := task.simple_answers(example.inputs):
                simple.append((rule[0], relative_mean_square(rule[1], example.answers).cpu()))
        judged = torch.cat(parts)
        figures = _rms_error(judged) if isinstance(model, Regressor) else _accuracy(judged)
        if simple:
            names, squares = zip(*simple, strict=True)
            figures |= {"beside": names[0], "beside_value": _rms_error(torch.cat(squares))["rms_error"]}
        seconds = round(time.perf_counter() - begun, 3)
        results.append({"length": length, "n": len(judged), **figures, "seconds": seconds})
    return {"task": config.task.name, "results": results, "seconds": time.perf_counter() - started}


def _accuracy(right: torch.Tensor) -> dict[str, float]:
    """right: bool (sequences,) or (sequences, answered)."""
    right = right.view(len(right), -1)
    share = wilson(right.double().mean().item(), len(right))
    whole = right.all(1).double().mean().item()
    return {"accuracy": share.value, "low": share.low, "high": share.high, "whole": whole}


def _rms_error(squares: torch.Tensor) -> dict[str, float]:
    """squares: relative mean square errors (sequences,); the interval is that of their mean, as if normal."""
    mean, spread = squares.double().mean().item(), squares.double().std().item() if len(squares) > 1 else 0.0
    half = 1.96 * spread / math.sqrt(len(squares))
    bounds = {"low": math.sqrt(max(0.0, mean - half)), "high": math.sqrt(mean + half)}
    return {"rms_error": math.sqrt(mean), **bounds}
