"""A language model -> sequences that it makes up step by step, as WAV or FASTA."""

import io
from argparse import Namespace
from pathlib import Path

import numpy as np
import soundfile
import torch

from ssm_seq.commands.device import choose_device
from ssm_seq.commands.stores import store_for
from ssm_seq.config import GenerateConfig, compose, expect_at_least
from ssm_seq.data.alphabet import BYTES, Alphabet, Bytes, Sound, alphabet
from ssm_seq.errors import InputError
from ssm_seq.files import whole_directory, write_json
from ssm_seq.inference import Engine, Generated, Rule, State, engine, generate
from ssm_seq.inference.score_store import PRECISIONS
from ssm_seq.inference.stream import inference
from ssm_seq.models import LanguageModel, load_model

_LINE = 80


def run(options: Namespace) -> None:
    """Write generated-0.wav, generated-1.wav, ... or generated.fa, and generated.json, into a folder."""
    config = compose(options.overrides, options.config_dir)
    if config.generate.length < 1:
        raise InputError("generate.length: expected the number of positions to generate, for example 16000")
    expect_at_least(config, {"generate.prompt_length": 0, "generate.seed": 0})
    wanted = config.generate
    rule = _rule(wanted)
    for name in ("label", "prompt"):
        if getattr(options, name) is not None:
            setattr(wanted, name, getattr(options, name))
    given = [name for name in ("prompt", "prompt_length") if getattr(wanted, name)]
    if len(given) > 1:
        raise InputError("generate.prompt, generate.prompt_length: give the letters or the length, not both")
    if options.state and (given or wanted.label is not None):
        name = "generate." + (given or ["label"])[0]
        raise InputError(f"{name}: a state knows its past; leave out {name} or --state")
    model = load_model(options.model, choose_device(config.device))
    if not isinstance(model, LanguageModel):
        raise InputError(f"{options.model}: this is a classifier; only a language model generates")
    letters = alphabet(model.alphabet)  # one without letters is refused before the work
    stop = [_letters("stop", text, letters) for text in wanted.stop]
    run_by = _engine(model, wanted.precision)
    prompt, origin = np.empty(0, np.uint8), None
    if options.state:
        prompt = State.load(options.state, model)
    elif wanted.prompt:
        prompt, origin = _letters("prompt", wanted.prompt, letters), wanted.prompt
    elif wanted.prompt_length:
        prompt, origin = read_prompt(options.store, wanted.prompt_length, model)
    made = generate(model, prompt, wanted.length, rule, wanted.seed, wanted.count, stop, run_by, wanted.label)
    with whole_directory(options.out, "generated.json") as folder:
        ids = [row[:length] for row, length in zip(made.ids, made.lengths, strict=True)]
        write_sequences(folder, ids, model)
        if wanted.state:
            made.state.save(folder / "state.safetensors", model)
        write_json(folder / "generated.json", description(wanted, made, origin))


def _rule(wanted: GenerateConfig) -> Rule:
    try:
        return Rule(wanted.temperature, wanted.top_k, wanted.top_p, wanted.min_p)
    except ValueError as error:
        raise InputError(f"generate.{error}") from None


def _letters(name: str, text: str, letters: Alphabet) -> Bytes:
    """The ids of what a value says."""
    if isinstance(letters, Sound):
        raise InputError(f"generate.{name}={text}: a model of sound has no letters")
    try:
        return letters.encode(text.encode())
    except InputError as error:
        raise InputError(f"generate.{name}={text}: {error}") from None


def _engine(model: LanguageModel, precision: str) -> Engine:
    if precision not in PRECISIONS:
        raise InputError(f"generate.precision={precision}: expected {', '.join(PRECISIONS)}")
    rounded = precision == "bfloat16" and model.head.weight.is_cuda
    with inference(model):
        return engine(model, torch.bfloat16 if rounded else None)


def read_prompt(path: Path | None, length: int, model: LanguageModel) -> tuple[Bytes, str]:
    """Ids of the opening of the first test record that is long enough, and that record's name.

    Raises:
        InputError: there is no store, it holds other data than the model's, or it has no such record.
    """
    if path is None:
        raise InputError("generate.prompt_length: a prompt is taken from a store, name one with --store")
    store = store_for(model, path)
    for number, record in enumerate(store.records):
        for span in record.ranges:
            if span.split == "test" and span.end - span.start >= length:
                try:
                    return store.ids(number, span.start, span.start + length), record.name
                except InputError as error:
                    raise InputError(f"{path}: record {record.name}: {error}") from None
    raise InputError(f"{path}: no test record is {length} positions long (generate.prompt_length)")


def write_sequences(folder: Path, ids: list[Bytes], model: LanguageModel) -> None:
    """ids, one array an item, as 16-bit mono WAV files, text files, or the records of one FASTA file."""
    letters = alphabet(model.alphabet)
    if isinstance(letters, Sound):
        for number, sequence in enumerate(ids):
            waveform, file = letters.decode_waveform(letters.decode(sequence)), io.BytesIO()
            soundfile.write(file, waveform, model.sample_rate, subtype="PCM_16", format="WAV")
            # Not by soundfile itself: on a full disk it says "System error".
            (folder / f"generated-{number}.wav").write_bytes(file.getvalue())
        return
    if letters is BYTES:
        for number, sequence in enumerate(ids):
            (folder / f"generated-{number}.txt").write_bytes(letters.decode(sequence).tobytes())
        return
    with (folder / "generated.fa").open("w") as file:
        for number, sequence in enumerate(ids):
            text = letters.decode(sequence).tobytes().decode()
            lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
            print(f">generated-{number}", *lines, sep="\n", file=file)


def description(wanted: GenerateConfig, made: Generated, origin: str | None) -> dict:
    """How the sequences were made, and how fast."""
    return {
        **vars(wanted),
        "prompt": origin,
        "lengths": made.lengths.tolist(),
        "seconds": made.seconds,
        "steps_per_second": made.steps_per_second,
    }
