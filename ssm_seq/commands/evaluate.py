"""A model, or the simple baselines, on the test split of a store or a task."""

import time
from argparse import Namespace
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ssm_seq.commands.device import choose_device
from ssm_seq.commands.evaluate_task import evaluate_task
from ssm_seq.commands.sampling import at_rate
from ssm_seq.config import Config, compose, expect_at_least
from ssm_seq.data.alphabet import Dna, Sound
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError
from ssm_seq.evaluation.classifiers import Features, logistic_regression, majority_class
from ssm_seq.evaluation.flac import flac_bits
from ssm_seq.evaluation.held_out import HeldOut, held_out
from ssm_seq.evaluation.kmers import kmer_frequencies
from ssm_seq.evaluation.markov import markov_model
from ssm_seq.evaluation.metrics import (
    Interval,
    accuracy,
    bits_per_byte,
    bootstrap_ratio,
    by_context,
    confusion,
)
from ssm_seq.evaluation.spectrogram import log_mel_statistics
from ssm_seq.files import write_json
from ssm_seq.inference import bits_of_windows, classify_windows
from ssm_seq.models import Classifier, LanguageModel, Regressor, load_model
from ssm_seq.tasks import TASKS


def run(options: Namespace) -> None:
    """Write evaluation.json of a model, or baselines.json with --baselines."""
    config = compose(options.overrides, options.config_dir)
    _check_values(config)
    if options.model is None and not options.baselines:
        raise InputError("give the folder of a trained model with --model, or --baselines")
    if config.task.name in TASKS:
        if options.baselines:
            raise InputError(f"task.name={config.task.name}: this task has no simple baselines")
        write_json(options.out, evaluate_task(config, _model(options, config)))
        return
    if options.store is None:
        raise InputError(f"task.name={config.task.name}: give the folder of a byte store with --store")
    store = Store.open(options.store)
    if options.baselines:
        result = evaluate_baselines(config, store)
    else:
        result = evaluate_model(config, store, _model(options, config))
    write_json(options.out, result)


def _model(options: Namespace, config: Config) -> Classifier | LanguageModel | Regressor:
    model = load_model(options.model, choose_device(config.device))
    return at_rate(model, config.evaluate.rate, "evaluate.rate")


def evaluate_model(config: Config, store: Store, model: Classifier | LanguageModel) -> dict[str, Any]:
    """The content of evaluation.json: what the model makes of held-out windows of the store.

    A classifier reads windows of every length in `evaluate.lengths`, in chunks with its state carried, and
    gives its answer after the last position. A language model reads windows of `data.window` positions; bits
    per byte are over every position but a window's first, where no model knows anything, and over definite
    symbols (bases, not N). The Markov baseline is judged on exactly these positions.

    Raises:
        InputError: the model was made for other data or another task, or the test split lacks such windows.
    """
    _check(config, store, model)
    started = time.perf_counter()
    if isinstance(model, Classifier):
        results = [_judge_classifier(config, model, _test(config, store, n)) for n in config.evaluate.lengths]
        result = {"task": "classify", "classes": model.classes, "results": results}
    else:
        result = {"task": "language_model", **_judge_language_model(config, model, store)}
    return result | {"seconds": time.perf_counter() - started}


def evaluate_baselines(config: Config, store: Store) -> dict[str, Any]:
    """The content of baselines.json: simple methods on the windows that `evaluate_model` takes.

    Raises:
        InputError: the train or the test split is missing or too short.
    """
    started = time.perf_counter()
    if config.task.name == "classify":
        _check_labels(store, ("train", "test"), store.labels)
        results = [line for length in config.evaluate.lengths for line in _classify(config, store, length)]
    else:
        results = _compress(config, store)
    return {"results": results, "seconds": time.perf_counter() - started}


def _test(config: Config, store: Store, length: int) -> HeldOut:
    return held_out(store, length, config.evaluate.max_windows, config.evaluate.seed)


def _batches(test: HeldOut, size: int) -> Iterator[NDArray[np.uint8]]:
    for start in range(0, len(test.indices), size):
        yield test.windows.read(test.indices[start : start + size])


def _judge_classifier(config: Config, model: Classifier, test: HeldOut) -> dict[str, Any]:
    """One entry of `results`; classes are the model's, whatever their order in the store."""
    settings = config.evaluate
    place = [
        model.classes.index(label) if label in model.classes else -1 for label in test.windows.store.labels
    ]
    truth = np.array(place)[test.labels]
    predicted = classify_windows(model, _batches(test, settings.batch_size), settings.chunk).argmax(1)
    share = accuracy(truth, predicted, test.records, settings.bootstrap, settings.seed)
    return {
        "length": test.windows.length,
        "n": len(truth),
        "accuracy": share.value,
        "low": share.low,
        "high": share.high,
        "confusion": confusion(truth, predicted, len(model.classes)).tolist(),
    }


