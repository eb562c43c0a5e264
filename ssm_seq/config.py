"""Every value that changes a number, as typed dataclasses, and their composition with Hydra.

The tree of YAML files is `config/`; `compose` merges an experiment of it with overrides and gives back
plain dataclasses, so no OmegaConf object goes further than this file. Nothing here imports torch: the
Snakefile reads its configuration through this module too.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from difflib import get_close_matches
from operator import attrgetter
from pathlib import Path

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

from ssm_seq.errors import InputError


@dataclass
class SplitConfig:
    """How records are divided into train, valid and test.

    by: `column` takes the sample sheet's `split`; `record`, `group` draw whole records or whole groups
    (strain, speaker) by `fractions` (0.8, 0.1, 0.1 if none are given) and `seed`; `range` cuts every record
    at fixed coordinates.
    ranges: for `range`, entries `split=record:start-end` (0-based, end excluded; record `*` means all).
    """

    by: str = "column"
    fractions: dict[str, float] = field(default_factory=dict)
    ranges: list[str] = field(default_factory=list)
    seed: int = 0


@dataclass
class StoreConfig:
    """What goes into one byte store: everything that changes its bytes or its index.

    kind: `fasta`, `reads` or `consensus` (BAM/CRAM), `audio`, `text` (any file, byte by byte).
    reference: FASTA for CRAM, and to compare the alignments and the consensus with.
    region: samtools notation (1-based, inclusive), for `reads` and `consensus`; none means everything.
    sample_rate: Hz after resampling; encoding: `mu_law` or `linear`, 8 bit both.
    """

    name: str = "???"
    samples: str = "???"
    kind: str = "fasta"
    reference: str | None = None
    region: str | None = None
    min_mapping_quality: int = 0
    min_base_quality: int = 0
    min_depth: int = 1
    exclude_flags: int = 0xF04  # unmapped, secondary, QC fail, duplicate, supplementary
    sample_rate: int = 8000
    encoding: str = "mu_law"
    split: SplitConfig = field(default_factory=SplitConfig)


@dataclass
class DataConfig:
    """How a model sees a store.

    window: positions a training example has. reverse_complement: show DNA on a random strand.
    soft_mask_weight: weight of soft-masked (lower-case) positions in the language-model loss.
    """

    store: StoreConfig = field(default_factory=StoreConfig)
    window: int = 1024
    reverse_complement: bool = False
    soft_mask_weight: float = 1.0


@dataclass
class TaskConfig:
    """What is learnt.

    name: from a byte store `classify` (a label for a window) or `language_model` (the next byte); without one
        `copying`, `selective_copying`, `induction_heads`, `fashion_mnist`, or of real signals `delay`,
        `integration`, `reconstruction`, or of a measured series `forecast` (ssm_seq/tasks), of size
        `data.window`.
    symbols: different ordinary tokens of a drawn sequence; memorise: how many of them to copy.
    curriculum: sizes that training starts with, `curriculum_steps` steps each, before `data.window`.
    band: of a signal, in cycles a position; lag: positions of a delay; samples: points of a reconstruction.
    series, column: a CSV file with a header and the column of it to forecast, horizon: rows ahead.
    labelled: share of each batch's windows that a language model reads behind their label, to generate by
        label later; below 1 it also learns to do without, as when it scores.
    images: folder of Fashion-MNIST; permuted: read its pixels in one random order instead of row by row.
    """

    name: str = "classify"
    symbols: int = 16
    memorise: int = 16
    curriculum: list[int] = field(default_factory=list)
    curriculum_steps: int = 0
    band: float = 0.01
    lag: int = 1000
    samples: int = 64
    series: str = "data/sources/co2.csv"
    column: str = "co2"
    horizon: int = 52
    labelled: float = 0.0
    images: str = "data/sources/fashion-mnist"
    permuted: bool = False


@dataclass
class ModelConfig:
    """A stack of sequence layers.

    layer: `mamba` (S6), `h3`, or a linear time-invariant system: `s4`, `s4d`, `s5`, `dss`, `lssl`, `ema`; to
        compare with, `transformer` (of `heads` heads), `lstm`, `gru`, `cnn` (dilated, `d_conv` wide).
    gated: a gate of width expand * d_model beside each layer. bidirectional: read both ways (classifiers).
    blocks: into how many blocks of states, each HiPPO-LegS, the states of `s5` start divided.
    hippo: whether `s4` and `lssl` start from HiPPO-LegS or from random systems.
    init: the eigenvalues that `s4d` starts from: `lin`, `inv`, `legs` (those of HiPPO-LegS) or `real`.
    """

    layer: str = "mamba"
    d_model: int = 64
    n_layers: int = 2
    d_state: int = 16
    expand: int = 2
    d_conv: int = 4
    dt_min: float = 1e-3
    dt_max: float = 1e-1
    dropout: float = 0.0
    gated: bool = False
    bidirectional: bool = False
    blocks: int = 1
    hippo: bool = True
    init: str = "lin"
    heads: int = 1


@dataclass
class OptimConfig:
    """The training run. `steps` are optimiser steps of `batch_size * accumulate` windows each.

    ssm_lr: learning rate of the parameters that a layer declares as its state-space parameters.
    ssm_lrs: rates of some of these by their names in the layer, such as {log_dt: 1.0e-3, A_imag: 1.0e-4}; on
        the command line +optim.ssm_lrs.log_dt=1e-3.
    eps: AdamW moves a parameter less where its gradients are not far above this. Time steps of 1e-9 have
        gradients of that size.
    precision: of the layers on a GPU, `bfloat16` (autocast) or `float32`; a CPU always takes float32.
    """

    lr: float = 2e-3
    ssm_lr: float = 1e-3
    ssm_lrs: dict[str, float] = field(default_factory=dict)
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.98])
    eps: float = 1e-8
    warmup_steps: int = 20
    steps: int = 200
    min_lr_ratio: float = 0.05
    batch_size: int = 16
    accumulate: int = 1
    clip: float = 1.0
    log_every: int = 10
    valid_every: int = 50
    valid_batches: int = 8
    checkpoint_every: int = 50
    precision: str = "bfloat16"
    seed: int = 0
    tensorboard: bool = False


@dataclass
class EvaluateConfig:
    """How a model and its baselines are judged on the test split.

    lengths: window lengths (classification), read in chunks of `chunk` positions with the state carried.
    max_windows: at most so many windows a length, drawn with `seed`; bootstrap: resamples for intervals.
    kmer, markov_order: the baselines' sizes.
    rate: for a store of sound at another sampling rate, the one of the model's training divided by it.
    """

    lengths: list[int] = field(default_factory=lambda: [1024])
    max_windows: int = 400
    batch_size: int = 16
    chunk: int = 4096
    bootstrap: int = 1000
    kmer: int = 4
    markov_order: int = 8
    rate: float = 1.0
    seed: int = 0


@dataclass
class ScoreConfig:
    """One pass over whole records in recurrent mode, `chunk` positions at a time (none: by the free memory).

    input: a file; none means no scoring in the workflow.
    strand: `forward`, `reverse` or `both` (the mean of the two); the latter for DNA only.
    outputs: what `--tracks` writes: `bigwig` and `bedgraph` of log-likelihood and entropy or of each class's
        probability, `embeddings` of every position and `pooled` ones of every record, both NPY, and
        `embeddings_parquet` and `pooled_parquet`.
    precision: of the layers on a GPU, `bfloat16` (autocast) or `float32`; a CPU always takes float32.
    rate: of sound; read at the sampling rate of the model's training divided by it.
    """

    input: str | None = None
    chunk: int | None = None
    strand: str = "forward"
    outputs: list[str] = field(default_factory=lambda: ["bigwig"])
    precision: str = "bfloat16"
    rate: float = 1.0


@dataclass
class VariantsConfig:
    """Alternative alleles against the reference, by a language model of DNA.

    window: positions whose likelihood is compared; the contig is cut into windows that overlap by half.
    tolerance: relative error of a score that prefix reuse may leave, by estimate; 0 reads every window to its
    end.
    """

    window: int = 65536
    tolerance: float = 1e-3


@dataclass
class GenerateConfig:
    """Sampling from a language model. length: samples or bases, 0 means no generation in the workflow.

    count: items, from one prompt; each has a random stream of its own, made of `seed` and its number.
    label: class of what is made, of a model trained with labels (`task.labelled`).
    prompt: letters that come first. prompt_length: or so many positions of a test record.
    temperature: 0 takes the likeliest byte.
    top_k, top_p, min_p: draw from the so many likeliest bytes (0: all), of these from the fewest that hold
        this share of the probability, of these from the ones at least this share as likely as the likeliest.
    stop: letters behind which an item ends, each entry for itself, such as [TAA,TAG,TGA].
    precision: of the matrices on a GPU, `bfloat16` or `float32`, sums and states in float32; a CPU, and
        layers without fused steps, always take float32.
    state: also write the state after each item's last byte, for `--state` to go on from.
    """

    length: int = 0
    count: int = 1
    label: str | None = None
    prompt: str = ""
    prompt_length: int = 0
    temperature: float = 1.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    seed: int = 0
    stop: list[str] = field(default_factory=list)
    precision: str = "bfloat16"
    state: bool = False


@dataclass
class Config:
    """One experiment. device: `auto` (a GPU where there is one), `cpu`, `cuda`.

    title, remark: what its page in the report is called, and what a reader should bear in mind.
    """

    title: str = ""
    remark: str = ""
    data: DataConfig = field(default_factory=DataConfig)
    task: TaskConfig = field(default_factory=TaskConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    evaluate: EvaluateConfig = field(default_factory=EvaluateConfig)
    score: ScoreConfig = field(default_factory=ScoreConfig)
    variants: VariantsConfig = field(default_factory=VariantsConfig)
    generate: GenerateConfig = field(default_factory=GenerateConfig)
    device: str = "auto"


def compose(overrides: Sequence[str] = (), directory: Path | str = "config") -> Config:
    """The typed configuration of `config.yaml` in `directory` with Hydra overrides on top.

    Raises:
        InputError: an unknown key, experiment or a value of the wrong type, with the nearest names.
    """
    directory = Path(directory).resolve()
    if not (directory / "config.yaml").is_file():
        raise InputError(
            f"{directory}: no config.yaml here; give the folder of the Hydra tree with --config-dir"
        )
    ConfigStore.instance().store(name="schema", node=Config)
    try:
        with initialize_config_dir(str(directory), version_base="1.3"):
            composed = hydra_compose("config", overrides=list(overrides))
        config = OmegaConf.to_object(composed)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(_plain(error, overrides, directory)) from error
    assert isinstance(config, Config)
    return config


def expect_at_least(config: Config, least: dict[str, float]) -> None:
    """Check values by their dotted names.

    Raises:
        InputError: a value, or an entry of a list of values, is below its least one; names the first.
    """
    for name, low in least.items():
        value = attrgetter(name)(config)
        if min(value if isinstance(value, list) else [value], default=low - 1) < low:
            raise InputError(f"{name}={value}: expected {low} or more")


def _plain(error: Exception, overrides: Sequence[str], directory: Path) -> str:
    """Hydra's error as one sentence with the nearest names that exist."""
    for override in overrides:
        key, _, value = override.lstrip("+~").partition("=")
        if (directory / key).is_dir():
            known = sorted(path.stem for path in (directory / key).glob("*.yaml"))
            if value not in known:
                return f"{key}={value}: there is no such {key}{_nearest(value, known)}"
        elif key not in (known := _keys(Config)):
            return f"{override}: there is no key {key!r}{_nearest(key, known)}"
    # Hydra says where it was, the error of OmegaConf below it what was wrong.
    where = str(error).strip().splitlines()[0]
    cause = error.__cause__ or error.__context__
    if not isinstance(cause, OmegaConfBaseException):
        return f"configuration: {where}"
    what = str(cause).strip().splitlines()[0]
    near = ""
    if isinstance(cause, ConfigKeyError | ConfigAttributeError):
        section = next((item.name for item in fields(Config) if item.type is cause.object_type), "")
        near = _nearest(f"{section}.{cause.key}", _keys(Config))
    return f"configuration: {where.rstrip(':')}: {what}{near}"


def _nearest(name: str, known: list[str]) -> str:
    close = get_close_matches(name, known, n=3, cutoff=0.4)
    return f"; nearest: {', '.join(close)}" if close else f"; known: {', '.join(known)}"


def _keys(cls: type, prefix: str = "") -> list[str]:
    names = []
    for item in fields(cls):
        names.append(prefix + item.name)
        if is_dataclass(item.type):
            names += _keys(item.type, f"{prefix}{item.name}.")
    return names
