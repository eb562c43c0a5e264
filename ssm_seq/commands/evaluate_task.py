"""A model on the test sequences of a task, by their length."""

import time
from typing import Any

import torch

from ssm_seq.config import Config, expect_at_least
from ssm_seq.errors import InputError
from ssm_seq.evaluation.proportion import wilson
from ssm_seq.inference.answers import right_answers
from ssm_seq.models import Classifier, LanguageModel
from ssm_seq.tasks import task_of


def evaluate_task(config: Config, model: Classifier | LanguageModel) -> dict[str, Any]:
    """The content of evaluation.json for a task without a store.

    For each size in `evaluate.lengths` the share of right answers over at most `evaluate.max_windows` test
    sequences, read in chunks of `evaluate.chunk` positions in `optim.precision`; its 95 % interval is that of
    independent sequences; `whole` is the share of sequences without any wrong answer.

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
    for length in settings.lengths:
        begun, right = time.perf_counter(), []
        with torch.autocast(device.type, torch.bfloat16, enabled=half):
            for example in task.test(
                settings.max_windows, settings.batch_size, length, settings.seed, device
            ):
                right.append(right_answers(model, example, settings.chunk).cpu())
        answers = torch.cat(right).view(sum(map(len, right)), -1)
        share = wilson(answers.double().mean().item(), len(answers))
        results.append(
            {
                "length": length,
                "n": len(answers),
                "accuracy": share.value,
                "low": share.low,
                "high": share.high,
                "whole": answers.all(1).double().mean().item(),
                "seconds": round(time.perf_counter() - begun, 3),
            }
        )
    return {"task": config.task.name, "results": results, "seconds": time.perf_counter() - started}
