"""What the config.json of mamba-ssm and of transformers says about a Mamba-1 language model, and back.

Entries about initial values (dt_min, initializer_range, ...) and about how another library computes
(residual_in_fp32, use_fast_path, ...) mean nothing for given weights and are not looked at.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ssm_seq.config import ModelConfig
from ssm_seq.errors import InputError
from ssm_seq.models import LanguageModel

_EPSILON = 1e-5  # of every RMSNorm here
_UNSAID = ("dt_min", "dt_max", "dt_init", "dt_scale", "dt_init_floor", "use_fast_path")


@dataclass(frozen=True)
class Plan:
    """The model that a config.json asks for.

    rows: of embedding and head, vocab_size or more. tied: they share their weights.
    """

    model: ModelConfig
    vocab_size: int
    rows: int
    tied: bool


@dataclass(frozen=True)
class Layout:
    """How one library writes a model down.

    embedding: the name of its weights, the one tensor on which the two libraries differ.
    read, write: config.json to a plan (InputError if this library has no such model), a model to config.json.
    """

    embedding: str
    read: Callable[[dict[str, Any]], Plan]
    write: Callable[[LanguageModel, bool], dict[str, Any]]


def _number(config: dict[str, Any], name: str, default: int | None = None) -> int:
    value = config.get(name, default)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if type(value) is not int or value < 1:
        raise InputError(f"{name} is {value!r}, expected a positive whole number")
    return value


def _expect(config: dict[str, Any], expected: dict[str, Any]) -> None:
    """Every entry as expected, which is its default too."""
    for name, value in expected.items():
        if (found := config.get(name, value)) != value:
            raise InputError(f"{name} is {found!r}, this library's Mamba models have {value!r} only")


def _read_mamba_ssm(config: dict[str, Any]) -> Plan:
    mixer = config.get("ssm_cfg") or {}
    if not isinstance(mixer, dict):
        raise InputError(f"ssm_cfg is {mixer!r}, expected an object")
    if (layer := mixer.get("layer", "Mamba1")) != "Mamba1":
        raise InputError(f"ssm_cfg.layer is {layer!r}, only Mamba1 layers can be loaded")
    if config.get("attn_layer_idx"):
        raise InputError(
            f"attn_layer_idx is {config['attn_layer_idx']!r}, models with attention cannot be loaded"
        )
    _expect(config, {"d_intermediate": 0, "rms_norm": True})
    d_model = _number(config, "d_model")
    _expect(mixer, {"conv_bias": True, "bias": False})
    _expect_rank(mixer, "dt_rank", d_model)
    known = {"layer", "d_state", "d_conv", "expand", "dt_rank", "conv_bias", "bias", *_UNSAID}
    if unknown := sorted(mixer.keys() - known):
        raise InputError(f"ssm_cfg.{unknown[0]} is {mixer[unknown[0]]!r}, not an entry of a Mamba1 layer")
    vocab_size, multiple = _number(config, "vocab_size"), _number(config, "pad_vocab_size_multiple", 8)
    model = ModelConfig(
        d_model=d_model,
        n_layers=_number(config, "n_layer"),
        d_state=_number(mixer, "d_state", 16),
        d_conv=_number(mixer, "d_conv", 4),
        expand=_number(mixer, "expand", 2),
    )
    rows = math.ceil(vocab_size / multiple) * multiple
    return Plan(model, vocab_size, rows, config.get("tie_embeddings", True))


def _write_mamba_ssm(model: LanguageModel, tied: bool) -> dict[str, Any]:
    return {
        "d_model": model.config.d_model,
        "n_layer": model.config.n_layers,
        "vocab_size": model.vocab_size,
        "ssm_cfg": {
            "d_state": model.config.d_state,
            "d_conv": model.config.d_conv,
            "expand": model.config.expand,
        },
        "rms_norm": True,
        "residual_in_fp32": True,
        "fused_add_norm": True,
        "pad_vocab_size_multiple": 1,
        "tie_embeddings": tied,
    }


def _read_transformers(config: dict[str, Any]) -> Plan:
    _expect(config, {"use_bias": False, "use_conv_bias": True, "hidden_act": "silu"})
    _expect(config, {"layer_norm_epsilon": _EPSILON})
    d_model = _number(config, "hidden_size")
    _expect_rank(config, "time_step_rank", d_model)
    vocab_size = _number(config, "vocab_size")
    model = ModelConfig(
        d_model=d_model,
        n_layers=_number(config, "num_hidden_layers"),
        d_state=_number(config, "state_size", 16),
        d_conv=_number(config, "conv_kernel", 4),
        expand=_number(config, "expand", 2),
    )
    return Plan(model, vocab_size, vocab_size, config.get("tie_word_embeddings", True))


def _write_transformers(model: LanguageModel, tied: bool) -> dict[str, Any]:
    d_model, expand = model.config.d_model, model.config.expand
    return {
        "architectures": ["MambaForCausalLM"],
        "model_type": "mamba",
        "hidden_size": d_model,
        "intermediate_size": expand * d_model,
        "num_hidden_layers": model.config.n_layers,
        "state_size": model.config.d_state,
        "conv_kernel": model.config.d_conv,
        "expand": expand,
        "time_step_rank": _rank(d_model),
        "vocab_size": model.vocab_size,
        "tie_word_embeddings": tied,
        "use_bias": False,
        "use_conv_bias": True,
        "hidden_act": "silu",
        "layer_norm_epsilon": _EPSILON,
        "residual_in_fp32": True,
        "dtype": "float32",
        # Left out they would all be 0, a letter here, and generation would end at the first one.
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
    }


def _rank(d_model: int) -> int:
    return math.ceil(d_model / 16)


def _expect_rank(config: dict[str, Any], name: str, d_model: int) -> None:
    if (rank := config.get(name, "auto")) not in ("auto", _rank(d_model)):
        raise InputError(
            f"{name} is {rank!r}, this library's Mamba models of width {d_model} have {_rank(d_model)} only"
        )


LAYOUTS = {
    "mamba_ssm": Layout("backbone.embedding.weight", _read_mamba_ssm, _write_mamba_ssm),
    "transformers": Layout("backbone.embeddings.weight", _read_transformers, _write_transformers),
}


def layout_of(config: dict[str, Any]) -> str | None:
    """The layout of a folder with this config.json, `ssm_seq` included; None if it is none of them.

    Raises:
        InputError: it is of transformers, but not of Mamba-1.
    """
    if "model_type" in config:
        if config["model_type"] != "mamba":
            raise InputError(f"model_type is {config['model_type']!r}, expected 'mamba'")
        return "transformers"
    if "kind" in config and "alphabet" in config:
        return "ssm_seq"
    return "mamba_ssm" if "d_model" in config and "n_layer" in config else None
