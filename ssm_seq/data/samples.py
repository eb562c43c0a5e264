"""The sample sheet: which files there are, and what they are. Imports no torch: the Snakefile reads it too.

A sheet is a table with a header, tab-separated, or comma-separated if its name ends in `.csv`. Columns:
`sample` and `path` (needed), `label`, `group` (strain, speaker), `split` (train, valid, test; empty: none).
A path is relative to the current directory and may be a glob pattern, for many files of one label.
"""

import csv
from dataclasses import dataclass
from difflib import get_close_matches
from glob import has_magic
from itertools import takewhile
from pathlib import Path

from ssm_seq.data.store import SPLITS
from ssm_seq.errors import InputError

SOURCES = ("data", "sources")
_COLUMNS = ("sample", "path", "label", "group", "split")


@dataclass(frozen=True)
class Sample:
    """One row. files: the files of its path, sorted; parts: their names in the pattern, without extension.

    A path below data/sources that is not there yet has the source as its file, and no parts.
    """

    name: str
    files: tuple[str, ...]
    parts: tuple[str, ...]
    label: str | None
    group: str | None
    split: str | None
    row: int


def read_samples(path: Path | str) -> list[Sample]:
    """The rows of a sample sheet, in its order.

    Raises:
        InputError: no such sheet, an unknown, missing or repeated column, an empty or repeated sample name,
            a path without a file, an unknown split, or a label that only some rows have.
    """
    path = Path(path)
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            table = csv.reader(file, delimiter="," if path.suffix.lower() == ".csv" else "\t")
            rows = [
                (table.line_num, [cell.strip() for cell in row]) for row in table if any(map(str.strip, row))
            ]
    except OSError as error:
        raise InputError(f"{path}: the sample sheet can't be read ({error.strerror})") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{path}: the sample sheet is not a table in UTF-8 ({error})") from error
    if len(rows) < 2:
        raise InputError(f"{path}: the sample sheet is empty; expected a header and at least one row")
    header = rows[0][1]
    _check_header(path, header)
    samples = [_sample(path, header, number, cells) for number, cells in rows[1:]]
    _check_samples(path, samples)
    return samples


def source_of(pattern: str) -> str | None:
    """The file or folder that the workflow brings for a path below `data/sources`; None for other paths."""
    pieces = Path(pattern).parts
    return "/".join(pieces[:3]) if pieces[:2] == SOURCES and len(pieces) > 2 else None


def _check_header(path: Path, header: list[str]) -> None:
    for name in header:
        if name not in _COLUMNS:
            nearest = get_close_matches(name.lower(), _COLUMNS, n=1) or _COLUMNS
            raise InputError(f"{path}: unknown column {name!r}; nearest: {', '.join(nearest)}")
        if header.count(name) > 1:
            raise InputError(f"{path}: the column {name!r} occurs twice")
    for name in ("sample", "path"):
        if name not in header:
            raise InputError(f"{path}: the column {name!r} is missing; the header has {', '.join(header)}")


def _sample(path: Path, header: list[str], row: int, cells: list[str]) -> Sample:
    if len(cells) != len(header):
        raise InputError(f"{path}: row {row} has {len(cells)} cells, the header {len(header)}")
    values = dict(zip(header, cells, strict=True))
    if not values["sample"] or not values["path"]:
        raise InputError(f"{path}: row {row} has no {'path' if values['sample'] else 'sample name'}")
    split = values.get("split") or None
    if split not in (None, *SPLITS):
        raise InputError(
            f"{path}: row {row} has the split {split!r}; expected {', '.join(SPLITS)} or nothing"
        )
    files, parts = _files(path, row, values["path"])
    return Sample(
        values["sample"], files, parts, values.get("label") or None, values.get("group") or None, split, row
    )


def _files(path: Path, row: int, pattern: str) -> tuple[tuple[str, ...], tuple[str, ...]]:
    if Path(pattern).is_file():
        return (pattern,), (Path(pattern).stem,)
    pieces = Path(pattern).parts
    fixed = list(takewhile(lambda piece: not has_magic(piece), pieces[:-1]))
    folder, rest = Path(*fixed), "/".join(pieces[len(fixed) :])
    found = sorted(file for file in folder.glob(rest) if file.is_file() and not file.name.startswith("."))
    if not found and (source := source_of(pattern)):
        return (source,), ()  # it will be there when the store is prepared
    if not found:
        raise InputError(f"{path}: row {row}: there is no file {pattern}")
    return tuple(map(str, found)), tuple(str(file.relative_to(folder).with_suffix("")) for file in found)


def _check_samples(path: Path, samples: list[Sample]) -> None:
    rows: dict[str, int] = {}
    for sample in samples:
        if sample.name in rows:
            raise InputError(
                f"{path}: rows {rows[sample.name]} and {sample.row} have the same sample name {sample.name!r}"
            )
        rows[sample.name] = sample.row
        if sample.label is None and any(other.label for other in samples):
            raise InputError(
                f"{path}: row {sample.row} ({sample.name}) has no label, but other rows have one"
            )
