"""A language model -> sequences that it makes up step by step, as WAV or FASTA."""

from argparse import Namespace
from pathlib import Path

import numpy as np
import soundfile

from ssm_seq.commands.device import choose_device
from ssm_seq.config import GenerateConfig, compose, expect_at_least
from ssm_seq.data.alphabet import Bytes, Sound, alphabet
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError
from ssm_seq.files import whole_directory, write_json
from ssm_seq.inference import Generated, generate
from ssm_seq.models import LanguageModel, load_model

_LINE = 80


def run(options: Namespace) -> None:
    """Write generated-0.wav, generated-1.wav, ... or generated.fa, and generated.json, into a folder."""
    config = compose(options.overrides, options.config_dir)
    if config.generate.length < 1:
        raise InputError("generate.length: expected the number of positions to generate, for example 16000")
    expect_at_least(config, {"generate.prompt_length": 0, "generate.seed": 0})
    model = load_model(options.model, choose_device(config.device))
    if not isinstance(model, LanguageModel):
        raise InputError(f"{options.model}: this is a classifier; only a language model generates")
    alphabet(model.alphabet)  # one without letters is refused before the work
    prompt, origin = np.empty(0, np.uint8), None
    if config.generate.prompt_length:
        prompt, origin = read_prompt(options.store, config.generate.prompt_length)
    wanted = config.generate
    made = generate(model, prompt, wanted.length, wanted.temperature, wanted.top_p, wanted.seed, wanted.count)
    with whole_directory(options.out, "generated.json") as folder:
        write_sequences(folder, made.ids, model)
        write_json(folder / "generated.json", description(wanted, made, origin))


def read_prompt(path: Path | None, length: int) -> tuple[Bytes, str]:
    """Ids of the opening of the first test record that is long enough, and that record's name.

    Raises:
        InputError: there is no store, or no such record in it.
    """
    if path is None:
        raise InputError("generate.prompt_length: a prompt is taken from a store, name one with --store")
    store = Store.open(path)
    for number, record in enumerate(store.records):
        for span in record.ranges:
            if span.split == "test" and span.end - span.start >= length:
                return store.ids(number, span.start, span.start + length), record.name
    raise InputError(f"{path}: no test record is {length} positions long (generate.prompt_length)")


def write_sequences(folder: Path, ids: Bytes, model: LanguageModel) -> None:
    """ids (count, length) as 16-bit mono WAV files, or as the records of one FASTA file."""
    letters = alphabet(model.alphabet)
    if isinstance(letters, Sound):
        for number, sequence in enumerate(ids):
            waveform = letters.decode_waveform(letters.decode(sequence))
            soundfile.write(folder / f"generated-{number}.wav", waveform, model.sample_rate, subtype="PCM_16")
        return
    with (folder / "generated.fa").open("w") as file:
        for number, sequence in enumerate(ids):
            text = letters.decode(sequence).tobytes().decode()
            lines = [text[start : start + _LINE] for start in range(0, len(text), _LINE)]
            print(f">generated-{number}", *lines, sep="\n", file=file)


def description(wanted: GenerateConfig, made: Generated, origin: str | None) -> dict:
    """How the sequences were made, and how fast."""
    return {
        "prompt": origin,
        **vars(wanted),
        "seconds": made.seconds,
        "steps_per_second": made.steps_per_second,
    }
