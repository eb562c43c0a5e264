"""Records of a store scored on one strand or both, with tracks; killed and started again, it goes on.

All that a run needs to go on lies in one working folder: the values of the positions read so far, the scores
of finished records and the state of the one under way.
"""

import json
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ssm_seq.data.alphabet import DNA
from ssm_seq.data.store import Store
from ssm_seq.errors import InputError
from ssm_seq.files import write_json
from ssm_seq.inference.score import Score, Sink, score_record
from ssm_seq.inference.score_batch import Row, fits_a_batch, named, score_rows
from ssm_seq.inference.score_chunk import choose_chunk
from ssm_seq.inference.score_finished import Finished
from ssm_seq.inference.score_values import EMBEDDING, ENTROPY, LOG_LIKELIHOOD, PROBABILITY
from ssm_seq.inference.state import fingerprint
from ssm_seq.inference.stream import Ids
from ssm_seq.inference.tracks import Stored, mean, write_bedgraph, write_npy
from ssm_seq.inference.tracks_bigwig import write_bigwig
from ssm_seq.inference.tracks_parquet import check_installed, write_pooled, write_positions
from ssm_seq.models import Classifier, LanguageModel

STRANDS = {"forward": ("forward",), "reverse": ("reverse",), "both": ("forward", "reverse")}
PRECISIONS = ("bfloat16", "float32")
BIGWIG, BEDGRAPH, EMBEDDINGS, POOLED = "bigwig", "bedgraph", "embeddings", "pooled"
EMBEDDINGS_PARQUET, POOLED_PARQUET = "embeddings_parquet", "pooled_parquet"
OUTPUTS = (BIGWIG, BEDGRAPH, EMBEDDINGS, POOLED, EMBEDDINGS_PARQUET, POOLED_PARQUET)


@dataclass(frozen=True)
class Request:
    """What to make of each record. chunk: positions at once, None by the free memory. strand: one of STRANDS.
    outputs: some of OUTPUTS, written as files of a folder. precision: of the layers on a GPU, one of
    PRECISIONS; a CPU always takes float32.

    On the reverse strand a record is read from its last position to its first, each base complemented. `both`
    reads it twice and gives the mean of the two values of each position.
    """

    chunk: int | None = None
    strand: str = "forward"
    outputs: tuple[str, ...] = ()
    precision: str = "bfloat16"

    def check(self, model: Classifier | LanguageModel) -> None:
        """Raises InputError for an unknown word, or a strand that the model's alphabet hasn't."""
        if self.strand not in STRANDS:
            raise InputError(f"score.strand={self.strand}: expected {', '.join(STRANDS)}")
        if self.strand != "forward" and model.alphabet != DNA.name:
            raise InputError(
                f"score.strand={self.strand}: only DNA has another strand, this model reads {model.alphabet}"
            )
        if self.precision not in PRECISIONS:
            raise InputError(f"score.precision={self.precision}: expected {', '.join(PRECISIONS)}")
        for output in self.outputs:
            if output not in OUTPUTS:
                raise InputError(f"score.outputs has {output!r}; known: {', '.join(OUTPUTS)}")
        if {EMBEDDINGS_PARQUET, POOLED_PARQUET} & set(self.outputs):
            check_installed()

    @property
    def embeds(self) -> bool:
        """Whether the hidden vectors of all positions are kept."""
        return bool({EMBEDDINGS, EMBEDDINGS_PARQUET} & set(self.outputs))

    @property
    def pools(self) -> bool:
        """Whether their means are."""
        return bool({POOLED, POOLED_PARQUET} & set(self.outputs))


def score_store(
    model: Classifier | LanguageModel,
    store: Store,
    records: Sequence[int],
    request: Request,
    work: Path,
    folder: Path | None = None,
) -> list[dict[str, Any]]:
    """Score some records; a dictionary for each in their order, with its name, ready for JSON.

    Short records are read side by side, those of similar lengths in one batch.

    Each holds `ssm_seq.inference.Score` of the strand asked for. With both it is that of the forward strand,
    `reverse` holds the other's and `mean` the total_bits or final probabilities of both.

    Args:
        work: working folder. What an earlier call with the same model, store and request left there is used.
        folder: where the outputs go, with an index tracks.json. Tracks are log_likelihood and entropy in
            nats, or the probability of each class; the rows of embeddings.npy are the positions of all the
            records in turn, those of pooled.npy the records.

    Raises:
        InputError: see `score_record` and `Request.check`; it names the record.
    """
    request.check(model)
    _prepare(work, model, store, records, request)
    run = _Run(model, store, records, request, work)
    with ExitStack() as stack:
        passes = {strand: run.read(strand, stack) for strand in STRANDS[request.strand]}
        if folder:
            run.write(
                folder, [scores for scores, _ in passes.values()], [kept for _, kept in passes.values()]
            )
    return [
        {"record": store.records[record].name} | _summary([scores[place] for scores, _ in passes.values()])
        for place, record in enumerate(records)
    ]


