"""The byte store: one flat uint8 array on disk and a small index.

A store is a folder with `sequence.npy` (every record's bytes, one after the other, exactly as they were read)
and `index.json` (alphabet, sample rate, checksum, and for each record its name, place, label, group, source
and the ranges that belong to a split).
"""

import errno
import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from ssm_seq.data.alphabet import Alphabet, Bytes, alphabet
from ssm_seq.errors import InputError
from ssm_seq.files import whole_directory

SPLITS = ("train", "valid", "test")
_FORMAT = 1
_BLOCK = 1 << 24


class Range(NamedTuple):
    """Positions start..end-1 of a record belong to `split` (0-based, relative to the record)."""

    start: int
    end: int
    split: str


@dataclass(frozen=True)
class Record:
    """One sequence of a store: `length` bytes from `start` of the flat array, read from the file `source`."""

    name: str
    start: int
    length: int
    label: str | None = None
    group: str | None = None
    ranges: tuple[Range, ...] = ()
    source: str = ""


class StoreWriter:
    """Writes a store record by record; the folder appears when its `with` block ends well.

    Memory does not depend on how long the records are, but holds an index entry for each of them.
    `records` lists what was added; until the block ends its entries may be replaced (to set their ranges).
    `folder` is where other files of the store can be put before it appears.

    Raises:
        InputError: two records of one name, an empty record, no record at all, a full disk, or another
            folder of that name, which is not a store.
    """

    def __init__(self, path: Path | str, alphabet_name: str, sample_rate: int | None = None) -> None:
        self.path = Path(path)
        self.alphabet = alphabet(alphabet_name)
        self.sample_rate = sample_rate
        self.records: list[Record] = []
        self.size = 0
        self._names: set[str] = set()
        self._hash = hashlib.sha256()
        self._writing = self._write()

    def __enter__(self) -> Self:
        self._writing.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> bool | None:
        return self._writing.__exit__(kind, error, trace)

    @contextmanager
    def _write(self) -> Iterator[None]:
        try:
            with whole_directory(self.path, "index.json") as self.folder:
                with (self.folder / "sequence.npy").open("wb") as self._file:
                    _write_header(self._file, 0)
                    yield
                    if not self.records:
                        raise InputError(f"{self.path}: no record was found to put into the store")
                    self._file.seek(0)
                    _write_header(self._file, self.size)
                self._write_index()
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise InputError(
                f"{self.path.parent}: the disk is full after {self.size} bytes of store {self.path.name}; "
                "nothing was kept, so free some space and run it again"
            ) from error

    def add(
        self,
        name: str,
        chunks: Iterable[bytes | Bytes],
        label: str | None = None,
        group: str | None = None,
        split: str | None = None,
        ranges: Sequence[Range] = (),
        source: str = "",
    ) -> Record:
        """Append a record. It belongs to `split` as a whole, or to splits by `ranges`, or to none."""
        if name in self._names:
            raise InputError(f"{source or self.path}: a record {name!r} is in the store already")
        self._names.add(name)
        start = self.size
        for chunk in chunks:
            data = memoryview(chunk)
            self._hash.update(data)
            self._file.write(data)
            self.size += len(data)
        length = self.size - start
        if not length:
            raise InputError(f"{source or self.path}: record {name!r} is empty")
        if split is not None:
            ranges = [Range(0, length, split)]
        record = Record(name, start, length, label, group, tuple(ranges), source)
        self.records.append(record)
        return record

    @property
    def checksum(self) -> str:
        """SHA-256 of the bytes written so far."""
        return self._hash.hexdigest()

    def _write_index(self) -> None:
        head = {
            "format": _FORMAT,
            "alphabet": self.alphabet.name,
            "sample_rate": self.sample_rate,
            "size": self.size,
            "sha256": self.checksum,
        }
        with (self.folder / "index.json").open("w") as file:
            file.write(json.dumps(head, indent=1)[:-2])
            for count, record in enumerate(self.records):
                file.write(",\n" if count else ',\n "records": [\n')
                file.write(json.dumps(vars(record)))
            file.write("\n]}\n")


