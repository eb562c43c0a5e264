"""Hidden vectors as Parquet: a row for each position, or for each record, with its record's name.

Needs pyarrow, an extra of the installation (`ssm_seq[parquet]`).
"""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ssm_seq.errors import InputError
from ssm_seq.files import whole_file
from ssm_seq.inference.tracks_bigwig import Values

_BLOCK = 1 << 22  # values of a row group, and in memory


def check_installed() -> None:
    """Raises InputError without pyarrow."""
    if find_spec("pyarrow") is None:
        raise InputError("Parquet needs pyarrow: pip install 'ssm_seq[parquet]', or take NPY instead")


def write_positions(path: Path | str, records: Sequence[tuple[str, int]], read: Values, columns: int) -> None:
    """Write `record`, `position` (from 0) and `embedding` (`columns` float32) of all positions.

    read(record, start, end) gives (end - start, columns). The file appears whole or not at all.

    Raises:
        OSError: the disk is full, among others.
    """

    def groups() -> Iterator[dict]:
        step = max(1, _BLOCK // columns)
        for record, (name, length) in enumerate(records):
            for start in range(0, length, step):
                rows = read(record, start, min(start + step, length))
                places = np.arange(start, start + len(rows), dtype=np.int64)
                yield {"record": [name] * len(rows), "position": places, "embedding": rows}

    _write(path, groups(), columns, with_position=True)


def write_pooled(path: Path | str, names: Sequence[str], rows: NDArray[np.float32]) -> None:
    """Write columns `record` and `embedding` of rows (records, columns); whole or not at all."""
    _write(path, iter([{"record": list(names), "embedding": rows}]), rows.shape[1], with_position=False)


def _write(path: Path | str, groups: Iterator[dict], columns: int, with_position: bool) -> None:
    import pyarrow as pa
    from pyarrow.parquet import ParquetWriter

    vector = pa.list_(pa.field("element", pa.float32(), nullable=False), columns)
    fields = [pa.field("record", pa.dictionary(pa.int32(), pa.string()), nullable=False)]
    fields += [pa.field("position", pa.int64(), nullable=False)] if with_position else []
    schema = pa.schema([*fields, pa.field("embedding", vector, nullable=False)])
    # A file of ours, whose errors name what happened (pyarrow's own do not always).
    with whole_file(path) as partial, partial.open("wb") as file:
        writer = ParquetWriter(file, schema, compression="zstd")
        for group in groups:
            values = pa.array(np.ascontiguousarray(group["embedding"], np.float32).reshape(-1))
            filled = group | {
                "record": pa.array(group["record"]).dictionary_encode(),
                "embedding": pa.FixedSizeListArray.from_arrays(values, type=vector),
            }
            writer.write_table(pa.table([filled[name] for name in schema.names], schema=schema))
        writer.close()