@dataclass(frozen=True)
class _Run:
    model: Classifier | LanguageModel
    store: Store
    records: Sequence[int]
    request: Request
    work: Path

    def read(self, strand: str, stack: ExitStack) -> tuple[list[Score], dict[str, Stored]]:
        """The scores of all records on a strand, and the values of all positions by name."""
        columns, length = self._columns(), sum(self._lengths())
        kept = {
            name: stack.enter_context(Stored(self.work / f"{strand}.{name}.f32", length, width))
            for name, width in columns.items()
        }
        bases = dict(zip(self.records, np.cumsum([0, *self._lengths()]).tolist(), strict=False))
        finished = stack.enter_context(Finished(self.work / f"{strand}.scores"))
        rows = [self._row(record, strand) for record in self.records if record not in finished]

        def sink(row: Row, start: int, values: dict[str, NDArray[np.float32]]) -> None:
            for name, part in values.items():
                if strand == "reverse":  # its values too are stored at their position of the record
                    kept[name].write(bases[row.number] + row.length - start - len(part), part[::-1])
                else:
                    kept[name].write(bases[row.number] + start, part)

        half, pooled = self._half(), self.request.pools
        positions = choose_chunk(self.model, half=half)
        positions = min(positions, self.request.chunk or positions)
        short = [row for row in rows if fits_a_batch(self.model, row.length, positions)]
        if len(short) > 1:
            model, wanted = self.model, tuple(columns)
            whole = lambda row, values: sink(row, 0, values)  # noqa: E731
            for row, score in score_rows(model, short, positions, wanted, whole, pooled, half):
                finished.add(row.number, score)
        for row in rows:
            if row.number not in finished:
                finished.add(row.number, self._alone(row, strand, tuple(columns), partial(sink, row)))
        return [finished[record] for record in self.records], kept

    def _row(self, record: int, strand: str) -> Row:
        known, read = self.store.records[record], partial(self.store.ids, record)
        return Row(
            record, known.name, _reverse(read, known.length) if strand == "reverse" else read, known.length
        )

    def _alone(self, row: Row, strand: str, wanted: tuple[str, ...], sink: Sink) -> Score:
        """A record in chunks; its state is saved from time to time."""
        saved, pooled = self.work / f"{strand}.{row.number}.state", self.request.pools
        chunk, half = self.request.chunk, self._half()
        with named(row):
            score = score_record(self.model, row.read, row.length, chunk, wanted, sink, saved, pooled, half)
        saved.unlink(missing_ok=True)
        return score

    def write(self, folder: Path, scores: list[list[Score]], strands: list[dict[str, Stored]]) -> None:
        """Write the outputs: of two strands the mean."""
        lengths, outputs, files = self._lengths(), self.request.outputs, {}
        records = [
            (re.sub(r"\s", "_", self.store.records[record].name), length)
            for record, length in zip(self.records, lengths, strict=True)
        ]
        starts = np.cumsum([0, *lengths]).tolist()
        for track, name, column in self._tracks():
            stored = [kept[name] for kept in strands]

            def read(
                record: int, start: int, end: int, stored: list[Stored] = stored, column: int = column
            ) -> NDArray[np.float32]:
                first = starts[record]
                return mean([values.read(first + start, first + end)[:, column] for values in stored])

            if BIGWIG in outputs:
                write_bigwig(folder / f"{track}.bw", records, read, torch.get_num_threads())
                files[f"{track}.bw"] = self._meaning(name, column)
            if BEDGRAPH in outputs:
                write_bedgraph(folder / f"{track}.bedGraph", records, read)
                files[f"{track}.bedGraph"] = self._meaning(name, column)
        files |= self._write_vectors(folder, records, scores, [kept.get(EMBEDDING) for kept in strands])
        index = [
            {"record": name, "start": start, "length": length}
            for (name, length), start in zip(records, starts[:-1], strict=True)
        ]
        about = {"strand": self.request.strand, "files": files, "records": index}
        write_json(folder / "tracks.json", about)

    def _write_vectors(
        self,
        folder: Path,
        records: list[tuple[str, int]],
        scores: list[list[Score]],
        vectors: list[Stored | None],
    ) -> dict[str, str]:
        """Write the hidden vectors that are wanted; the files and what they hold."""
        outputs, files = self.request.outputs, {}
        starts, what = np.cumsum([0, *self._lengths()]).tolist(), "last hidden vectors, a row for each"

        def read(record: int, start: int, end: int) -> NDArray[np.float32]:
            first = starts[record]
            return mean([values.read(first + start, first + end) for values in vectors])

        if EMBEDDINGS in outputs:
            write_npy(folder / "embeddings.npy", vectors)
            files["embeddings.npy"] = f"{what} position of the records in turn"
        if EMBEDDINGS_PARQUET in outputs:
            write_positions(folder / "embeddings.parquet", records, read, vectors[0].columns)
            files["embeddings.parquet"] = f"{what} position of the records in turn"
        if self.request.pools:
            pooled = np.array([[score.pooled for score in each] for each in scores], np.float64)
            rows = pooled.mean(0).astype(np.float32)
        if POOLED in outputs:
            np.save(folder / "pooled.npy", rows)
            files["pooled.npy"] = f"mean of the {what} record"
        if POOLED_PARQUET in outputs:
            write_pooled(folder / "pooled.parquet", [name for name, _ in records], rows)
            files["pooled.parquet"] = f"mean of the {what} record"
        return files

    def _half(self) -> bool:
        return self.model.head.weight.is_cuda and self.request.precision == "bfloat16"

    def _lengths(self) -> list[int]:
        return [self.store.records[record].length for record in self.records]

    def _columns(self) -> dict[str, int]:
        """The values to keep for every position and their numbers of columns."""
        columns = {}
        if BIGWIG in self.request.outputs or BEDGRAPH in self.request.outputs:
            columns = {LOG_LIKELIHOOD: 1, ENTROPY: 1}
            if isinstance(self.model, Classifier):
                columns = {PROBABILITY: len(self.model.classes)}
        if self.request.embeds:
            columns[EMBEDDING] = self.model.config.d_model
        return columns

    def _tracks(self) -> list[tuple[str, str, int]]:
        """Each track's file name, the values that it shows and their column."""
        if PROBABILITY not in self._columns():
            return [(name, name, 0) for name in self._columns() if name != EMBEDDING]
        return [
            (f"{PROBABILITY}_{column}_{re.sub(r'[^A-Za-z0-9.-]+', '_', label)}", PROBABILITY, column)
            for column, label in enumerate(self.model.classes)
        ]

    def _meaning(self, name: str, column: int) -> str:
        if name == PROBABILITY:
            return f"probability of {self.model.classes[column]} for everything read up to the position"
        return {
            LOG_LIKELIHOOD: "log-likelihood of the symbol at the position given all read before it, nats",
            ENTROPY: "entropy of what is expected at the position, nats",
        }[name]


