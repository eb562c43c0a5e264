"""What a step of training needs: batches, those of a store among them, and the loss that all share."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from ssm_seq.config import Config
from ssm_seq.data.store import Store
from ssm_seq.data.windows import Windows, WindowSampler, windows
from ssm_seq.errors import InputError
from ssm_seq.models import Classifier, LanguageModel, Regressor


class Batch(NamedTuple):
    """inputs: (batch, length) int64 ids, or a signal (batch, length, channels) float32.

    targets: int64, (batch,) classes, (batch, length) next ids or (batch, fewer) ids at the last positions; of
    a signal float32, (batch, fewer or all, outputs) values there.
    weights: float32, the weight of each target in the loss.
    known: bool, whether a target is a definite symbol (a base and not N; always, for sound and classes).
    """

    inputs: Tensor
    targets: Tensor
    weights: Tensor
    known: Tensor


def read_batch(windows: Windows, indices: NDArray[np.int64], config: Config, device: torch.device) -> Batch:
    """The batch of a step.

    classify: the whole windows, their labels, equal weights.
    language_model: each position but the last predicts the next one; a target that is no definite symbol (N
    in DNA) weighs 0, a soft-masked one `data.soft_mask_weight`. The first `task.labelled` of the windows are
    read behind the token of their label, where they have one; their last position drops out.
    """
    ids = windows.read(indices).astype(np.int64)
    if config.task.name == "classify":
        inputs, targets = ids, windows.labels_of(indices)
        weights = np.ones(len(indices), np.float32)
        known = np.ones(len(indices), bool)
    else:
        weights, labels = windows.weights(indices, config.data.soft_mask_weight), windows.labels_of(indices)
        rows = np.flatnonzero(labels[: round(config.task.labelled * len(indices))] >= 0)
        ids[rows, 1:], weights[rows, 1:] = ids[rows, :-1], weights[rows, :-1]
        ids[rows, 0] = windows.store.alphabet.size + labels[rows]
        inputs, targets = ids[:, :-1], ids[:, 1:]
        known = targets < windows.store.alphabet.definite
        weights = weights[:, 1:] * known
    return Batch(
        *(
            torch.from_numpy(np.ascontiguousarray(part)).to(device)
            for part in (inputs, targets, weights, known)
        )
    )


def losses(
    model: Classifier | LanguageModel | Regressor, batch: Batch, precision: str = "bfloat16"
) -> tuple[Tensor, Tensor | None]:
    """Cross entropy of every target in nats (float32, shape of `weights`), and the logits behind it; for a
    regressor the mean square error of every target's outputs, and None.

    The logits of a language model with a target at every position are never there as a whole, and not given
    back. On a GPU the model runs in `precision` where autocast allows it; the loss is always in float32.
    """
    half = batch.inputs.is_cuda and precision == "bfloat16"
    with torch.autocast(batch.inputs.device.type, torch.bfloat16, enabled=half):
        if isinstance(model, Regressor):
            outputs, _ = model.answers(batch.inputs, batch.targets.shape[1])
            return (outputs.float() - batch.targets).square().mean(-1), None
        if isinstance(model, Classifier):
            logits, _ = model(batch.inputs)
        elif batch.targets.shape == batch.inputs.shape:
            return model.losses(batch.inputs, batch.targets)[0], None
        else:
            logits, _ = model.answers(batch.inputs, batch.targets.shape[1])
    each = F.cross_entropy(logits.flatten(0, -2), batch.targets.flatten(), reduction="none")
    return each.view(batch.targets.shape), logits


def training_sampler(config: Config, store: Store) -> WindowSampler:
    """Random windows of the train split: labels equally likely for `classify`, DNA from a random strand if
    asked.

    Raises:
        InputError: no window fits; for `classify`, a record without label or a label that train does not
            have.
    """
    train = windows(store, "train", config.data.window, stride=1, both_strands=config.data.reverse_complement)
    classify = config.task.name == "classify"
    if classify:
        _check_labels(store, train)
    return WindowSampler(train, config.optim.batch_size, config.optim.seed, balanced=classify)


def _check_labels(store: Store, train: Windows) -> None:
    seen = {store.labels[number] for number in train.range_classes[:, 0] if number >= 0}
    for record in store.records:
        if record.ranges and record.label is None:
            raise InputError(
                f"{store.path}: record {record.name!r} has no label, which the task classify needs"
            )
        if record.ranges and record.label not in seen:
            raise InputError(
                f"{store.path}: label {record.label!r} of record {record.name!r} has no window of "
                f"{train.length} positions in train; every label needs one there"
            )


def validation_batches(config: Config, store: Store, device: torch.device) -> Iterator[Batch]:
    """At most `valid_batches` batches of fixed windows of the valid split; none without that split."""
    if "valid" not in store.split_names:
        return
    valid = windows(store, "valid", config.data.window)
    size = config.optim.batch_size
    chosen = valid.sample(config.optim.valid_batches * size, config.optim.seed)
    for start in range(0, len(chosen), size):
        yield read_batch(valid, chosen[start : start + size], config, device)
