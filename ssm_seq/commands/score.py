"""A model and a file of any length -> what the model makes of every record, in one recurrent pass each."""

import errno
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from ssm_seq.commands import variants
from ssm_seq.commands.device import choose_device
from ssm_seq.commands.sampling import at_rate
from ssm_seq.commands.stores import store_for
from ssm_seq.config import compose
from ssm_seq.data.alphabet import BYTES, Sound, alphabet
from ssm_seq.data.audio import read_audio
from ssm_seq.data.fasta import blocks, read_fasta
from ssm_seq.data.store import Store, StoreWriter
from ssm_seq.errors import InputError
from ssm_seq.files import only_run_in, whole_directory, write_json
from ssm_seq.inference.score_store import Request, can_go_on, forget, score_store
from ssm_seq.models import Classifier, LanguageModel, load_model

STANDARD_INPUT = Path("-")


def run(options: Namespace) -> None:
    """Write {"file", "strand", "records": [{"record", ...}]}, each as `score_store` describes it."""
    if options.variants or options.reference:
        return variants.run(options)
    if options.input is None:
        raise InputError("name a file with --input, or calls with --variants and --reference")
    config = compose(options.overrides, options.config_dir)
    model = load_model(options.model, choose_device(config.device))
    model = at_rate(model, config.score.rate, "score.rate")
    outputs = tuple(config.score.outputs) if options.tracks else ()
    request = Request(config.score.chunk, config.score.strand, outputs, config.score.precision)
    request.check(model)
    # On the result's disk, not in memory: a record may be far longer than memory.
    with _working_folder(options.out.parent / f".{options.out.name}.work") as work:
        store = open_store(options.input, model, work)
        records = _chosen(store, options.record, options.input)
        if options.tracks:
            with whole_directory(options.tracks, "tracks.json") as folder:
                results = score_store(model, store, records, request, work, folder)
        else:
            results = score_store(model, store, records, request, work)
        write_json(options.out, {"file": str(options.input), "strand": request.strand, "records": results})


@contextmanager
def _working_folder(work: Path) -> Iterator[Path]:
    """The folder of this result's working files; it stays only if there is something to go on from."""
    finished = False
    try:
        with only_run_in(work):
            try:
                yield work
                finished = True
            finally:
                if finished or not can_go_on(work):
                    forget(work)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        again = "run it again and it goes on" if work.exists() else "run it again"
        raise InputError(f"{work.parent}: the disk is full; free some space, then {again}") from error


def open_store(path: Path, model: Classifier | LanguageModel, work: Path) -> Store:
    """The records of a store, a FASTA or audio file, or of what standard input brings (the path -).

    Raises:
        InputError: the file is not what the model was trained on, or is damaged.
    """
    if path.is_dir():
        return store_for(model, path)
    if path != STANDARD_INPUT:
        return read_store(path, model, work / "store")
    spooled = work / "stdin"
    with spooled.open("wb") as file:
        shutil.copyfileobj(sys.stdin.buffer, file, 1 << 20)
    return read_store(spooled, model, work / "store")


def read_store(path: Path, model: Classifier | LanguageModel, folder: Path) -> Store:
    """The records of a FASTA, audio or text file as the model reads them.

    Raises:
        InputError: the file is not what the model was trained on, or is damaged.
    """
    letters = alphabet(model.alphabet)
    records: Iterable = read_fasta(path)
    if isinstance(letters, Sound):
        records = [(path.stem, map(letters.encode_waveform, read_audio(path, model.sample_rate)))]
    elif letters is BYTES:
        records = [(path.stem, blocks(path))]
    with StoreWriter(folder, model.alphabet, model.sample_rate) as writer:
        for name, chunks in records:
            writer.add(name, chunks, source=str(path))
    return Store.open(folder)


def _chosen(store: Store, name: str | None, path: Path) -> list[int]:
    """The numbers of all records, or of the one of that name."""
    names = [record.name for record in store.records]
    if name is None:
        return list(range(len(names)))
    if name not in names:
        raise InputError(f"{path}: there is no record {name!r}; it has {', '.join(names[:5])}")
    return [names.index(name)]
