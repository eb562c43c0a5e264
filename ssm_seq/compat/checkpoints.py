"""Mamba-1 language models in the layouts of mamba-ssm and transformers, and in this library's own.

mamba_ssm: config.json (d_model, n_layer, ssm_cfg, ...) and pytorch_model.bin, what mamba-ssm's
    MambaLMHeadModel saves and loads.
transformers: config.json (model_type mamba, hidden_size, ...) and model.safetensors, what its
    MambaForCausalLM saves and loads.
ssm_seq: what `Model.save` writes.

All three hold the same tensors under other names. Either kind of weights file is read in every layout, whole
or in shards.
"""

import json
import pickle
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ssm_seq.compat.layouts import LAYOUTS, Layout, Plan, layout_of
from ssm_seq.data.alphabet import TOKENS, Sound
from ssm_seq.data.alphabet import alphabet as alphabet_named
from ssm_seq.errors import InputError
from ssm_seq.files import whole_directory
from ssm_seq.models import LanguageModel, load_model

CONFIG, PICKLE, SAFETENSORS = "config.json", "pytorch_model.bin", "model.safetensors"
_PADDING = 8  # both libraries' models round vocabularies up to a multiple of it


def load_checkpoint(
    directory: Path | str, alphabet: str | None = None, sample_rate: int | None = None
) -> LanguageModel:
    """The language model of a folder in any of the three layouts: float32, on the CPU, in evaluation mode.

    A vocabulary that was padded loses the rows without meaning. A head that shares the embedding's weights
    gets a copy of them.

    Args:
        alphabet: what the ids of another library's model mean: dna, mu_law or linear, if its vocabulary has
            that size, padded or not. None stands for the ids of a tokenizer, which have no text here.
        sample_rate: Hz, with mu_law and linear.

    Raises:
        InputError: the folder is in none of the layouts, is damaged, or holds what this library's models
            cannot express (Mamba-2, attention, LayerNorm, ...); one sentence says what.
    """
    directory = Path(directory)
    config, path = _config(directory / CONFIG), directory / CONFIG
    try:
        name = layout_of(config)
        if name is None:
            raise InputError("describes no model of mamba-ssm, transformers or this library")
        if name != "ssm_seq":
            layout = LAYOUTS[name]
            plan = layout.read(config)
            size = _vocabulary(plan, alphabet, sample_rate)
            model = LanguageModel(plan.model, size, alphabet or TOKENS, sample_rate)
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    if name == "ssm_seq":
        if alphabet is not None or sample_rate is not None:
            raise InputError(f"{path}: says alphabet and sample rate itself; leave them out")
        model = load_model(directory)
        if not isinstance(model, LanguageModel):
            raise InputError(f"{directory}: this is a classifier, expected a language model")
        return model
    model.load_state_dict(_weights(directory, model, layout, plan))
    return model.eval()


def save_checkpoint(model: LanguageModel, directory: Path | str, layout: str) -> None:
    """Write a language model into a new or empty folder, which appears whole or not at all.

    Other libraries' layouts have no place for alphabet, sample rate, dropout and the range of initial steps.
    A head that equals the embedding is written as sharing its weights; the vocabulary is not padded.

    Args:
        layout: mamba_ssm, transformers or ssm_seq.

    Raises:
        InputError: an unknown layout, a model that it has no place for, or a folder that holds something.
    """
    if layout == "ssm_seq":
        return model.save(directory)
    if layout not in LAYOUTS:
        raise InputError(f"there is no layout {layout!r}; known: {', '.join([*LAYOUTS, 'ssm_seq'])}")
    if model.kind != LanguageModel.kind or model.config.layer != "mamba":
        raise InputError(
            f"this is a {model.kind} of {model.config.layer} layers, {layout} has a place for a "
            "language_model of mamba layers only"
        )
    if model.classes:
        raise InputError(f"the model has tokens of classes, for which {layout} has no place")
    state = model.state_dict()
    tied = torch.equal(state["head.weight"], state["backbone.embedding.weight"])
    tensors = {name: state[own].contiguous() for own, name in _names(model, LAYOUTS[layout]).items()}
    with whole_directory(directory) as partial:
        if layout == "mamba_ssm":
            if tied:
                tensors["lm_head.weight"] = tensors[LAYOUTS[layout].embedding]
            torch.save(tensors, partial / PICKLE)
        else:
            if tied:
                del tensors["lm_head.weight"]
            save_file(tensors, partial / SAFETENSORS, metadata={"format": "pt"})
        described = LAYOUTS[layout].write(model, tied)
        (partial / CONFIG).write_text(json.dumps(described, indent=2) + "\n")