def _write_header(file: BinaryIO, size: int) -> None:
    """The .npy header; numpy pads it for any size, so that it can be written again over itself."""
    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (size,)})


class Store:
    """A store on disk, read through a memory map. Open one with `Store.open`."""

    def __init__(
        self,
        path: Path,
        data: Bytes,
        records: list[Record],
        alphabet: Alphabet,
        sample_rate: int | None,
        checksum: str,
    ) -> None:
        self.path = path
        self.data = data
        self.records = records
        self.alphabet = alphabet
        self.sample_rate = sample_rate
        self.checksum = checksum

    @classmethod
    def open(cls, path: Path | str) -> "Store":
        """Open a store; its bytes stay on disk until they are read.

        Raises:
            InputError: there is no store, or its files are damaged or don't belong together.
        """
        path = Path(path)
        index_path, data_path = path / "index.json", path / "sequence.npy"
        try:
            index = json.loads(index_path.read_text())
            records = [
                Record(**{**item, "ranges": tuple(Range(*span) for span in item["ranges"])})
                for item in index["records"]
            ]
            version, size, checksum = index["format"], index["size"], index["sha256"]
            letters, sample_rate = alphabet(index["alphabet"]), index["sample_rate"]
        except (FileNotFoundError, NotADirectoryError):
            raise InputError(f"{path}: no store here (no index.json); `ssm-seq prepare` makes one") from None
        except (ValueError, KeyError, TypeError, InputError) as error:
            raise _damaged(index_path, f"the index can't be read ({error})") from error
        if version != _FORMAT:
            raise _damaged(index_path, f"the store has format {version}, expected {_FORMAT}")
        try:
            data = np.load(data_path, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(data_path, "the array is missing or can't be read") from error
        if data.dtype != np.uint8 or data.shape != (size,):
            raise _damaged(data_path, f"{data.dtype} {data.shape} where the index says uint8 ({size},)")
        _check_places(index_path, records, size)
        return cls(path, data, records, letters, sample_rate, checksum)

    @cached_property
    def labels(self) -> list[str]:
        """The distinct labels, sorted by name; a label's place here is its class."""
        return sorted({record.label for record in self.records if record.label is not None})

    @cached_property
    def split_names(self) -> list[str]:
        """The splits that any record has a part in, in the order train, valid, test."""
        present = {span.split for record in self.records for span in record.ranges}
        return [split for split in SPLITS if split in present]

    def bytes(self, record: Record) -> Bytes:
        """The bytes of a record, (length,) uint8, as a view of the memory map."""
        return self.data[record.start : record.start + record.length]

    def ids(self, record: int, start: int = 0, end: int | None = None) -> NDArray[np.uint8]:
        """Token ids of positions start..end-1 of record number `record`, (end - start,) uint8."""
        return self.alphabet.encode(np.asarray(self.bytes(self.records[record])[start:end]))

    def verify(self) -> None:
        """Read every byte and compare with the checksum.

        Raises:
            InputError: the bytes are not those that were written.
        """
        digest = hashlib.sha256()
        for start in range(0, len(self.data), _BLOCK):
            digest.update(self.data[start : start + _BLOCK])
        if digest.hexdigest() != self.checksum:
            raise _damaged(self.path, "the bytes don't have the checksum of the index")


def _check_places(index_path: Path, records: list[Record], size: int) -> None:
    """Records must follow one another without gaps, ranges lie inside their record."""
    end = 0
    for record in records:
        inside = all(0 <= a < b <= record.length and split in SPLITS for a, b, split in record.ranges)
        if record.start != end or not inside:
            raise _damaged(index_path, f"record {record.name!r} is not where it should be")
        end += record.length
    if end != size:
        raise _damaged(index_path, f"the records have {end} bytes, the array {size}")


def _damaged(path: Path, what: str) -> InputError:
    return InputError(f"{path}: {what}; prepare the store again")
