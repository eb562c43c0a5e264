"""Files of a sample sheet -> one byte store, with a summary of what went in."""

import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from ssm_seq.config import StoreConfig
from ssm_seq.data.alignments import Reference, read_reads, read_reference
from ssm_seq.data.alphabet import BYTES, Bytes, Sound, alphabet
from ssm_seq.data.audio import read_audio
from ssm_seq.data.consensus import Comparison, read_consensus
from ssm_seq.data.fasta import blocks, read_fasta
from ssm_seq.data.samples import read_samples
from ssm_seq.data.splits import divide
from ssm_seq.data.store import Record, StoreWriter
from ssm_seq.errors import InputError
from ssm_seq.files import write_json

KINDS = ("fasta", "reads", "consensus", "audio", "text")


def prepare(config: StoreConfig, out: Path, samples: Path | None = None) -> dict[str, Any]:
    """Write the store `out` from the files of a sample sheet; give back its summary, `summary.json` in it.

    A record's name is `SAMPLE/PART`. PART is a FASTA record's id, a sound or text file's name without ending
    (within the pattern of its row), a read's name, or the region or contig of a consensus.

    samples: a sheet instead of the one that `config` names.

    Raises:
        InputError: the sheet, a file, a record or the split is bad, or the disk full; nothing is kept.
    """
    started = time.perf_counter()
    source = _Source(config)
    rows = read_samples(samples or config.samples)
    sizes = {file: Path(file).stat().st_size for row in rows for file in row.files if row.parts}
    console, done = Console(stderr=True), 0
    with (
        StoreWriter(out, source.alphabet_name, source.sample_rate) as writer,
        Progress(console=console, disable=not console.is_terminal) as progress,
    ):
        task = progress.add_task(f"prepare {config.name}", total=sum(sizes.values()))

        def show(position: int) -> None:
            progress.update(task, completed=done + position)

        for row in rows:
            split = row.split if config.split.by == "column" else None
            if not row.parts:
                raise InputError(f"{row.files[0]}: not there; `snakemake --cores 1 {row.files[0]}` brings it")
            for file, part in zip(row.files, row.parts, strict=True):
                for name, chunks in source.records(file, part, show):
                    writer.add(f"{row.name}/{name}", chunks, row.label, row.group, split, source=file)
                done += sizes[file]
                show(0)
        writer.records = divide(writer.records, config.split)
        seconds = time.perf_counter() - started
        summary = {
            "name": config.name,
            "kind": config.kind,
            "alphabet": source.alphabet_name,
            "sample_rate": source.sample_rate,
            "records": len(writer.records),
            "positions": writer.size,
            "sha256": writer.checksum,
            "parts": _parts(writer.records),
            "groups_in_several_splits": _groups_in_several_splits(writer.records),
            "skipped_reads": dict(source.skipped),
            "consensus": [comparison.summary() for comparison in source.comparisons],
            "input_bytes": sum(sizes.values()),
            "seconds": round(seconds, 3),
            "megabytes_per_second": round(sum(sizes.values()) / 1e6 / seconds, 3),
        }
        write_json(writer.folder / "summary.json", summary)
    return summary


@dataclass
class _Source:
    """Reads files of one kind, and keeps what alignments leave to be told: skipped reads, comparisons."""

    config: StoreConfig
    alphabet_name: str = "dna"
    sample_rate: int | None = None
    reference: Reference = field(default_factory=dict)
    skipped: Counter[str] = field(default_factory=Counter)
    comparisons: list[Comparison] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.config.kind not in KINDS:
            raise InputError(f"data.store.kind={self.config.kind}: expected one of {', '.join(KINDS)}")
        if self.config.kind == "audio":
            self.alphabet_name, self.sample_rate = self.config.encoding, self.config.sample_rate
            if not isinstance(alphabet(self.alphabet_name), Sound):
                raise InputError(f"data.store.encoding={self.config.encoding}: expected mu_law or linear")
            if self.sample_rate <= 0:
                raise InputError(f"data.store.sample_rate={self.sample_rate}: expected a rate in Hz")
        elif self.config.kind == "text":
            self.alphabet_name = BYTES.name
        elif self.config.kind != "fasta":
            self.reference = read_reference(self.config.reference)

    def records(
        self, file: str, part: str, show: Callable[[int], None]
    ) -> Iterable[tuple[str, Iterable[bytes | Bytes]]]:
        """(name, chunks) of each record of a file."""
        match self.config.kind:
            case "fasta":
                return read_fasta(file, show)
            case "text":
                return [(part, blocks(file, show))]
            case "reads":
                return read_reads(file, self.config, self.reference, self.skipped)
            case "consensus":
                return read_consensus(file, self.config, self.reference, self.skipped, self.comparisons)
        sound = alphabet(self.alphabet_name)
        assert isinstance(sound, Sound) and self.sample_rate
        return [(part, map(sound.encode_waveform, read_audio(file, self.sample_rate)))]


def _parts(records: list[Record]) -> list[dict[str, Any]]:
    """How many records and positions each label has in each split, sorted; None is in no split."""
    parts: dict[tuple[str, str], list[int]] = defaultdict(lambda: [0, 0])
    for record in records:
        ranges = record.ranges or [(0, record.length, "")]
        for start, end, split in ranges:
            parts[record.label or "", split][1] += end - start
        for split in {span[2] for span in ranges}:
            parts[record.label or "", split][0] += 1
    return [
        {"label": label or None, "split": split or None, "records": count, "positions": positions}
        for (label, split), (count, positions) in sorted(parts.items())
    ]


def _groups_in_several_splits(records: list[Record]) -> list[str]:
    """Groups (strains, speakers) that training and test share: allowed, but not to be hidden."""
    splits: dict[str, set[str]] = defaultdict(set)
    for record in records:
        if record.group is not None:
            splits[record.group] |= {span.split for span in record.ranges}
    return sorted(group for group, present in splits.items() if len(present) > 1)