def _config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text())
    except OSError:
        raise InputError(f"{path}: no such file; expected the folder of a language model") from None
    except ValueError as error:
        raise InputError(f"{path}: not valid JSON ({error})") from None
    if not isinstance(config, dict):
        raise InputError(f"{path}: holds no JSON object; expected a model's description")
    return config


def _vocabulary(plan: Plan, alphabet: str | None, sample_rate: int | None) -> int:
    """How many ids the loaded model has: those with a meaning."""
    if alphabet is None:
        if sample_rate is not None:
            raise InputError("a sample rate needs an alphabet of sound, mu_law or linear")
        return plan.vocab_size
    letters = alphabet_named(alphabet)
    if isinstance(letters, Sound) != (sample_rate is not None):
        raise InputError(
            f"the alphabet {alphabet} goes {'with' if sample_rate is None else 'without'} a sample rate"
        )
    if plan.vocab_size not in (letters.size, -(-letters.size // _PADDING) * _PADDING):
        raise InputError(
            f"vocab_size is {plan.vocab_size}, the alphabet {alphabet} has {letters.size} letters"
        )
    return letters.size


def _names(model: LanguageModel, layout: Layout) -> dict[str, str]:
    """The layout's name of every tensor of the model."""
    names = {}
    for own in model.state_dict():
        name = own.replace("backbone.blocks.", "backbone.layers.").replace(".layer.", ".mixer.")
        names[own] = {
            "backbone.embedding.weight": layout.embedding,
            "backbone.norm.weight": "backbone.norm_f.weight",
            "head.weight": "lm_head.weight",
        }.get(own, name)
    return names


def _weights(directory: Path, model: LanguageModel, layout: Layout, plan: Plan) -> dict[str, Tensor]:
    """The model's tensors from the folder's weights, each there and of the right shape, none left over."""
    tensors, names = _read(directory), _names(model, layout)
    if plan.tied:
        embedding = tensors.get(layout.embedding)
        if embedding is not None and not torch.equal(
            tensors.setdefault("lm_head.weight", embedding), embedding
        ):
            raise InputError(
                f"{directory}: lm_head.weight is not {layout.embedding}, which {CONFIG} says it is"
            )
    found = {}
    for own, parameter in model.state_dict().items():
        name, shape = names[own], tuple(parameter.shape)
        if name not in tensors:
            raise InputError(f"{directory}: tensor {name} is missing; the model of {CONFIG} has it")
        tensor = tensors.pop(name)
        of_ids = own in ("head.weight", "backbone.embedding.weight")
        if of_ids:
            shape = (plan.rows, *shape[1:])
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise InputError(
                f"{directory}: tensor {name} is {str(tensor.dtype).removeprefix('torch.')} "
                f"{tuple(tensor.shape)}, {CONFIG} asks for floating numbers {shape}"
            )
        found[own] = tensor[: model.vocab_size] if of_ids else tensor
    if tensors:
        raise InputError(f"{directory}: tensor {min(tensors)} has no place in the model of {CONFIG}")
    return found


def _read(directory: Path) -> dict[str, Tensor]:
    """All tensors of a folder: of one file, or of the shards that an index names."""
    for whole in (SAFETENSORS, PICKLE):
        if (directory / whole).is_file():
            return _read_file(directory / whole)
        index = directory / f"{whole}.index.json"
        if index.is_file():
            shards = _config(index).get("weight_map")
            if not isinstance(shards, dict) or any(Path(str(name)).name != name for name in shards.values()):
                raise InputError(f"{index}: no weight_map of tensors to files of the same folder")
            return {
                name: tensor
                for shard in sorted(set(shards.values()))
                for name, tensor in _read_file(directory / shard).items()
            }
    raise InputError(f"{directory}: no weights here; expected {SAFETENSORS} or {PICKLE}")


def _read_file(path: Path) -> dict[str, Tensor]:
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; expected weights") from None
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        reason = str(error).partition("\n")[0]
        raise InputError(f"{path}: damaged, or more than tensors ({reason})") from None
    if not isinstance(tensors, dict) or not all(isinstance(value, Tensor) for value in tensors.values()):
        raise InputError(f"{path}: holds no dictionary of tensors")
    return dict(tensors)