def _judge_language_model(config: Config, model: LanguageModel, store: Store) -> dict[str, Any]:
    settings, test = config.evaluate, _test(config, store, config.data.window)
    bits = bits_of_windows(model, _batches(test, settings.batch_size), settings.chunk)[:, 1:]
    known = test.ids[:, 1:] < store.alphabet.definite
    mean = bits_per_byte(bits, known, test.records, settings.bootstrap, settings.seed)
    return {
        "bits_per_byte": mean.value,
        "low": mean.low,
        "high": mean.high,
        "positions": int(known.sum()),
        "by_context": by_context(bits, known),
    }


def _classify(config: Config, store: Store, length: int) -> Iterator[dict[str, Any]]:
    settings, test = config.evaluate, _test(config, store, length)
    name, features = _features(config, store)
    guesses = {
        "majority class": np.full(len(test.indices), majority_class(store)),
        f"{name} logistic regression": logistic_regression(store, test, features, settings.seed),
    }
    for title, predicted in guesses.items():
        share = accuracy(test.labels, predicted, test.records, settings.bootstrap, settings.seed)
        yield _line(title, length, "accuracy", share)


def _features(config: Config, store: Store) -> tuple[str, Features]:
    """The simple features of the store's kind of data. K-mers of both strands if the model is shown both."""
    if isinstance(store.alphabet, Dna):
        k, both_strands = config.evaluate.kmer, config.data.reverse_complement
        return f"{k}-mer", partial(kmer_frequencies, k=k, both_strands=both_strands)
    if not isinstance(store.alphabet, Sound):
        return "byte frequency", lambda ids: np.stack(
            [np.bincount(row, minlength=256) / len(row) for row in ids]
        )
    decode, rate = store.alphabet.decode_waveform, store.sample_rate
    return "log-spectrogram", lambda ids: log_mel_statistics(decode(ids), rate)


def _compress(config: Config, store: Store) -> list[dict[str, Any]]:
    settings, test, length = config.evaluate, _test(config, store, config.data.window), config.data.window
    lines = []
    for order in dict.fromkeys((0, settings.markov_order)):
        markov = markov_model(store, order, config.data.reverse_complement)
        parts = [markov.bits(ids) for ids in _batches(test, settings.batch_size)]
        bits, known = (np.concatenate(part) for part in zip(*parts, strict=True))
        mean = bits_per_byte(bits, known, test.records, settings.bootstrap, settings.seed)
        lines.append(_line(f"order-{markov.order} Markov", length, "bits_per_byte", mean))
    if isinstance(store.alphabet, Sound):
        total = flac_bits(test.ids, store.sample_rate)
        counts = np.full(len(total), length)
        mean = bootstrap_ratio(total, counts, test.records, None, settings.bootstrap, settings.seed)
        lines.append(_line("FLAC (8 bit codes)", length, "bits_per_byte", mean))
    return lines


def _line(name: str, length: int, metric: str, figure: Interval) -> dict[str, Any]:
    return {"name": name, "length": length, "metric": metric, **figure._asdict()}


def _check_values(config: Config) -> None:
    counts = ("lengths", "max_windows", "batch_size", "chunk", "bootstrap", "kmer")
    expect_at_least(config, {f"evaluate.{name}": 1 for name in counts} | {"evaluate.markov_order": 0})
    expect_at_least(config, {"data.window": 2, "evaluate.seed": 0})


def _check(config: Config, store: Store, model: Classifier | LanguageModel) -> None:
    """The model must be of the configuration's task and made for the store's kind of data."""
    ours = (store.alphabet.name, store.sample_rate)
    if (model.alphabet, model.sample_rate) != ours:
        hint = ""
        if model.alphabet == store.alphabet.name and model.sample_rate and store.sample_rate:
            rate = config.evaluate.rate * model.sample_rate / store.sample_rate
            hint = f" or evaluate.rate={rate:g}"
        raise InputError(
            f"{store.path}: the store holds {_kind(*ours)}, the model reads "
            f"{_kind(model.alphabet, model.sample_rate)}; expected the same{hint}"
        )
    if config.task.name != model.kind and (config.task.name, model.kind) != ("classify", "classifier"):
        raise InputError(f"the model is a {model.kind}, the configuration's task is {config.task.name}")
    if isinstance(model, Classifier):
        _check_labels(store, ("test",), model.classes)


def _check_labels(store: Store, splits: tuple[str, ...], classes: list[str]) -> None:
    for record in store.records:
        for split in (span.split for span in record.ranges if span.split in splits):
            if record.label not in classes:
                raise InputError(
                    f"{store.path}: record {record.name!r} of the {split} split has the label "
                    f"{record.label!r}, expected one of: {', '.join(classes)}"
                )


def _kind(alphabet: str, sample_rate: int | None) -> str:
    return alphabet if sample_rate is None else f"{alphabet} sound at {sample_rate} Hz"
