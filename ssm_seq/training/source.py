"""Where a run's model and batches come from: a byte store, or a task that needs none."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch

from ssm_seq.config import Config
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError
from ssm_seq.models import Classifier, LanguageModel, Regressor
from ssm_seq.tasks import TASKS, Example, Task, task_of
from ssm_seq.tasks.task import numbered_generator
from ssm_seq.training.batches import Batch, read_batch, training_sampler, validation_batches

FROM_STORES = ("classify", "language_model")


class Source(ABC):
    """Training batches without end, the same ones after `load_state`; validation batches, always the same."""

    @abstractmethod
    def new_model(self) -> Classifier | LanguageModel | Regressor:
        """The untrained model of the configuration's task, on the CPU."""

    @abstractmethod
    def next(self) -> Batch:
        """The next training batch, on the run's device."""

    @abstractmethod
    def validation(self) -> Iterator[Batch]:
        """At most `optim.valid_batches` batches; none where there is nothing to validate on."""

    @abstractmethod
    def state(self) -> str:
        """What `load_state` needs to go on with the very next batch."""

    @abstractmethod
    def load_state(self, state: str) -> None:
        """Go on from a state of a source of the same configuration and data."""


def check_task(config: Config, store: Store | None) -> None:
    """Raises InputError if there is no such task, or a store is missing or given and not needed."""
    name = config.task.name
    if name not in (*FROM_STORES, *TASKS):
        known = ", ".join((*FROM_STORES, *TASKS))
        raise InputError(f"task.name={name}: there is no such task; known: {known}")
    if name in FROM_STORES and store is None:
        raise InputError(f"task.name={name}: this task needs a byte store")
    if config.task.curriculum and config.task.curriculum_steps < 1:
        raise InputError("task.curriculum_steps=0: expected 1 or more with a task.curriculum")
    if not 0 <= (share := config.task.labelled) <= 1:
        raise InputError(f"task.labelled={share}: expected a share, 0 to 1")
    if share and name != "language_model":
        raise InputError(f"task.labelled={share}: only a language_model of a store reads labels, not {name}")
    if share and not store.labels:
        raise InputError(f"task.labelled={share}: no record of {store.path} has a label")
    if name in TASKS and store is not None:
        raise InputError(f"task.name={name}: this task takes no store, and {store.path} was given")


def source_of(config: Config, store: Store | None, device: torch.device) -> Source:
    """What the configuration's task learns from; `check_task` holds for it."""
    if store is not None:
        return StoreSource(config, store, device)
    return TaskSource(config, task_of(config), device)


class StoreSource(Source):
    """Random windows of a store's train split; fixed ones of its valid split, if it has one."""

    def __init__(self, config: Config, store: Store, device: torch.device) -> None:
        self.config, self.store, self.device = config, store, device
        self.sampler = training_sampler(config, store)

    def new_model(self) -> Classifier | LanguageModel | Regressor:
        return new_model(self.config, self.store)

    def next(self) -> Batch:
        return read_batch(self.sampler.windows, self.sampler.next(), self.config, self.device)

    def validation(self) -> Iterator[Batch]:
        return validation_batches(self.config, self.store, self.device)

    def state(self) -> str:
        return json.dumps(self.sampler.state_dict())

    def load_state(self, state: str) -> None:
        self.sampler.load_state_dict(json.loads(state))


class TaskSource(Source):
    """Batches of a task, each from a generator of its own: seeded by `optim.seed` and the batch's number."""

    def __init__(self, config: Config, task: Task, device: torch.device) -> None:
        self.config, self.task, self.device = config, task, device
        self.drawn = 0

    def new_model(self) -> Classifier | LanguageModel | Regressor:
        model, task = self.config.model, self.task
        if task.classes is not None:
            return Classifier(model, task.vocab_size, task.classes, task.alphabet)
        if task.outputs is not None:
            return Regressor(model, task.vocab_size, task.outputs)
        return LanguageModel(model, task.vocab_size, task.alphabet)

    def next(self) -> Batch:
        task, optim = self.config.task, self.config.optim
        step, length = self.drawn // optim.accumulate, self.config.data.window
        if step < task.curriculum_steps * len(task.curriculum):
            length = task.curriculum[step // task.curriculum_steps]
        batch = self._draw("train", self.drawn, length)
        self.drawn += 1
        return batch

    def validation(self) -> Iterator[Batch]:
        for number in range(self.config.optim.valid_batches):
            yield self._draw("valid", number, self.config.data.window)

    def state(self) -> str:
        return json.dumps({"drawn": self.drawn})

    def load_state(self, state: str) -> None:
        self.drawn = json.loads(state)["drawn"]

    def _draw(self, split: str, number: int, length: int) -> Batch:
        optim = self.config.optim
        generator = numbered_generator(optim.seed, split, number, self.device)
        return _batch(self.task.draw(split, optim.batch_size, length, generator))


def new_model(config: Config, store: Store) -> Classifier | LanguageModel:
    """The untrained model of the configuration's task for the alphabet (and the labels) of a store."""
    alphabet = store.alphabet
    if config.task.name == "classify":
        return Classifier(config.model, alphabet.size, store.labels, alphabet.name, store.sample_rate)
    classes = store.labels if config.task.labelled else ()
    return LanguageModel(config.model, alphabet.size, alphabet.name, store.sample_rate, classes)


def _batch(example: Example) -> Batch:
    """Every answer known, and of weight 1."""
    inputs, targets = example
    known = torch.ones(targets.shape[:2], dtype=torch.bool, device=targets.device)
    return Batch(inputs if inputs.is_floating_point() else inputs.long(), targets, known.float(), known)
