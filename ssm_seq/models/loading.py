"""A saved model back from its folder, or one sentence on why not."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.models.classifier import Classifier
from ssm_seq.models.language_model import LanguageModel
from ssm_seq.models.model import DESCRIPTION, WEIGHTS
from ssm_seq.models.regressor import Regressor

# Older models' files don't have these: their defaults.
LATER = {"gated", "bidirectional", "blocks", "hippo", "heads", "init"}


def load_model(
    directory: Path | str, device: torch.device | str = "cpu"
) -> LanguageModel | Classifier | Regressor:
    """The model that `Model.save` wrote, on `device`, in evaluation mode.

    Raises:
        InputError: config.json or model.safetensors is missing or damaged, or they don't fit each other;
            the sentence names the first tensor that doesn't.
    """
    directory = Path(directory)
    model = _build(directory / DESCRIPTION)
    path = directory / WEIGHTS
    tensors = _tensors(path)
    for name, parameter in model.state_dict().items():
        if name not in tensors:
            raise InputError(f"{path}: tensor {name} is missing; the model of {DESCRIPTION} has it")
        found = tensors[name]
        if (found.shape, found.dtype) != (parameter.shape, parameter.dtype):
            raise InputError(
                f"{path}: tensor {name} is {_form(found)}, {DESCRIPTION} asks for {_form(parameter)}"
            )
    if unexpected := sorted(tensors.keys() - model.state_dict().keys()):
        raise InputError(f"{path}: tensor {unexpected[0]} has no place in the model of {DESCRIPTION}")
    model.load_state_dict(tensors)
    return model.to(device).eval()


def _build(path: Path) -> LanguageModel | Classifier | Regressor:
    """The model of a config.json, with fresh weights."""
    described = _description(path)
    kind, sample_rate = _entry(described, "kind", str, path), described.get("sample_rate")
    if sample_rate is not None and type(sample_rate) is not int:
        raise InputError(f"{path}: sample_rate is {sample_rate!r}, expected a whole number of Hz or null")
    alphabet, vocab_size = (
        _entry(described, "alphabet", str, path),
        _entry(described, "vocab_size", int, path),
    )
    if vocab_size < 1:
        raise InputError(f"{path}: vocab_size is {vocab_size}, expected a positive whole number")
    config = _model_config(_entry(described, "model", dict, path), path)
    try:
        match kind:
            case LanguageModel.kind:
                classes = _classes(described, path) if "classes" in described else ()
                return LanguageModel(config, vocab_size, alphabet, sample_rate, classes)
            case Classifier.kind:
                return Classifier(config, vocab_size, _classes(described, path), alphabet, sample_rate)
            case Regressor.kind:
                outputs = _entry(described, "outputs", int, path)
                if outputs < 1:
                    raise InputError(f"{path}: outputs is {outputs}, expected a positive whole number")
                return Regressor(config, vocab_size, outputs)
    except InputError as error:
        raise error if str(path) in str(error) else InputError(f"{path}: {error}") from None
    kinds = (LanguageModel.kind, Classifier.kind, Regressor.kind)
    raise InputError(f"{path}: kind is {kind!r}, expected one of {', '.join(map(repr, kinds))}")


def _classes(described: dict[str, Any], path: Path) -> list[str]:
    classes = _entry(described, "classes", list, path)
    if not classes or not all(isinstance(name, str) for name in classes):
        raise InputError(f"{path}: classes is {classes!r}, expected a list of names")
    return classes


def _description(path: Path) -> dict[str, Any]:
    try:
        described = json.loads(path.read_text())
    except OSError:
        raise InputError(f"{path}: no such file; expected the folder of a trained model") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error}); expected a model's description") from None
    if not isinstance(described, dict):
        raise InputError(f"{path}: holds no JSON object; expected a model's description")
    return described


def _entry(described: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    if key not in described:
        raise InputError(f"{path}: the entry {key!r} is missing; expected a model's description")
    if type(described[key]) is not kind:
        raise InputError(f"{path}: {key} is {described[key]!r}, expected {kind.__name__}")
    return described[key]


def _model_config(values: dict[str, Any], path: Path) -> ModelConfig:
    """The fields of ModelConfig, each of its type (a whole number will do for a float)."""
    types = {field.name: field.type for field in fields(ModelConfig)}
    for key in [*types, *values]:
        if key not in types:
            raise InputError(f"{path}: unknown entry model.{key}; known: {', '.join(types)}")
        if key in LATER and key not in values:
            continue
        value = _entry(values, key, type(values.get(key)), path)
        if type(value) is not types[key] and not (types[key] is float and type(value) is int):
            raise InputError(f"{path}: model.{key} is {value!r}, expected {types[key].__name__}")
    return ModelConfig(**values)


def _tensors(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected the weights of a trained model") from None
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path}: damaged or truncated, not a whole safetensors file ({error})") from None


def _form(tensor: torch.Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"
