"""The metrics of a run, one JSON object a line, without gaps or repeats across interruptions."""

import json
import os
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from ssm_seq.errors import InputError
from ssm_seq.files import whole_file


class MetricsLog:
    """Appends to a JSON Lines file, and to TensorBoard's event files in `tensorboard` where that is given.

    step: lines after it are dropped on opening; they come from steps that will be repeated.

    Raises:
        InputError: TensorBoard is asked for and not installed.
    """

    def __init__(self, path: Path, step: int, tensorboard: Path | None = None) -> None:
        self.path = path
        _drop_after(path, step)
        self._file = path.open("a")
        self._events = _event_writer(tensorboard, step) if tensorboard else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        if self._events:
            self._events.close()

    def write(self, line: dict[str, Any]) -> None:
        """Append one line; it must have `step`."""
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()
        if self._events:
            for name, value in line.items():
                if name != "step":
                    self._events.add_scalar(name, value, line["step"])

    def sync(self) -> None:
        """Make what was written survive a power failure: to be called before a checkpoint counts on it."""
        os.fsync(self._file.fileno())

    def copy(self, path: Path) -> None:
        """Copy all lines to `path`, whole or not at all."""
        with whole_file(path) as partial:
            partial.write_bytes(self.path.read_bytes())


def _drop_after(path: Path, step: int) -> None:
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    with whole_file(path) as partial:
        partial.write_text(
            "".join(line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= step)
        )


def _event_writer(folder: Path, step: int) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise InputError(
            "optim.tensorboard=true needs the package tensorboard; install ssm_seq[tensorboard]"
        ) from error
    return SummaryWriter(str(folder), purge_step=step + 1)
