"""A model and a file of any length -> what the model makes of every record, in one recurrent pass each."""

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from ssm_seq.commands.device import choose_device
from ssm_seq.config import compose
from ssm_seq.data.alphabet import Sound, alphabet
from ssm_seq.data.audio import read_audio
from ssm_seq.data.fasta import read_fasta
from ssm_seq.data.store import Store, StoreWriter
from ssm_seq.files import write_json
from ssm_seq.inference import score_record
from ssm_seq.models import Classifier, LanguageModel, load_model


def run(options: Namespace) -> None:
    """Write {"file", "records": [{"record", ...}]}, each record as `ssm_seq.inference.Score` describes it."""
    config = compose(options.overrides, options.config_dir)
    model = load_model(options.model, choose_device(config.device))
    options.out.parent.mkdir(parents=True, exist_ok=True)
    # On the result's disk, not in memory: a record may be far longer than memory.
    with TemporaryDirectory(prefix=f".{options.out.name}.", dir=options.out.parent) as folder:
        store = read_store(options.input, model, Path(folder) / "store")
        records = [
            {"record": record.name}
            | asdict(score_record(model, partial(store.ids, number), record.length, config.score.chunk))
            for number, record in enumerate(store.records)
        ]
    write_json(options.out, {"file": str(options.input), "records": records})


def read_store(path: Path, model: Classifier | LanguageModel, folder: Path) -> Store:
    """The records of a FASTA or audio file as the model reads them.

    Raises:
        InputError: the file is not what the model was trained on, or is damaged.
    """
    letters = alphabet(model.alphabet)
    records: Iterable = read_fasta(path)
    if isinstance(letters, Sound):
        records = [(path.stem, map(letters.encode_waveform, read_audio(path, model.sample_rate)))]
    with StoreWriter(folder, model.alphabet, model.sample_rate) as writer:
        for name, chunks in records:
            writer.add(name, chunks, source=str(path))
    return Store.open(folder)