def _prepare(
    work: Path, model: Classifier | LanguageModel, store: Store, records: Sequence[int], request: Request
) -> None:
    """Empty the working folder of what belongs to another model, store or request."""
    work.mkdir(parents=True, exist_ok=True)
    job = {
        "model": fingerprint(model),
        "store": store.checksum,
        "records": [[record, store.records[record].length] for record in records],
        **asdict(request),
    }
    path = work / "job.json"
    job = json.loads(json.dumps(job))
    if path.exists() and json.loads(path.read_text()) == job:
        return
    for pattern in ("*.json", "*.state", "*.f32", "*.scores"):
        for left in work.glob(pattern):
            left.unlink()
    write_json(path, job)


def _reverse(read: Callable[[int, int], Ids], length: int) -> Callable[[int, int], Ids]:
    """Reads the other strand of a record: its position 0 faces the record's last."""
    return lambda start, end: DNA.complement(read(length - end, length - start))[::-1]


def _summary(scores: list[Score]) -> dict[str, Any]:
    """Of the one strand read, or of both with their mean."""
    plain = [{key: value for key, value in asdict(score).items() if key != "pooled"} for score in scores]
    if len(scores) == 1:
        return plain[0]
    if scores[0].total_bits is None:
        ends = [score.track[-1]["probabilities"] for score in scores]
        return plain[0] | {"reverse": plain[1], "mean": {"probabilities": np.mean(ends, axis=0).tolist()}}
    mean_bits = (scores[0].total_bits + scores[1].total_bits) / 2
    return plain[0] | {"reverse": plain[1], "mean": {"total_bits": mean_bits}}


def can_go_on(work: Path) -> bool:
    """Whether the working folder holds a finished record or a saved state."""
    return any(work.glob("*.state")) or any(path.stat().st_size for path in work.glob("*.scores"))


def forget(work: Path) -> None:
    """Remove a working folder; nothing can go on from it."""
    shutil.rmtree(work, ignore_errors=True)
